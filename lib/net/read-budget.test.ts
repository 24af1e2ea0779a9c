// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { openTcp } from './plain-fixture.ts';
import { PlainSocket, SHARED_BUFFER_BYTES } from './plain-socket.ts';
import { plainReadiness } from './readiness.ts';
import { ReadBudget, TURN_BYTES } from './read-budget.ts';

describe('read budget', () => {
  test('stops who has used it up, lets go on in order, sixteen a turn', async () => {
    let stopped = 0;
    const budget = new ReadBudget(() => stopped++);
    const order: number[] = [];
    const reader = (index: number) => ({ release: () => void order.push(index) });
    assert.equal(budget.take(TURN_BYTES - 1, 0, reader(-1)), true);
    for (let index = 0; index < 40; index++) assert.equal(budget.take(1, 0, reader(index)), false);
    assert.equal(stopped, 40);
    assert.deepEqual(order, []);
    while (order.length === 0) await turn();
    assert.equal(order.length, 16);
    while (order.length < 40) await turn();
    assert.deepEqual(
      order,
      Array.from({ length: 40 }, (_, index) => index),
    );
    assert.equal(budget.held, 0);
    assert.equal(budget.take(TURN_BYTES / 4, 0, reader(41)), true);
  });

  test('work that took long is made up for by turns without reading', async () => {
    const budget = new ReadBudget(() => undefined);
    const released = Promise.withResolvers<void>();
    assert.equal(budget.take(65_536, 20, { release: () => released.resolve() }), false);
    let turns = 0;
    let running = true;
    const count = (): void => {
      turns++;
      if (running) setImmediate(count);
    };
    setImmediate(count);
    await released.promise;
    running = false;
    assert.ok(turns >= 9 && turns <= 11, `after ${turns} turns`);
  });

  test('many small reads use it up too', () => {
    const budget = new ReadBudget(() => undefined);
    let reads = 0;
    while (budget.take(1, 0, { release: () => undefined })) reads++;
    assert.ok(reads > 100 && reads < 1_000, String(reads));
  });

  test('a socket reads its share a turn and loses nothing', { timeout: 60_000 }, async (t) => {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const budget = new ReadBudget(() => undefined);
    const total = 64 * TURN_BYTES;
    let read = 0;
    let most = 0;
    let now = 0;
    const done = Promise.withResolvers<void>();
    const client = new PlainSocket(plainReadiness(), openTcp());
    client.budget = budget;
    client.onBytes = (_buffer, length) => {
      read += length;
      now += length;
      if (read === total) done.resolve();
    };
    const { port } = server.address() as AddressInfo;
    client.on('connect', () => client.resume());
    client.connect('127.0.0.1', port);
    const [peer] = (await once(server, 'connection')) as [Socket];
    t.after(() => {
      server.close();
      peer.destroy();
      client.socket.destroy();
    });
    const piece = Buffer.alloc(TURN_BYTES);
    for (let at = 0; at < total; at += TURN_BYTES) peer.write(piece);
    const count = (): void => {
      most = Math.max(most, now);
      now = 0;
      if (read < total) setImmediate(count);
    };
    setImmediate(count);
    await done.promise;
    assert.ok(most <= TURN_BYTES + SHARED_BUFFER_BYTES, `${most} bytes in one turn`);
  });
});
