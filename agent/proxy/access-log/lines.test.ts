// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { AccessLog, WAITING_BYTES_MAX } from './lines.ts';

function recorded() {
  const clock = new VirtualClock();
  const batches: (readonly string[])[] = [];
  const log = new AccessLog({ send: (pieces) => batches.push(pieces), clock });
  return { clock, batches, log };
}

test('lines wait a moment for others and go together', () => {
  const { clock, batches, log } = recorded();
  assert.ok(log.add('a\n'));
  assert.ok(log.add('b\n'));
  assert.deepEqual(batches, []);
  clock.advance(100);
  assert.deepEqual(batches, [['a\nb\n']]);
  assert.equal(clock.pendingTimers, 0);
});

test('a piece is whole lines that a pipe takes in one go; many lines do not wait', () => {
  const { batches, log } = recorded();
  const line = `${'x'.repeat(999)}\n`;
  for (let count = 0; count < 33; count++) log.add(line);
  assert.equal(batches.length, 1, 'no time has passed');
  const pieces = batches[0] ?? [];
  assert.deepEqual(
    pieces.map((piece) => piece.length),
    [...Array.from({ length: 8 }, () => 4000), 1000],
  );
});

test('while a batch is being written others wait, up to a limit; then there is room again', () => {
  const { clock, batches, log } = recorded();
  log.add('first\n');
  clock.advance(100);
  const line = `${'x'.repeat(1023)}\n`;
  for (let count = 0; count < WAITING_BYTES_MAX / 1024; count++) assert.ok(log.add(line));
  assert.equal(log.add('\n'), false, 'one past the limit');
  clock.advance(10_000);
  assert.equal(batches.length, 1);
  log.written();
  assert.equal(batches.length, 2);
  assert.equal(batches[1]?.join('').length, WAITING_BYTES_MAX);
  assert.ok(log.add('next\n'));
});
