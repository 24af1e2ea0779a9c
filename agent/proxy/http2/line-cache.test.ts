// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lowerCase, nameOf } from '#lib/http2/hpack/names.ts';
import { LineCache } from './line-cache.ts';

const cache = new LineCache();

/** The field of a line, if it is known; at an offset, in a buffer of its own. */
function look(line: string, known = cache): string | undefined {
  const buffer = Buffer.from(`junk${line}\r\njunk`, 'latin1');
  const end = 4 + line.length;
  const found = known.find(buffer, 4, end);
  const colon = buffer.indexOf(':');
  if (found === null) known.learn(buffer, 4, end, nameOf(buffer, 4, colon, lowerCase), colon + 2, end);
  buffer.fill(0);
  return found?.line;
}

test('a line is known from its third sight on, as its client writes it', () => {
  assert.equal(look('X-Thing: one'), undefined);
  assert.equal(look('X-Thing: one'), undefined);
  assert.equal(look('X-Thing: one'), 'x-thing: one\r\n');
  assert.equal(look('x-thing: one'), undefined);
});

test('no line is taken for another one, wherever they differ', () => {
  const line = 'X-Somewhat-Longer: abcdefghijklmnopqrstuvwxyz';
  const own = 'x-somewhat-longer: abcdefghijklmnopqrstuvwxyz\r\n';
  const mine = new LineCache();
  for (let at = 0; at < line.length; at++) {
    if (line[at] === ':' || line[at] === ' ') continue;
    // Lines that are hashed alike displace each other.
    for (let round = 0; round < 3; round++) look(line, mine);
    assert.equal(look(line, mine), own);
    const other = `${line.slice(0, at)}0${line.slice(at + 1)}`;
    assert.equal(look(other, mine), undefined, other);
  }
  assert.equal(look(line.slice(0, -1), mine), undefined);
});

test('secrets, very long and very short lines do not enter', () => {
  for (const line of ['Authorization: Bearer 1234567890', 'Cookie: a=1', `X: ${'y'.repeat(300)}`, 'X: ']) {
    for (let round = 0; round < 5; round++) assert.equal(look(line), undefined, line);
  }
});
