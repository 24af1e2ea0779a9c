// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { describe, it } from 'node:test';
import { errnoName } from '#lib/core/errors.ts';
import { silentLog } from '#lib/core/log.ts';
import { DescriptorTable } from '#lib/net/descriptor-table.ts';
import { close, dup, threadNumber } from '#lib/net/native.ts';
import { listenPlain } from '#lib/net/plain-fixture.ts';
import { plainReadiness } from '#lib/net/readiness.ts';
import { workerThreads } from './worker-threads.ts';

describe('what a worker leaves when it ends', () => {
  it('is broken off: whoever waits there for an answer sees an error and no end', async (t) => {
    const readiness = plainReadiness();
    const server = listenPlain(readiness);
    t.after(() => {
      server.listener.close();
      readiness.close();
    });
    const dial = async (): Promise<{ client: Socket; fd: number }> => {
      const client = connect(server.port, '127.0.0.1');
      await once(client, 'connect');
      return { client, fd: await server.accepted() };
    };
    const { descriptors } = workerThreads(new URL('file:///none'), silentLog);
    const { client, fd } = await dial();
    const shared = descriptors.make();
    const table = new DescriptorTable(shared);
    for (const one of [fd, dup(server.listener.fd)]) table.add(one);
    const ended = new Promise((resolve) => {
      client.once('end', () => resolve('FIN'));
      client.once('error', (error) => resolve(errnoName(error)));
    });
    client.resume();
    descriptors.sweep(shared);
    assert.equal(await ended, 'ECONNRESET');

    // The listener lives on in another's hand, and what that accepts ends as it should.
    const next = await dial();
    next.client.resume();
    const over = once(next.client, 'end');
    close(next.fd);
    await over;
  });
});

describe('what a thread has used', () => {
  it('is told by its number: a busy one has used what it was given', () => {
    const { usageOf } = workerThreads(new URL('file:///none'), silentLog);
    const own = threadNumber();
    const before = usageOf(own)?.usedMs ?? Infinity;
    const deadline = performance.now() + 60_000;
    while ((usageOf(own)?.usedMs ?? 0) < before + 30) assert.ok(performance.now() < deadline);
    assert.equal(usageOf(own)?.runnable, true);
    assert.equal(usageOf(0), undefined);
  });
});
