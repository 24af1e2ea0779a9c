// SPDX-License-Identifier: Apache-2.0
// Entry of a proxy worker thread: joins the worker proper (pods/proxy-worker.ts) with its thread, the real kernel and
// its beat. Wiring only. Started with `trackUnmanagedFds: false`, since its descriptors come from elsewhere.

import { randomUUID } from 'node:crypto';
import { flushCompileCache } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';
import { createSocketRecords, type KernelDescription } from '#lib/bpf/socket-records.ts';
import { systemClock } from '#lib/core/clock.ts';
import { invariant } from '#lib/core/errors.ts';
import { createLog } from '#lib/log/pino.ts';
import { DescriptorTable } from '#lib/net/descriptor-table.ts';
import { checked, close, dup, threadNumber } from '#lib/net/native.ts';
import { proveUserBuffer } from '#lib/net/user-buffer.ts';
import { openPair } from '#lib/net/socket-pair.ts';
import { openSockets } from '#lib/net/sockets.ts';
import type { WorkerKernel } from './accept/kernel.ts';
import { WorkerLoads } from './accept/spread.ts';
import type { FromWorker, ToWorker, WorkerStart } from './model.ts';
import { createProxyWorker } from './pods/proxy-worker.ts';

const BEAT_MS = 250;

const start = workerData as WorkerStart;
const port = parentPort;
invariant(port !== null, 'agent/proxy/worker.ts runs as a worker thread');
const post = (message: FromWorker): void => port.postMessage(message);
const log = createLog('proxy', start.logLevel).child({ worker: start.workerIndex });

const beats = new Int32Array(start.beats);
Atomics.store(beats, 1, threadNumber());
setInterval(() => Atomics.add(beats, 0, 1), BEAT_MS);

const worker = createProxyWorker({
  id: randomUUID(),
  anchorsPem: start.anchorsPem,
  ...(start.workers === undefined ? {} : { workers: start.workers }),
  sameNode: start.sameNode,
  permitKey: Buffer.from(start.permitKey, 'base64'),
  ...(start.controlPlaneNamespace === undefined
    ? {}
    : { controlPlaneNamespace: start.controlPlaneNamespace }),
  ...(start.failfastMs === undefined ? {} : { failfastMs: start.failfastMs }),
  ...(start.podConnectionsMax === undefined ? {} : { connectionsMax: start.podConnectionsMax }),
  ...(start.descriptorsMax === undefined ? {} : { descriptorsMax: start.descriptorsMax }),
  ...(start.loads === undefined ? {} : { loads: new WorkerLoads(start.loads, start.workerIndex) }),
  kernel: kernelOf(start),
  post,
  clock: systemClock,
  random: Math.random,
  log,
});

// Before the first listener: TLS connections read as proved here.
await proveUserBuffer(log);
port.on('message', (message: ToWorker) => worker.handle(message));
post({ type: 'ready' });
// For the next start (agent/main.ts says why); the other threads' modules are not these.
flushCompileCache();

function kernelOf({ kernel, descriptors }: WorkerStart): WorkerKernel {
  const records = createSocketRecords(kernel as KernelDescription);
  const table = new DescriptorTable(descriptors);
  const forget = (fd: number): void => table.remove(fd);
  const closeDescriptor = (fd: number): void => {
    forget(fd);
    close(fd);
  };
  return {
    ...records,
    openSockets: (netnsFd, family, count) => openSockets(netnsFd, family, count, table),
    openPair: () => {
      const pair = openPair();
      try {
        for (const fd of pair) table.add(fd);
      } catch (error) {
        for (const fd of pair) closeDescriptor(fd);
        throw error;
      }
      return pair;
    },
    duplicate: (fd) => checked('dup', dup(fd), 'handing a connection over'),
    keep: (fd) => table.add(fd),
    // libuv owns it now, and closes it when the thread ends.
    handOver: forget,
    closeDescriptor,
  };
}
