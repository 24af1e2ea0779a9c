// SPDX-License-Identifier: Apache-2.0
// What was a pause is left out of a time, and nothing else is.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { countedMs, pauses } from './pauses.ts';
import { until } from './until.ts';

it('of a time the pauses in it are left out, as far as they are in it', () => {
  const known = [
    { fromMs: 1000, toMs: 3000 },
    { fromMs: 5000, toMs: 5500 },
  ];
  assert.equal(countedMs(0, 1000, known), 1000);
  assert.equal(countedMs(0, 4000, known), 2000);
  assert.equal(countedMs(2000, 10_000, known), 6500);
  assert.equal(countedMs(1500, 2500, known), 0);
  assert.equal(countedMs(4000, 3000, known), -1000);
});

it('a thread that is busy elsewhere is seen to pause', async () => {
  const fromMs = Date.now();
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
  const toMs = Date.now();
  await until('the pause', 20_000, () => pauses.some((one) => one.toMs >= toMs));
  assert.ok(countedMs(fromMs, toMs) < 150, `${countedMs(fromMs, toMs)} of ${toMs - fromMs} ms`);
});
