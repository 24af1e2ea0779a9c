// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { seededRandom } from '#lib/core/clock.ts';
import { createBackOff } from './back-off.ts';

test('pauses grow to 5 s and no further, and begin anew after a success', () => {
  const longest = createBackOff(() => 1);
  const pauses = Array.from({ length: 8 }, () => longest.nextMs());
  assert.deepEqual(pauses, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
  longest.reset();
  assert.equal(longest.nextMs(), 200);
});

test('a thousand agents that lost the same server come back spread over the whole pause', () => {
  const random = seededRandom(7);
  const perHalfSecond = Array.from({ length: 10 }, () => 0);
  for (let agent = 0; agent < 1000; agent++) {
    const backOff = createBackOff(random);
    for (let attempt = 0; attempt < 10; attempt++) backOff.nextMs();
    const slot = Math.min(9, Math.floor(backOff.nextMs() / 500));
    perHalfSecond[slot] = (perHalfSecond[slot] ?? 0) + 1;
  }
  // 100 each if they were spread evenly.
  assert.ok(Math.max(...perHalfSecond) < 150, perHalfSecond.join(' '));
  assert.ok(Math.min(...perHalfSecond) > 50, perHalfSecond.join(' '));
});
