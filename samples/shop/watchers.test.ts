// SPDX-License-Identifier: Apache-2.0
// Orders and recommendations as they run, and the customers who watch them.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, it } from 'node:test';
import { Recommendations } from './recommendation-client.ts';
import { ask } from './service.ts';
import { watchOrders } from './watchers.ts';

/** Below those that the kernel gives to whoever asks for any: nobody takes it before it is used. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 30_000);
    const server = createServer().listen(port);
    const free = await once(server, 'listening').then(
      () => true,
      () => false,
    );
    if (!free) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
}

async function start(file: string, port: number, env: object = {}): Promise<ChildProcess> {
  const child = spawn(process.execPath, [join(import.meta.dirname, file)], {
    env: { ...process.env, PORT: String(port), ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of createInterface({ input: child.stdout })) if (line.includes('listening')) break;
  return child;
}

describe('live orders', () => {
  let orders: ChildProcess;
  let base = '';
  before(async () => {
    const port = await freePort();
    base = `http://127.0.0.1:${port}`;
    orders = await start('orders.ts', port);
  });
  after(() => orders.kill('SIGKILL'));

  it('have a page, and come over its WebSocket in order', async () => {
    const shown = await ask(base, 'GET', '/', 'm');
    assert.equal(shown.status, 200);
    assert.match(shown.body, /<title>Live orders<[^]*\/live/);
    const totals = { orders: 0, echoes: 0 };
    const stop = new AbortController();
    const watched = watchOrders({ ordersUrl: base, marker: 'm', stop: stop.signal }, totals);
    for (let count = 0; count < 15; count++)
      assert.equal((await ask(base, 'POST', '/orders', 'm', { user: 'anna' })).status, 201);
    while (totals.orders < 10 || totals.echoes < 1) await Promise.race([watched, turn()]);
    stop.abort();
    await watched;
  });

  it('a message that is not as it should be is seen, and so is the end of the server', async () => {
    const stop = new AbortController().signal;
    // Those that are kept carry another marker.
    await assert.rejects(
      watchOrders({ ordersUrl: base, marker: 'other', stop }, { orders: 0, echoes: 0 }),
      /without the marker/,
    );
    const totals = { orders: 0, echoes: 0 };
    const watched = watchOrders({ ordersUrl: base, marker: 'm', stop }, totals);
    while (totals.orders < 2) await Promise.race([watched, turn()]);
    orders.kill('SIGTERM');
    await assert.rejects(watched, /closed with 1001/);
    assert.deepEqual(await once(orders, 'exit'), [0, null]);
  });
});

describe('recommendations', () => {
  it('come over gRPC, singly and as a stream; a tenth of the single ones fails', async () => {
    const port = await freePort();
    const server = await start('recommendation.ts', port);
    const client = new Recommendations(`127.0.0.1:${port}`);
    try {
      const answers = await Promise.allSettled(
        Array.from({ length: 20 }, async () => client.recommend('anna', 3, 'm')),
      );
      const bad = answers.filter((answer) => answer.status === 'rejected');
      assert.equal(bad.length, 2);
      for (const { reason } of bad) assert.match(String(reason), /13 INTERNAL/);
      for (const answer of answers)
        if (answer.status === 'fulfilled') assert.equal(answer.value.productIds.length, 3);
      const trends = await client.watchTrends(3, 'm');
      assert.deepEqual(
        trends.map(({ number }) => number),
        [1, 2, 3],
      );
      server.kill('SIGTERM');
      assert.deepEqual(await once(server, 'exit'), [0, null]);
    } finally {
      client.close();
      server.kill('SIGKILL');
    }
  });
});

const turn = (): Promise<void> => new Promise((resolve) => void setTimeout(resolve, 20));
