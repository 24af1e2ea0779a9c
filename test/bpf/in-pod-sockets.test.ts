// SPDX-License-Identifier: Apache-2.0
// Visits to other network namespaces and the sockets made there, on the main thread and in workers.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readlinkSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';
import { MeshError } from '#lib/core/errors.ts';
import { DescriptorTable } from '#lib/net/descriptor-table.ts';
import { close, getsockopt, SO_NETNS_COOKIE, SOL_SOCKET, stableBytes } from '#lib/net/native.ts';
import { closeNamespace, inNamespace, netnsCookie, openNamespace } from '#lib/net/netns.ts';
import { listeningSockets, namespaceAddresses, watchAddresses } from '#lib/net/pod-sockets.ts';
import { openListener, openSockets } from '#lib/net/sockets.ts';
import { formatIp } from '#lib/core/addresses.ts';
import { removeNamespace, shell } from './harness.ts';

const name = 'nmb-sockets-a';

describe('sockets in a pod', () => {
  let netnsFd: number;
  before(() => {
    removeNamespace(name);
    shell('ip', 'netns', 'add', name);
    netnsFd = openNamespace(`/run/netns/${name}`);
  });
  after(() => {
    closeNamespace(netnsFd);
    removeNamespace(name);
  });

  const here = (): string => readlinkSync('/proc/thread-self/ns/net');

  function cookieOf(fd: number): bigint {
    const value = stableBytes(8);
    const length = stableBytes(4);
    length.writeUInt32LE(8);
    assert.equal(getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, value, length), 0);
    return value.readBigUInt64LE();
  }

  it('come back from a visit, also when it throws', () => {
    const home = here();
    assert.notEqual(
      inNamespace(netnsFd, () => here()),
      home,
    );
    assert.throws(() =>
      inNamespace(netnsFd, () => {
        throw new Error('on purpose');
      }),
    );
    assert.equal(here(), home);
  });

  it('refuse a visit within a visit, and what is no namespace', () => {
    const netnsError = (error: unknown): boolean => error instanceof MeshError && error.code === 'MESH_NETNS';
    assert.throws(() => inNamespace(netnsFd, () => inNamespace(netnsFd, () => 1)), netnsError);
    assert.throws(() => inNamespace(1, () => 1), netnsError);
    assert.throws(() => openNamespace('/run/netns/nonexistent'), netnsError);
  });

  it('are of the pod and not of the agent', () => {
    const cookie = netnsCookie(netnsFd);
    const own = openNamespace('/proc/self/ns/net');
    assert.notEqual(netnsCookie(own), cookie);
    closeNamespace(own);
    const fds = openSockets(netnsFd, 6, 3);
    assert.equal(fds.length, 3);
    for (const fd of fds) {
      assert.equal(cookieOf(fd), cookie);
      close(fd);
    }
  });

  it('listen on loopback and outside ip_local_port_range, wherever that lies', () => {
    shell('ip', '-n', name, 'link', 'set', 'lo', 'up');
    for (const [range, low, high] of [
      ['32768 60999', 61_000, 65_535],
      ['40000 64999', 65_000, 65_535],
      ['40000 65535', 35_904, 39_999],
    ] as const) {
      inNamespace(netnsFd, () => writeFileSync('/proc/sys/net/ipv4/ip_local_port_range', range));
      const fds = [openListener(netnsFd, 4), openListener(netnsFd, 6)];
      const found = listeningSockets(netnsFd);
      assert.deepEqual(
        found.map(({ ip, v6only }) => `${formatIp(ip)} ${v6only}`),
        ['127.0.0.1 false', '::1 true'],
      );
      for (const { port } of found) assert.ok(port >= low && port <= high, `${port} for ${range}`);
      for (const fd of fds) close(fd);
    }
  });

  it('try further ports when one is taken, and say so when all are', () => {
    inNamespace(netnsFd, () => writeFileSync('/proc/sys/net/ipv4/ip_local_port_range', '32768 60999'));
    let next = 62_000;
    const first = openListener(netnsFd, 4, () => 62_000);
    const second = openListener(netnsFd, 4, () => next++);
    assert.deepEqual(
      listeningSockets(netnsFd)
        .map(({ port }) => port)
        .sort((x, y) => x - y),
      [62_000, 62_001],
    );
    assert.throws(
      () => openListener(netnsFd, 4, () => 62_000),
      (error) => error instanceof MeshError && error.code === 'MESH_LIMIT',
    );
    close(first);
    close(second);
    assert.deepEqual(listeningSockets(netnsFd), []);
  });

  it('learn addresses that come and go', async () => {
    const changes = { count: 0, wake: (): void => undefined };
    const end = watchAddresses(netnsFd, () => {
      changes.count++;
      changes.wake();
    });
    const keepAlive = setInterval(() => undefined, 1000);
    const changed = new Promise<void>((resolve) => {
      changes.wake = resolve;
    });
    shell('ip', '-n', name, 'addr', 'add', '10.1.2.3/32', 'dev', 'lo');
    await changed;
    clearInterval(keepAlive);
    assert.deepEqual(namespaceAddresses(netnsFd).map(formatIp), ['127.0.0.1', '10.1.2.3', '::1']);
    end();
  });

  it('can be made by workers, and are swept when one dies', async () => {
    const table = DescriptorTable.create(64);
    const cookie = netnsCookie(netnsFd);
    const code = `
      import { parentPort, workerData } from 'node:worker_threads';
      const { openSockets } = await import(workerData.sockets);
      const { DescriptorTable } = await import(workerData.table);
      const table = new DescriptorTable(workerData.shared);
      parentPort.postMessage(openSockets(workerData.netnsFd, 4, 8, table));
      setInterval(() => undefined, 1000);
    `;
    const lib = (path: string): string => new URL(`../../lib/net/${path}`, import.meta.url).href;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
      workerData: {
        netnsFd,
        shared: table.shared,
        sockets: lib('sockets.ts'),
        table: lib('descriptor-table.ts'),
      },
      trackUnmanagedFds: false,
    });
    const [fds] = (await once(worker, 'message')) as [number[]];
    assert.equal(fds.length, 8);
    await worker.terminate();
    const left = table.sweep();
    assert.deepEqual(
      left.sort((x, y) => x - y),
      fds.sort((x, y) => x - y),
    );
    for (const fd of left) {
      assert.equal(cookieOf(fd), cookie, 'still open after the worker');
      assert.equal(close(fd), 0);
    }
    assert.deepEqual(table.sweep(), []);
  });

  it('close again what they opened when the table of descriptors is full', () => {
    const table = DescriptorTable.create(2);
    const before = openSockets(netnsFd, 4, 1);
    assert.throws(
      () => openSockets(netnsFd, 4, 3, table),
      (error) => error instanceof MeshError && error.code === 'MESH_LIMIT',
    );
    assert.deepEqual(table.sweep(), []);
    const after = openSockets(netnsFd, 4, 1);
    assert.deepEqual(after, [(before[0] ?? 0) + 1], 'numbers are free again');
    for (const fd of [...before, ...after]) close(fd);
  });
});
