// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { seededRandom, VirtualClock } from '#lib/core/clock.ts';
import { type TimeoutNode, TimerWheel } from './wheel.ts';

class Node implements TimeoutNode {
  timeoutPrevious: TimeoutNode | null = null;
  timeoutNext: TimeoutNode | null = null;
  timeoutTick = 0;
  readonly firedAt: number[] = [];
  readonly #clock: VirtualClock;
  readonly #then: () => void;

  constructor(clock: VirtualClock, then: () => void = () => undefined) {
    this.#clock = clock;
    this.#then = then;
  }

  onTimeout(): void {
    this.firedAt.push(this.#clock.nowMs());
    this.#then();
  }
}

test('a timeout fires once, never early, at most two ticks late', () => {
  const clock = new VirtualClock();
  const wheel = new TimerWheel(clock);
  const random = seededRandom(3);
  const all: { node: Node; due: number }[] = [];
  for (let round = 0; round < 200; round++) {
    clock.advance(random() * 250);
    const delay = random() * (round % 10 === 0 ? 120_000 : 4000);
    const node = new Node(clock);
    wheel.schedule(node, clock.nowMs(), delay);
    all.push({ node, due: clock.nowMs() + delay });
  }
  clock.advance(200_000);
  for (const { node, due } of all) {
    assert.equal(node.firedAt.length, 1);
    const late = (node.firedAt[0] as number) - due;
    assert.ok(late >= 0 && late <= 200, `late by ${late}`);
  }
  assert.equal(wheel.count, 0);
  assert.equal(clock.pendingTimers, 0, 'an empty wheel does not tick');
});

test('cancelled and moved timeouts do not fire at their old time', () => {
  const clock = new VirtualClock();
  const wheel = new TimerWheel(clock);
  const cancelled = new Node(clock);
  const moved = new Node(clock);
  wheel.schedule(cancelled, 0, 1000);
  wheel.schedule(moved, 0, 1000);
  clock.advance(500);
  wheel.cancel(cancelled);
  wheel.cancel(cancelled);
  wheel.schedule(moved, clock.nowMs(), 3000);
  assert.equal(wheel.count, 1);
  clock.advance(10_000);
  assert.deepEqual(cancelled.firedAt, []);
  assert.deepEqual(moved.firedAt, [3500]);
});

test('a callback may cancel and set any timeout, its own slot included', () => {
  const clock = new VirtualClock();
  const wheel = new TimerWheel(clock);
  const victim = new Node(clock);
  const again: Node = new Node(clock, () => {
    if (again.firedAt.length < 3) wheel.schedule(again, clock.nowMs(), 100);
  });
  const killer = new Node(clock, () => wheel.cancel(victim));
  wheel.schedule(killer, 0, 1000);
  wheel.schedule(again, 0, 1000);
  wheel.schedule(victim, 0, 1000);
  clock.advance(5000);
  assert.deepEqual(victim.firedAt, []);
  assert.deepEqual(again.firedAt, [1000, 1100, 1200]);
});

test('after a long stall everything due fires', () => {
  let now = 0;
  let turn: (() => void) | undefined;
  const clock = {
    wallMs: () => now,
    nowMs: () => now,
    after: (_delay: number, run: () => void) => {
      turn = run;
      return { cancel: () => undefined };
    },
  };
  const wheel = new TimerWheel(clock);
  const fired: number[] = [];
  for (const delay of [100, 5000, 51_000, 51_300, 60_000]) {
    wheel.schedule(
      { timeoutPrevious: null, timeoutNext: null, timeoutTick: 0, onTimeout: () => fired.push(delay) },
      0,
      delay,
    );
  }
  now = 1_000_000;
  turn?.();
  assert.equal(fired.length, 5);
});
