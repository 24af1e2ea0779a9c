// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { createConcurrency } from './concurrency.ts';

it('never runs more than it may, keeps the order, and goes on after failures', async () => {
  const concurrency = createConcurrency({ what: 'tests', runningMax: 2, waitingMax: 100 });
  let running = 0;
  let most = 0;
  const order: number[] = [];
  const results = await Promise.allSettled(
    Array.from({ length: 20 }, (_, index) =>
      concurrency.run(async () => {
        most = Math.max(most, ++running);
        order.push(index);
        await new Promise(setImmediate);
        running--;
        if (index % 3 === 0) throw new Error('on purpose');
        return index;
      }),
    ),
  );
  assert.equal(most, 2);
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  );
  assert.equal(results.filter(({ status }) => status === 'rejected').length, 7);
});

it('refuses at its limit, without starting the task', async () => {
  const concurrency = createConcurrency({ what: 'tests', runningMax: 1, waitingMax: 1 });
  let finish: (() => void) | undefined;
  const first = concurrency.run(() => new Promise<void>((resolve) => (finish = resolve)));
  const second = concurrency.run(() => Promise.resolve('second'));
  let started = false;
  await assert.rejects(
    concurrency.run(() => {
      started = true;
      return Promise.resolve();
    }),
    { code: 'MESH_LIMIT' },
  );
  assert.equal(started, false);
  finish?.();
  await first;
  assert.equal(await second, 'second');
});
