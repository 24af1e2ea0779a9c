// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import {
  ENHANCE_YOUR_CALM,
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FLAG_PADDED,
  FLAG_PRIORITY,
  FLOW_CONTROL_ERROR,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_PRIORITY,
  FRAME_PUSH_PROMISE,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_SIZE_ERROR,
  FRAME_WINDOW_UPDATE,
  INTERNAL_ERROR,
  NO_ERROR,
  PROTOCOL_ERROR,
} from './codes.ts';
import { FrameLog } from './frame-log.ts';
import {
  frameHeaderBlock,
  writeDataHeader,
  writeFrameHeader,
  writeGoAway,
  writePing,
  writePreface,
  writeReset,
  writeSettings,
  writeSettingsAck,
  writeWindowUpdate,
} from './frame-writer.ts';
import { connectionPreface, FrameReader } from './frames.ts';
import { BLOCK_BYTES_MAX, CONTINUATIONS_MAX } from './limits.ts';

function frame(type: number, flags: number, stream: number, payload: string | Buffer = ''): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload, 'latin1') : payload;
  const out = Buffer.alloc(9);
  writeFrameHeader(out, 0, body.length, type, flags, stream);
  return Buffer.concat([out, body]);
}

const settings = frame(FRAME_SETTINGS, 0, 0);
const lead = Buffer.concat([connectionPreface, settings]);

interface Outcome {
  readonly error: number;
  readonly lines: string[];
}

/** Reads `bytes` in pieces that end at `cuts`. The buffer is overwritten after each piece, as a shared one is. */
function readPieces(bytes: Buffer, cuts: readonly number[], isServer = true): Outcome {
  const log = new FrameLog();
  const reader = new FrameReader(isServer, log);
  let from = 0;
  let error = NO_ERROR;
  for (const cut of [...cuts, bytes.length]) {
    const piece = Buffer.concat([Buffer.from('junk'), bytes.subarray(from, cut), Buffer.from('junk')]);
    error = reader.push(piece, 4, 4 + cut - from);
    piece.fill(0xaa);
    from = cut;
  }
  return { error, lines: log.take() };
}

/** After preface and SETTINGS, whose line is left out. */
function read(...frames: Buffer[]): Outcome {
  const { error, lines } = readPieces(Buffer.concat([lead, ...frames]), []);
  assert.equal(lines.shift(), 'settings');
  return { error, lines };
}

function refused(error: number, ...frames: Buffer[]): void {
  assert.equal(read(...frames).error, error);
}

const everything = Buffer.concat([
  connectionPreface,
  frame(FRAME_SETTINGS, 0, 0, Buffer.from('000300000064000400010000', 'hex')),
  frame(FRAME_SETTINGS, FLAG_ACK, 0),
  frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, 'block'),
  frame(FRAME_DATA, 0, 1, 'some '),
  frame(FRAME_DATA, FLAG_PADDED, 1, '\x03body\0\0\0'),
  frame(FRAME_DATA, FLAG_PADDED, 1, '\0'),
  frame(FRAME_DATA, FLAG_PADDED | FLAG_END_STREAM, 1, '\x02!\0\0'),
  frame(FRAME_HEADERS, FLAG_PADDED | FLAG_PRIORITY | FLAG_END_STREAM, 3, '\x02\0\0\0\x01\x0fab\0\0'),
  frame(FRAME_CONTINUATION, 0, 3, 'cd'),
  frame(FRAME_CONTINUATION, 0, 3),
  frame(FRAME_CONTINUATION, FLAG_END_HEADERS, 3, 'ef'),
  frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, 5),
  frame(FRAME_PRIORITY, 0, 9, '\0\0\0\x01\x0f'),
  frame(FRAME_RST_STREAM, 0, 3, '\0\0\0\x08'),
  frame(FRAME_PING, 0, 0, '\xff\xff\xff\xff\0\0\0\x02'),
  frame(FRAME_PING, FLAG_ACK, 0, '\0\0\0\x01\0\0\0\x02'),
  frame(FRAME_WINDOW_UPDATE, 0, 0, '\x80\0\x10\0'),
  frame(FRAME_WINDOW_UPDATE, 0, 7, '\0\0\0\x01'),
  frame(0xfa, 0xff, 11, 'whatever'),
  frame(0xfb, 0, 0),
  frame(FRAME_DATA, FLAG_END_STREAM, 7),
  frame(FRAME_GOAWAY, 0, 0, '\0\0\0\x07\0\0\0\x02bye'),
]);
const everythingLines = [
  'setting 3=100',
  'setting 4=65536',
  'settings',
  'settings ack',
  'headers 1 block',
  'data 1 some body! (18) end',
  'headers 3 abcdef end',
  'headers 5  end',
  'ignored 2 9',
  'reset 3 8',
  'ping -1 2',
  'ping ack 1 2',
  'window 0 4096',
  'window 7 1',
  'ignored 250 11',
  'ignored 251 0',
  'data 7  (0) end',
  'goaway 7 2',
];

test('every kind of frame is told, whatever the reads were', () => {
  assert.deepEqual(readPieces(everything, []), { error: NO_ERROR, lines: everythingLines });
  for (let cut = 0; cut <= everything.length; cut++)
    assert.deepEqual(
      readPieces(everything, [cut]),
      { error: NO_ERROR, lines: everythingLines },
      `cut at ${cut}`,
    );
  const each = Array.from(everything, (_, index) => index);
  assert.deepEqual(readPieces(everything, each), { error: NO_ERROR, lines: everythingLines });
});

test('every three pieces, at random', () => {
  const cut = fc.integer({ min: 0, max: everything.length });
  fc.assert(
    fc.property(cut, cut, (one, other) => {
      const cuts = [Math.min(one, other), Math.max(one, other)];
      assert.deepEqual(readPieces(everything, cuts).lines, everythingLines);
    }),
  );
});

test('DATA is passed on before its frame is complete, and padding counts with the first part', () => {
  const calls: string[] = [];
  class Parts extends FrameLog {
    override onData(
      stream: number,
      buffer: Buffer,
      start: number,
      end: number,
      flow: number,
      last: boolean,
    ): number {
      calls.push(`${stream} ${buffer.toString('latin1', start, end)} ${flow} ${String(last)}`);
      return NO_ERROR;
    }
  }
  const reader = new FrameReader(true, new Parts());
  const bytes = Buffer.concat([lead, frame(FRAME_DATA, FLAG_PADDED | FLAG_END_STREAM, 1, '\x02abcd\0\0')]);
  const half = bytes.length - 4;
  reader.push(bytes, 0, half);
  assert.deepEqual(calls, ['1 ab 5 false']);
  assert.equal(reader.betweenFrames, false);
  reader.push(bytes, half, bytes.length - 1);
  assert.deepEqual(calls.splice(0), ['1 ab 5 false', '1 cd 2 false']);
  reader.push(bytes, bytes.length - 1, bytes.length);
  assert.deepEqual(calls, ['1  0 true']);
  assert.equal(reader.betweenFrames, true);
});

test('a client reads no preface, and neither side may begin with anything but SETTINGS', () => {
  assert.deepEqual(readPieces(settings, [], false), { error: NO_ERROR, lines: ['settings'] });
  assert.equal(readPieces(frame(FRAME_SETTINGS, FLAG_ACK, 0), [], false).error, PROTOCOL_ERROR);
  assert.equal(readPieces(frame(FRAME_PING, 0, 0, '12345678'), [], false).error, PROTOCOL_ERROR);
  assert.equal(readPieces(settings, []).error, PROTOCOL_ERROR);
  for (let at = 0; at < connectionPreface.length; at++) {
    const wrong = Buffer.from(lead);
    wrong[at] = (wrong[at] as number) ^ 0x20;
    assert.equal(readPieces(wrong, []).error, PROTOCOL_ERROR, `byte ${at}`);
  }
});

test('what ends the connection', () => {
  refused(FRAME_SIZE_ERROR, frame(FRAME_DATA, 0, 1, Buffer.alloc(16_385)));
  assert.equal(read(frame(FRAME_DATA, 0, 1, Buffer.alloc(16_384))).error, NO_ERROR);
  refused(FRAME_SIZE_ERROR, frame(0xfa, 0, 1, Buffer.alloc(16_385)));
  refused(PROTOCOL_ERROR, frame(FRAME_DATA, 0, 0, 'x'));
  refused(FRAME_SIZE_ERROR, frame(FRAME_DATA, FLAG_PADDED, 1));
  refused(PROTOCOL_ERROR, frame(FRAME_DATA, FLAG_PADDED, 1, '\x05abcd'));
  assert.equal(read(frame(FRAME_DATA, FLAG_PADDED, 1, '\x04abcd')).error, NO_ERROR);
  refused(PROTOCOL_ERROR, frame(FRAME_HEADERS, FLAG_END_HEADERS, 0, 'x'));
  refused(FRAME_SIZE_ERROR, frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PADDED, 1));
  refused(PROTOCOL_ERROR, frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PADDED, 1, '\x05abcd'));
  refused(FRAME_SIZE_ERROR, frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PRIORITY, 1, 'abcd'));
  refused(
    PROTOCOL_ERROR,
    frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PRIORITY | FLAG_PADDED, 1, '\x01abcde'),
  );
  refused(PROTOCOL_ERROR, frame(FRAME_PRIORITY, 0, 0, '\0\0\0\x01\x0f'));
  refused(PROTOCOL_ERROR, frame(FRAME_RST_STREAM, 0, 0, '\0\0\0\x08'));
  refused(FRAME_SIZE_ERROR, frame(FRAME_RST_STREAM, 0, 1, '\0\0\x08'));
  refused(PROTOCOL_ERROR, frame(FRAME_SETTINGS, 0, 1));
  refused(FRAME_SIZE_ERROR, frame(FRAME_SETTINGS, FLAG_ACK, 0, '\0\x02\0\0\0\0'));
  refused(FRAME_SIZE_ERROR, frame(FRAME_SETTINGS, 0, 0, '\0\x02\0\0\0'));
  refused(PROTOCOL_ERROR, frame(FRAME_PUSH_PROMISE, FLAG_END_HEADERS, 1, '\0\0\0\x02x'));
  refused(PROTOCOL_ERROR, frame(FRAME_PING, 0, 1, '12345678'));
  refused(FRAME_SIZE_ERROR, frame(FRAME_PING, 0, 0, '123456'));
  refused(PROTOCOL_ERROR, frame(FRAME_GOAWAY, 0, 1, '12345678'));
  refused(FRAME_SIZE_ERROR, frame(FRAME_GOAWAY, 0, 0, '1234567'));
  refused(FRAME_SIZE_ERROR, frame(FRAME_WINDOW_UPDATE, 0, 1, '123'));
  refused(PROTOCOL_ERROR, frame(FRAME_WINDOW_UPDATE, 0, 0, '\0\0\0\0'));
  refused(PROTOCOL_ERROR, frame(FRAME_CONTINUATION, FLAG_END_HEADERS, 1, 'x'));
});

test('settings that cannot be', () => {
  const setting = (hex: string): Buffer => frame(FRAME_SETTINGS, 0, 0, Buffer.from(hex, 'hex'));
  refused(PROTOCOL_ERROR, setting('000200000002'));
  refused(FLOW_CONTROL_ERROR, setting('000480000000'));
  refused(PROTOCOL_ERROR, setting('000500003fff'));
  refused(PROTOCOL_ERROR, setting('000501000000'));
  assert.deepEqual(read(setting('000200000001000500004000000500ffffff00047fffffff00ffffffffff')).lines, [
    'setting 2=1',
    'setting 5=16384',
    'setting 5=16777215',
    'setting 4=2147483647',
    'setting 255=4294967295',
    'settings',
  ]);
  // RFC 9113 6.5.2: a server never asks for pushes.
  const push = frame(FRAME_SETTINGS, 0, 0, Buffer.from('000200000001', 'hex'));
  assert.equal(readPieces(push, [], false).error, PROTOCOL_ERROR);
});

test('what ends a stream only', () => {
  assert.deepEqual(read(frame(FRAME_PRIORITY, 0, 1, 'abcdef'), frame(FRAME_PRIORITY, 0, 3)).lines, [
    'stream error 1 6',
    'stream error 3 6',
  ]);
  assert.deepEqual(read(frame(FRAME_PRIORITY, 0, 1, '\0\0\0\x01\x0f')).lines, ['stream error 1 1']);
  assert.deepEqual(read(frame(FRAME_WINDOW_UPDATE, 0, 1, '\0\0\0\0')).lines, ['stream error 1 1']);
  const selfish = frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PRIORITY, 1, '\x80\0\0\x01\x0fblock');
  assert.deepEqual(read(selfish).lines, ['headers 1 block error 1']);
});

test('nothing comes between the frames of a header block', () => {
  const begun = frame(FRAME_HEADERS, 0, 1, 'a');
  refused(PROTOCOL_ERROR, begun, frame(FRAME_DATA, 0, 1, 'x'));
  refused(PROTOCOL_ERROR, begun, frame(FRAME_CONTINUATION, FLAG_END_HEADERS, 3, 'x'));
  refused(PROTOCOL_ERROR, begun, frame(FRAME_PING, 0, 0, '12345678'));
  refused(PROTOCOL_ERROR, begun, frame(0xfa, 0, 0, 'x'));
  refused(PROTOCOL_ERROR, begun, frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, 'x'));
});

test('a flood of CONTINUATION ends the connection: too many, or too much', () => {
  const begun = frame(FRAME_HEADERS, 0, 1);
  const empty = Array.from({ length: CONTINUATIONS_MAX - 1 }, () => frame(FRAME_CONTINUATION, 0, 1));
  const last = frame(FRAME_CONTINUATION, FLAG_END_HEADERS, 1, 'x');
  assert.deepEqual(read(begun, ...empty, last), { error: NO_ERROR, lines: ['headers 1 x'] });
  refused(ENHANCE_YOUR_CALM, begun, frame(FRAME_CONTINUATION, 0, 1), ...empty, last);

  const full: Buffer[] = [];
  for (let left = BLOCK_BYTES_MAX; left > 0; left -= 16_384)
    full.push(
      frame(full.length === 0 ? FRAME_HEADERS : FRAME_CONTINUATION, 0, 1, 'x'.repeat(Math.min(left, 16_384))),
    );
  const { error, lines } = read(...full, frame(FRAME_CONTINUATION, FLAG_END_HEADERS, 1));
  assert.equal(error, NO_ERROR);
  assert.equal(lines[0]?.length, 'headers 1 '.length + BLOCK_BYTES_MAX);
  refused(ENHANCE_YOUR_CALM, ...full, last);
});

test('after an error nothing is read any more', () => {
  const log = new FrameLog();
  const reader = new FrameReader(true, log);
  const bytes = Buffer.concat([lead, frame(FRAME_DATA, 0, 0, 'x'), settings]);
  assert.equal(reader.push(bytes, 0, bytes.length), PROTOCOL_ERROR);
  assert.equal(reader.type, FRAME_DATA);
  assert.equal(reader.push(settings, 0, settings.length), PROTOCOL_ERROR);
  assert.deepEqual(log.take(), ['settings']);
});

test("a handler's answer ends the reading", () => {
  const log = new FrameLog();
  log.answer = INTERNAL_ERROR;
  const reader = new FrameReader(true, log);
  const bytes = Buffer.concat([lead, settings]);
  assert.equal(reader.push(bytes, 0, bytes.length), INTERNAL_ERROR);
  assert.deepEqual(log.take(), ['settings']);
});

test('random frames and bytes never throw, and do not depend on the reads', () => {
  const anyFrame = fc
    .record({
      type: fc.integer({ min: 0, max: 11 }),
      flags: fc.integer({ min: 0, max: 255 }),
      stream: fc.integer({ min: 0, max: 4 }),
      payload: fc.uint8Array({ maxLength: 24 }),
    })
    .map(({ type, flags, stream, payload }) => frame(type, flags, stream, Buffer.from(payload)));
  const anyBytes = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
  const stream = fc.array(fc.oneof({ weight: 9, arbitrary: anyFrame }, anyBytes), { maxLength: 12 });
  fc.assert(
    fc.property(stream, fc.array(fc.nat(300), { maxLength: 5 }), (parts, offsets) => {
      const bytes = Buffer.concat([lead, ...parts]);
      const cuts = offsets
        .map((offset) => Math.min(offset, bytes.length))
        .sort((left, right) => left - right);
      const whole = readPieces(bytes, []);
      const pieces = readPieces(bytes, cuts);
      assert.equal(pieces.error, whole.error);
      assert.deepEqual(pieces.lines, whole.lines);
    }),
    { numRuns: 2000 },
  );
});

test('what is written is read as it was meant', () => {
  const out = Buffer.alloc(400);
  let at = writePreface(out, 0);
  at = writeSettings(out, at, [1, 4096, 4, 0x7fff_ffff]);
  at = writeSettingsAck(out, at);
  at = writeWindowUpdate(out, at, 5, 0x7fff_ffff);
  at = writePing(out, at, true, -1, 0x7fff_fffe);
  at = writeReset(out, at, 7, 0xffff_ffff);
  at = writeDataHeader(out, at, 3, 7, true);
  at += out.write('abc', at, 'latin1');
  at = writeGoAway(out, at, 0x7fff_ffff, 11);
  assert.deepEqual(readPieces(out.subarray(0, at), []), {
    error: NO_ERROR,
    lines: [
      'setting 1=4096',
      'setting 4=2147483647',
      'settings',
      'settings ack',
      'window 5 2147483647',
      'ping ack -1 2147483646',
      'reset 7 4294967295',
      'data 7 abc (3) end',
      'goaway 2147483647 11',
    ],
  });
});

test('a header block is framed for what the peer takes', () => {
  for (const bytes of [0, 1, 99, 100, 101, 199, 200, 201, 350]) {
    const text = Array.from({ length: bytes }, (_, index) => String(index % 10)).join('');
    const out = Buffer.alloc(500);
    out.write(text, 9 + 9, 'latin1');
    const end = frameHeaderBlock(out, 9, bytes, 1, true, 100);
    const { error, lines } = read(out.subarray(9, end));
    assert.equal(error, NO_ERROR);
    assert.deepEqual(lines, [`headers 1 ${text} end`]);
    assert.equal(end - 9, bytes + 9 * Math.max(1, Math.ceil(bytes / 100)));
  }
});
