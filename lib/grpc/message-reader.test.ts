// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { encodeMessage } from './call.ts';
import { COMPRESSED, INCOMPLETE, MessageReader, TOO_LONG } from './message-reader.ts';

const texts = ['', 'a', 'hello', 'x'.repeat(100)];
const bytes = Buffer.concat(texts.map((text) => encodeMessage(Buffer.from(text))));

function read(reader: MessageReader): string[] {
  const found: string[] = [];
  for (let next = reader.next(); typeof next !== 'number'; next = reader.next()) found.push(String(next));
  return found;
}

describe('messages of a call', () => {
  it('come whole, wherever their bytes are split', () => {
    for (let first = 0; first <= bytes.length; first++) {
      for (const second of [first, Math.min(first + 1, bytes.length), bytes.length]) {
        const reader = new MessageReader(100);
        const found: string[] = [];
        for (const [start, end] of [
          [0, first],
          [first, second],
          [second, bytes.length],
        ] as const) {
          reader.push(bytes, start, end);
          found.push(...read(reader));
        }
        assert.deepEqual(found, texts);
        assert.equal(reader.held, 0);
      }
    }
  });

  it('a byte at a time, all at the end', () => {
    const reader = new MessageReader(100);
    for (let at = 0; at < bytes.length; at++) reader.push(bytes, at, at + 1);
    assert.deepEqual(read(reader), texts);
  });

  it('up to the limit and no longer, known before the message has come', () => {
    const reader = new MessageReader(100);
    reader.push(encodeMessage(Buffer.alloc(101)), 0, 5);
    assert.equal(reader.problem, TOO_LONG);
    assert.equal(reader.next(), TOO_LONG);
    const other = new MessageReader(101);
    other.push(encodeMessage(Buffer.alloc(101)), 0, 5);
    assert.equal(other.problem, INCOMPLETE);
    assert.equal(other.next(), INCOMPLETE);
  });

  it('compressed ones are known by their first byte', () => {
    const reader = new MessageReader(100);
    reader.push(Buffer.from([1]), 0, 1);
    assert.equal(reader.problem, COMPRESSED);
    assert.equal(reader.next(), COMPRESSED);
  });
});
