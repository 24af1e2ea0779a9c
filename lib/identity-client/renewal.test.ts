// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { it } from 'node:test';
import * as fc from 'fast-check';
import { renewalDelayMs, retryDelayMs } from './renewal.ts';

const HOUR_MS = 3_600_000;
const chance = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

it('renews between 65 and 75 % of what remains, at least a second and at most a day away', () => {
  fc.assert(
    fc.property(chance, (random) => {
      const delay = renewalDelayMs(24 * HOUR_MS, () => random);
      return delay >= 24 * HOUR_MS * 0.65 && delay <= 24 * HOUR_MS * 0.75;
    }),
  );
  assert.equal(
    renewalDelayMs(-5, () => 0.5),
    1000,
  );
  assert.equal(
    renewalDelayMs(1e12, () => 0.5),
    24 * HOUR_MS,
  );
});

it('tries again after doubling, jittered pauses up to the most', () => {
  fc.assert(
    fc.property(chance, fc.integer({ min: 1, max: 1000 }), (random, failures) => {
      const delay = retryDelayMs(failures, 30_000, () => random);
      const full = Math.min(30_000, 200 * 2 ** (failures - 1));
      return delay >= full / 2 && delay <= full;
    }),
  );
});
