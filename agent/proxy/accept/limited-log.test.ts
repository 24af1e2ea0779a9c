// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import { limitLog } from './limited-log.ts';

test('a message that repeats is written twenty times in ten seconds, then counted', () => {
  const clock = new VirtualClock();
  const recorded = recordingLog();
  const log = limitLog(recorded, clock);
  for (let count = 0; count < 50; count++) log.warn({ count }, 'again');
  log.warn({}, 'another message');
  assert.equal(recorded.lines.filter(({ message }) => message === 'again').length, 20);
  assert.equal(recorded.lines.at(-1)?.message, 'another message');
  clock.advance(10_000);
  log.child({ of: 'a child' }).warn({ count: 50 }, 'again');
  assert.deepEqual(recorded.lines.at(-1)?.fields, { of: 'a child', count: 50, leftOut: 30 });
  clock.advance(10_000);
  log.warn({ count: 51 }, 'again');
  assert.deepEqual(recorded.lines.at(-1)?.fields, { count: 51 });
});
