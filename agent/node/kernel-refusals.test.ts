// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { watchKernelRefusals } from './kernel-refusals.ts';

test('refusals of the kernel are told once a look, with the pod that has most in flight', () => {
  const clock = new VirtualClock();
  const lines: LogLine[] = [];
  const counters = new Map([['inflight_full', 7]]);
  const watch = watchKernelRefusals({
    counters: () => new Map(counters),
    busiest: () => ({ pod: 'shop/flood', inflight: 50 }),
    clock,
    log: recordingLog(lines),
  });
  clock.advance(60_000);
  assert.equal(lines.length, 0, 'what an earlier agent has told');
  counters.set('inflight_full', 17);
  clock.advance(60_000);
  assert.equal(lines.length, 1);
  assert.match(lines[0]?.message ?? '', /NODEMESH_INFLIGHT_MAX/);
  assert.match(JSON.stringify(lines[0]), /"refused":10.*shop\/flood/);
  watch.close();
  assert.equal(clock.pendingTimers, 0);
});
