// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { FairStarts, STARTS_PER_TURN, StartQueue } from './fair-starts.ts';

describe('fair starts', () => {
  test('what comes alone starts at once, turn after turn', async () => {
    const starts = new FairStarts();
    const queue = new StartQueue();
    let held = 0;
    queue.onHeld = () => held++;
    for (let at = 0; at < 5; at++) {
      let ran = false;
      starts.start(queue, () => (ran = true));
      assert.ok(ran);
      await turn();
      await turn();
    }
    assert.equal(held, 0);
  });

  test('a burst starts in order, a few a turn', async () => {
    const starts = new FairStarts();
    const queue = new StartQueue();
    let held = 0;
    queue.onHeld = () => held++;
    const order: number[] = [];
    const most: number[] = [];
    for (let at = 0; at < 20; at++) starts.start(queue, () => order.push(at));
    assert.equal(order.length, STARTS_PER_TURN);
    assert.equal(held, 20 - STARTS_PER_TURN);
    while (order.length < 20) {
      const before = order.length;
      await turn();
      most.push(order.length - before);
    }
    assert.ok(Math.max(...most) <= STARTS_PER_TURN, String(most));
    assert.deepEqual(
      order,
      Array.from({ length: 20 }, (_, at) => at),
    );
  });

  test('who comes after the burst of another waits for one start of it, not for all', async () => {
    const starts = new FairStarts();
    const [greedy, modest] = [new StartQueue(), new StartQueue()];
    let before = 0;
    for (let at = 0; at < 1_000; at++) starts.start(greedy, () => before++);
    const reached = Promise.withResolvers<number>();
    starts.start(modest, () => reached.resolve(before));
    assert.ok((await reached.promise) <= STARTS_PER_TURN + 1);
  });

  test('what a start starts waits for its turn, and none is forgotten', async () => {
    const starts = new FairStarts();
    const queue = new StartQueue();
    const done = Promise.withResolvers<void>();
    let left = 30;
    const again = (): void => {
      if (--left === 0) done.resolve();
      else starts.start(queue, again);
    };
    starts.start(queue, again);
    assert.ok(left >= 30 - STARTS_PER_TURN);
    await done.promise;
  });
});
