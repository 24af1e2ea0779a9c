// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { BodyDecoder, type BodySink } from './body.ts';
import { BAD_MESSAGE, Head, TOO_LARGE } from './head.ts';
import { CHUNK_EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX } from './limits.ts';

const decoder = new BodyDecoder(new Head());

class Collected implements BodySink {
  text = '';

  onBody(buffer: Buffer, start: number, end: number): void {
    this.text += buffer.toString('latin1', start, end);
  }
}

interface Outcome {
  readonly text: string;
  /** Bytes used, or a negative verdict. */
  readonly used: number;
  readonly done: boolean;
}

/** Decodes `text` cut at the given positions; every piece lies alone in a buffer that is scribbled over afterwards. */
function decode(text: string, cuts: readonly number[], start: () => void): Outcome {
  start();
  const sink = new Collected();
  let from = 0;
  for (const to of [...cuts, text.length]) {
    const piece = Buffer.from(`##${text.slice(from, to)}##`, 'latin1');
    const at = decoder.push(piece, 2, piece.length - 2, sink);
    piece.fill(0x21);
    if (at < 0) return { text: sink.text, used: at, done: false };
    if (decoder.done) return { text: sink.text, used: from + at - 2, done: true };
    assert.equal(at, piece.length - 2);
    from = to;
  }
  return { text: sink.text, used: text.length, done: decoder.done };
}

const chunked = (): void => decoder.startChunked(false);
const payload = (): void => decoder.startChunked(true);

test('by length, at every split', () => {
  for (let cut = 0; cut <= 10; cut++) {
    const outcome = decode('abcdefgh--', [cut], () => decoder.startLength(8));
    assert.deepEqual(outcome, { text: 'abcdefgh', used: 8, done: true });
  }
  decoder.startLength(0);
  assert.ok(decoder.done);
});

test('until the connection ends', () => {
  assert.deepEqual(
    decode('abc', [1], () => decoder.startUntilClose()),
    { text: 'abc', used: 3, done: false },
  );
  assert.ok(decoder.untilClose);
});

test('chunked with extensions and trailers, at every pair of splits', () => {
  const came =
    '4;a="b"\r\nWiki\r\nB \t; x\r\npedia\r\nin c\r\n000;\r\nX-Sum: 1\r\nContent-Length: 9\r\nY:2\r\n\r\nGET';
  const goes = '4\r\nWiki\r\nB\r\npedia\r\nin c\r\n000\r\nX-Sum: 1\r\nY:2\r\n\r\n';
  for (let first = 0; first <= came.length; first++) {
    for (let second = first; second <= came.length; second++) {
      assert.deepEqual(decode(came, [first, second], chunked), {
        text: goes,
        used: came.length - 3,
        done: true,
      });
    }
    assert.equal(decode(came, [first], payload).text, 'Wikipedia\r\nin c');
  }
});

test('wrong chunks are refused at any split', () => {
  for (const text of [
    '\r\n',
    'g\r\n',
    '-1\r\n',
    '+1\r\n',
    '0x1\r\n',
    ' 1\r\n',
    '1 \r\n',
    '1 2\r\n',
    '1\n',
    '1\r\r\n',
    '1\r\nab',
    '1\r\na\n',
    '1\r\na\rX',
    '1;\x00\r\n',
    '1;a\nb\r\n',
    '1;a\rb\r\n',
    '10000000000000000\r\n',
    'fffffffffffffff\r\n',
    '00000000000000001\r\n',
    '0\r\nX\r\n',
    '0\r\nX : y\r\n',
    '0\r\n x: y\r\n',
    '0\r\nX: y\n\r\n',
    '0\r\nX: a\0\r\n',
    '0\r\n: a\r\n',
    '0\r\n\n',
  ]) {
    for (let cut = 0; cut <= text.length; cut++) {
      assert.equal(decode(text, [cut], chunked).used, BAD_MESSAGE, `${JSON.stringify(text)} at ${cut}`);
    }
  }
});

test('limits: one at, one past', () => {
  const extension = (size: number): string => `1;${'x'.repeat(size - 1)}\r\na\r\n0\r\n\r\n`;
  assert.ok(decode(extension(CHUNK_EXTENSION_BYTES_MAX), [], chunked).done);
  assert.equal(decode(extension(CHUNK_EXTENSION_BYTES_MAX + 1), [], chunked).used, BAD_MESSAGE);
  const small = '1;x\r\na\r\n'.repeat(CHUNK_EXTENSION_BYTES_MAX / 2 + 1);
  assert.equal(decode(small, [], chunked).used, BAD_MESSAGE, 'over many chunks');
  const trailer = (size: number): string => `0\r\nA:${'x'.repeat(size - 6)}\r\n\r\n`;
  assert.ok(decode(trailer(TRAILER_BYTES_MAX), [], chunked).done);
  assert.equal(decode(trailer(TRAILER_BYTES_MAX + 1), [], chunked).used, TOO_LARGE);
  assert.equal(
    decode(`0\r\nA:${'x'.repeat(TRAILER_BYTES_MAX)}`, [], chunked).used,
    TOO_LARGE,
    'line without end',
  );
  const fields = (count: number): string => `0\r\n${'A:b\r\n'.repeat(count)}\r\n`;
  assert.ok(decode(fields(TRAILER_FIELDS_MAX), [], chunked).done);
  assert.equal(decode(fields(TRAILER_FIELDS_MAX + 1), [], chunked).used, TOO_LARGE);
});

test('any chunks at any splits: the framing passes, the payload is what was sent', () => {
  const chunk = fc.tuple(
    fc.uint8Array({ minLength: 1, maxLength: 40 }).map((array) => Buffer.from(array).toString('latin1')),
    fc.boolean(),
    fc.nat(3),
    fc.option(fc.stringMatching(/^;[!-~ ]{0,9}$/), { nil: '' }),
  );
  fc.assert(
    fc.property(
      fc.array(chunk, { maxLength: 8 }),
      fc.array(fc.nat(400), { maxLength: 12 }),
      (chunks, cuts) => {
        let came = '';
        let goes = '';
        for (const [text, upper, zeros, extension] of chunks) {
          const digits = '0'.repeat(zeros) + text.length.toString(16);
          const size = upper ? digits.toUpperCase() : digits;
          came += `${size}${extension}\r\n${text}\r\n`;
          goes += `${size}\r\n${text}\r\n`;
        }
        came += '0\r\n\r\n';
        goes += '0\r\n\r\n';
        const places = cuts.map((cut) => cut % (came.length + 1)).sort((a, b) => a - b);
        assert.deepEqual(decode(came, places, chunked), { text: goes, used: came.length, done: true });
        assert.equal(decode(came, places, payload).text, chunks.map(([text]) => text).join(''));
      },
    ),
  );
});

test('arbitrary bytes never throw and nothing invented travels on', () => {
  fc.assert(
    fc.property(fc.stringMatching(/^[0-3a\r\n;: x]{0,60}$/), fc.nat(60), (text, cut) => {
      const outcome = decode(text, [Math.min(cut, text.length)], chunked);
      assert.ok(outcome.used <= text.length);
      assert.ok(outcome.text.length <= text.length);
      assert.deepEqual(decode(text, [], chunked).used, outcome.used);
    }),
  );
});
