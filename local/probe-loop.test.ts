// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ProbeVerdict, runProbe } from './probe-loop.ts';

const times = {
  initialDelayMs: 500,
  periodMs: 1000,
  eagerPeriodMs: 100,
  successThreshold: 1,
  failureThreshold: 3,
};

test('a state changes when its threshold is reached in a row', () => {
  const verdict = new ProbeVerdict({ ...times, successThreshold: 2 });
  const changes = [true, true, false, false, true, false, false, false, true, true].map((r) =>
    verdict.record(r),
  );
  assert.deepEqual(changes, [false, true, false, false, false, false, false, true, false, true]);
});

test('probes are eager until the first success, then keep their period; an abort ends them', async () => {
  const waits: number[] = [];
  const abort = new AbortController();
  const results = [undefined, 'no', undefined, undefined].values();
  const states: boolean[] = [];
  await runProbe(
    times,
    async () => (waits.length === 1 ? 'not yet' : results.next().value),
    (success) => {
      states.push(success);
      return 'go on';
    },
    abort.signal,
    async (ms) => {
      waits.push(ms);
      if (waits.length === 5) abort.abort();
    },
  );
  assert.deepEqual(waits, [500, 100, 1000, 1000, 1000]);
  assert.deepEqual(states, [true]);
});
