// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { close } from './native.ts';
import { EPOLLIN, plainReadiness } from './readiness.ts';
import { openPair } from './socket-pair.ts';

describe('readiness', () => {
  test('tells as long as it holds, and no more of what is not watched', async () => {
    const readiness = plainReadiness();
    const [near, far] = openPair();
    const told: number[] = [];
    const number = readiness.watch({ fd: near, onReady: (events) => void told.push(events) }, EPOLLIN);
    await sleep(20);
    assert.deepEqual(told, []);
    // The end of the other side is something to read.
    close(far);
    while (told.length < 3) await sleep(1);
    readiness.remove(number);
    const before = told.length;
    await sleep(20);
    assert.equal(told.length, before);
    close(near);
    readiness.close();
  });

  test('what is put off outside of a turn runs in the next; what that puts off, in the same', async () => {
    const readiness = plainReadiness();
    const order: string[] = [];
    await new Promise<void>((resolve) => {
      readiness.soon({
        run: () => {
          order.push('first');
          readiness.soon({
            run: () => {
              order.push('second');
              setImmediate(resolve);
            },
          });
          setImmediate(() => order.push('next turn'));
        },
      });
      order.push('now');
    });
    assert.deepEqual(order.slice(0, 3), ['now', 'first', 'second']);
    readiness.close();
  });

  for (const how of ['spin', 'throw'] as const) {
    test(`a busy thread that is ended (${how}) does not take the process with it`, async () => {
      for (let round = 0; round < 3; round++) {
        const worker = new Worker(new URL('./readiness-fixture.ts', import.meta.url), {
          trackUnmanagedFds: false,
        });
        const failed = new Promise((resolve) => {
          worker.on('error', resolve);
        });
        const [port] = (await once(worker, 'message')) as [number];
        const echoed: Buffer[] = [];
        const clients = Array.from({ length: 20 }, () => {
          const client = connect(port, '127.0.0.1');
          client.on('error', () => undefined);
          client.on('data', (bytes: Buffer) => {
            echoed.push(bytes);
            client.write('x');
          });
          client.write('x');
          return client;
        });
        while (echoed.length < 200) await sleep(1);
        worker.postMessage(how);
        if (how === 'throw') await failed;
        else await sleep(20);
        await worker.terminate();
        for (const client of clients) client.destroy();
      }
    });
  }
});
