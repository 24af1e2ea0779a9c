// SPDX-License-Identifier: Apache-2.0
// What proxy workers are made of: threads of this process, duplicates of descriptors, tables of those that a thread
// holds beside Node.js. Decides nothing about them (proxy-workers.ts).

import { fstatSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { errnoName } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { DescriptorTable } from '#lib/net/descriptor-table.ts';
import { checked, close, dup } from '#lib/net/native.ts';
import { closeLost } from '#lib/net/reset.ts';
import type { ProxyWorkersOptions } from './proxy-workers.ts';

/** Descriptors that one worker may hold beside Node.js: as many as Linux gives a process. Costs memory as far as it is used. */
const DESCRIPTORS_MAX = 1_048_576;
/** USER_HZ is the same on all machines that we build for. */
const CLOCK_TICK_MS = 10;
/** More did not lower p99. */
const YOUNG_GENERATION_MB = 12;

type Threads = Pick<
  ProxyWorkersOptions,
  'spawn' | 'duplicate' | 'inodeOf' | 'closeDuplicate' | 'descriptors' | 'usageOf' | 'wedged'
>;

export const workerThreads = (program: URL, log: Log): Threads => ({
  spawn: (workerData) =>
    new Worker(program, {
      workerData,
      name: `proxy-${workerData.workerIndex}`,
      // Descriptors that koffi opens are closed by koffi and by the sweep, never by Node.js.
      trackUnmanagedFds: false,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    }),
  duplicate: (fd) => checked('dup', dup(fd), 'handing a listener to a worker'),
  inodeOf: (fd) => {
    try {
      return fstatSync(fd).ino;
    } catch (error) {
      if (errnoName(error) === 'EBADF') return undefined;
      throw error;
    }
  },
  closeDuplicate: (fd) => void close(fd),
  descriptors: {
    make: () => DescriptorTable.create(DESCRIPTORS_MAX).shared,
    sweep: (table) => {
      for (const fd of new DescriptorTable(table).sweep()) closeLost(fd);
    },
  },
  usageOf: (thread) => {
    let text: string;
    try {
      text = readFileSync(`/proc/self/task/${thread}/stat`, 'latin1');
    } catch (error) {
      if (errnoName(error) === 'ENOENT' || errnoName(error) === 'ESRCH') return undefined;
      throw error;
    }
    // proc(5): state is the third field, utime and stime are the 14th and 15th; the second may hold anything.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return {
      usedMs: (Number(fields[11]) + Number(fields[12])) * CLOCK_TICK_MS,
      runnable: fields[0] === 'R',
    };
  },
  wedged: (worker) => {
    log.error({ worker }, 'a proxy worker can neither serve nor be ended; the agent is started anew');
    // An orderly exit would wait for that thread.
    process.kill(process.pid, 'SIGKILL');
  },
});
