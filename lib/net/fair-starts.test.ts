// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { FairStarts, STARTS_PER_TURN, type Start, StartQueue, UNDER_WAY_MAX } from './fair-starts.ts';

/** Is over when it has begun. */
const ended =
  (what: () => void): Start =>
  (over) => {
    what();
    over();
  };

describe('fair starts', () => {
  test('what comes alone starts at once, turn after turn', async () => {
    const starts = new FairStarts();
    const queue = new StartQueue();
    let held = 0;
    queue.onHeld = () => held++;
    for (let at = 0; at < 5; at++) {
      let ran = false;
      starts.start(
        queue,
        ended(() => (ran = true)),
      );
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
    for (let at = 0; at < 20; at++)
      starts.start(
        queue,
        ended(() => order.push(at)),
      );
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
    for (let at = 0; at < 1_000; at++)
      starts.start(
        greedy,
        ended(() => before++),
      );
    const reached = Promise.withResolvers<number>();
    starts.start(
      modest,
      ended(() => reached.resolve(before)),
    );
    assert.ok((await reached.promise) <= STARTS_PER_TURN + 1);
  });

  test('what a start starts waits for its turn, and none is forgotten', async () => {
    const starts = new FairStarts();
    const queue = new StartQueue();
    const done = Promise.withResolvers<void>();
    let left = 30;
    const again = (): void => {
      if (--left === 0) done.resolve();
      else starts.start(queue, ended(again));
    };
    starts.start(queue, ended(again));
    assert.ok(left >= 30 - STARTS_PER_TURN);
    await done.promise;
  });

  test('only so many of a queue are under way; one that ends lets the next one begin', async () => {
    const starts = new FairStarts();
    const [greedy, modest] = [new StartQueue(), new StartQueue()];
    const underWay: (() => void)[] = [];
    for (let at = 0; at < 3 * UNDER_WAY_MAX; at++) starts.start(greedy, (over) => underWay.push(over));
    for (let at = 0; at < 2 * UNDER_WAY_MAX; at++) await turn();
    assert.equal(underWay.length, UNDER_WAY_MAX);
    let ran = false;
    starts.start(
      modest,
      ended(() => (ran = true)),
    );
    assert.ok(ran, 'another queue does not wait');
    for (let at = UNDER_WAY_MAX; at < 2 * UNDER_WAY_MAX; at++) {
      underWay.shift()?.();
      await turn();
      await turn();
      assert.equal(underWay.length, UNDER_WAY_MAX);
    }
  });

  test('those that do not end hold up the others for a moment only', async () => {
    const starts = new FairStarts();
    const queue = new StartQueue();
    const underWay: (() => void)[] = [];
    const all = Promise.withResolvers<void>();
    for (let at = 0; at < 3 * UNDER_WAY_MAX; at++) {
      starts.start(queue, (over) => {
        if (underWay.push(over) === 3 * UNDER_WAY_MAX) all.resolve();
      });
    }
    await all.promise;
    for (const over of underWay) over();
    assert.equal(queue.underWay, 0);
  });
});
