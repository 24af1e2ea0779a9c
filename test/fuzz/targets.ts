// SPDX-License-Identifier: Apache-2.0
// What the fuzzer feeds: each target takes any bytes and throws when the codec breaks a promise. Refusing bytes is no
// finding; throwing, depending on how they were split, leaving a limit, or passing on what reads differently is.

import assert from 'node:assert/strict';
import { BodyDecoder, type BodySink } from '../../agent/proxy/http1/body.ts';
import { Head, INCOMPLETE } from '../../agent/proxy/http1/head.ts';
import { HEAD_BYTES_MAX } from '#lib/http/limits.ts';
import { NO_ERROR } from '#lib/http2/codes.ts';
import { FrameLog } from '#lib/http2/frame-log.ts';
import { writeFrameHeader } from '#lib/http2/frame-writer.ts';
import { connectionPreface, FrameReader } from '#lib/http2/frames.ts';
import { Decoder } from '#lib/http2/hpack/decoder.ts';
import { Encoder } from '#lib/http2/hpack/encoder.ts';
import type { Field } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { LIST_BYTES_MAX, LIST_FIELDS_MAX, TABLE_BYTES_MAX } from '#lib/http2/limits.ts';
import { originOf, VALID, validateRequest, validateResponse } from '#lib/http2/message.ts';
import {
  requestText,
  responseText,
  writeRequestHead,
  writeResponseHead,
} from '../../agent/proxy/http2/translate.ts';

import { fuzzAgainstLlhttp, fuzzAgainstNghttp2 } from './against-node.ts';
import { fuzzClientHello, fuzzDetection, fuzzTransportHeader } from './first-bytes.ts';

export interface FuzzTarget {
  /** Also the folder of its corpus. */
  readonly name: string;
  /** What mutations like to insert. */
  readonly words: readonly Buffer[];
  /** Other targets whose corpus it begins with, too. */
  readonly seeds?: readonly string[];
  /** Throws when there is something to mend. `random` chooses where to split. */
  readonly run: (bytes: Buffer, random: () => number) => void | Promise<void>;
}

const latin1 = (text: string): Buffer => Buffer.from(text, 'latin1');
const hex = (text: string): Buffer => Buffer.from(text, 'hex');

const head = new Head();
const again = new Head();
const block = Buffer.alloc(2 * HEAD_BYTES_MAX + 1024);

interface Kind {
  readonly parse: (into: Head, bytes: Buffer, end: number) => number;
  readonly travels: (bytes: Buffer, end: number) => void;
}

const kinds: readonly Kind[] = [
  {
    parse: (into, bytes, end) => into.parseRequest(bytes, 0, end, true),
    travels: (bytes) => {
      if (head.upgrade) return;
      const list = overHttp2(writeRequestHead(new Encoder(), block, 0, head, bytes, null));
      assert.equal(validateRequest(list), VALID, 'an HTTP/1 request that is no HTTP/2 request');
      const text = latin1(`${requestText(list, head.chunked)}\r\n`);
      assert.equal(again.parseRequest(text, 0, text.length, true), text.length, 'no request after HTTP/2');
      assert.deepEqual(framing(again), framing(head), 'framed differently after HTTP/2');
      assert.equal(
        text.toString('latin1', again.hostStart, again.hostEnd),
        bytes.toString('latin1', head.hostStart, head.hostEnd),
        'routed differently after HTTP/2',
      );
    },
  },
  {
    parse: (into, bytes, end) => into.parseResponse(bytes, 0, end, true),
    travels: (bytes) => {
      if (head.upgrade) return;
      const list = overHttp2(writeResponseHead(new Encoder(), block, 0, head, bytes));
      assert.equal(validateResponse(list), VALID, 'an HTTP/1 response that is no HTTP/2 response');
      const text = latin1(`${responseText(list, head.minor, head.chunked)}\r\n`);
      assert.equal(again.parseResponse(text, 0, text.length, true), text.length, 'no response after HTTP/2');
      assert.deepEqual(framing(again), framing(head), 'framed differently after HTTP/2');
    },
  },
];

/** A response leaves method and form as the last request had them. */
function framing(of: Head): readonly unknown[] {
  const { minor, status, contentLength, chunked } = of;
  return status === 0
    ? [minor, of.method, of.form, contentLength, chunked]
    : [minor, status, contentLength, chunked];
}

function overHttp2(end: number): HeaderList {
  // One more than may come: `l5d-orig-proto`.
  const list = new HeaderList(LIST_FIELDS_MAX + 1);
  assert.equal(new Decoder().decode(block, 0, end, list), NO_ERROR, 'a block that cannot be decoded');
  assert.ok(originOf(list) >= 0);
  return list;
}

function fuzzHead(bytes: Buffer, random: () => number): void {
  for (const kind of kinds) {
    const verdict = kind.parse(head, bytes, bytes.length);
    assert.ok(Number.isInteger(verdict) && verdict <= bytes.length, 'a verdict that is none');
    const cut = Math.floor(random() * bytes.length);
    const early = kind.parse(again, bytes, cut);
    if (verdict > 0 && cut >= verdict) assert.equal(early, verdict, 'what follows a head changed it');
    else
      assert.ok(
        early === INCOMPLETE || early === verdict,
        `the first ${cut} bytes: ${early}, all: ${verdict}`,
      );
    if (verdict <= 0) continue;
    kind.parse(head, bytes, bytes.length);
    kind.travels(bytes, verdict);
    const copy = Buffer.from(bytes);
    kind.parse(head, copy, copy.length);
    const start = head.compact(copy, head.upgrade);
    assert.ok(start >= 0 && start < verdict);
    const forwarded = Buffer.from(copy.subarray(start, verdict));
    assert.equal(
      kind.parse(again, forwarded, forwarded.length),
      forwarded.length,
      'forwarded, but not a head',
    );
    assert.deepEqual(framing(again), framing(head), 'framed differently when forwarded');
  }
}

class BodyText implements BodySink {
  body = '';
  trailers = '';

  onBody(buffer: Buffer, start: number, end: number): void {
    assert.ok(start <= end && end <= buffer.length);
    this.body += buffer.toString('latin1', start, end);
  }

  onTrailer(buffer: Buffer, start: number, end: number): void {
    this.trailers += buffer.toString('latin1', start, end);
  }
}

/** What a chunked body means: whether it ended, where, and with what. */
function readChunked(bytes: Buffer, cuts: readonly number[], payloadOnly: boolean): readonly unknown[] {
  const decoder = new BodyDecoder(head);
  const sink = new BodyText();
  decoder.startChunked(payloadOnly);
  let from = 0;
  for (const cut of [...cuts, bytes.length]) {
    // In a buffer that is used for something else right after.
    const piece = Buffer.from(bytes.subarray(from, cut));
    const next = decoder.push(piece, 0, piece.length, sink);
    piece.fill(0xaa);
    if (next < 0) return [next];
    if (decoder.done) return ['done', from + next, sink.body, sink.trailers];
    assert.equal(next, piece.length);
    from = cut;
  }
  return ['open', sink.body, sink.trailers];
}

function fuzzBody(bytes: Buffer, random: () => number): void {
  const cuts = someCuts(bytes.length, random);
  for (const payloadOnly of [false, true]) {
    const whole = readChunked(bytes, [], payloadOnly);
    assert.deepEqual(readChunked(bytes, cuts, payloadOnly), whole, `split at ${cuts.join(', ')}`);
    if (payloadOnly || whole[0] !== 'done') continue;
    // What is passed on must read as the same body.
    const passedOn = latin1(String(whole[2]));
    const payload = readChunked(bytes, [], true);
    const after = readChunked(passedOn, [], true);
    assert.deepEqual(
      [after[0], after[1], after[2], after[3]],
      ['done', passedOn.length, payload[2], payload[3]],
    );
  }
}

function someCuts(length: number, random: () => number): number[] {
  const count = 1 + Math.floor(random() * 4);
  return Array.from({ length: count }, () => Math.floor(random() * (length + 1))).sort(
    (left, right) => left - right,
  );
}

function readFrames(bytes: Buffer, cuts: readonly number[]): readonly unknown[] {
  const log = new FrameLog();
  const reader = new FrameReader(true, log);
  let error = NO_ERROR;
  let from = 0;
  for (const cut of [...cuts, bytes.length]) {
    const piece = Buffer.from(bytes.subarray(from, cut));
    error = reader.push(piece, 0, piece.length);
    piece.fill(0xaa);
    from = cut;
  }
  return [error, log.take()];
}

function fuzzFrames(bytes: Buffer, random: () => number): void {
  const settings = Buffer.alloc(9);
  writeFrameHeader(settings, 0, 0, 4, 0, 0);
  for (const input of [bytes, Buffer.concat([connectionPreface, settings, bytes])]) {
    const cuts = someCuts(input.length, random);
    assert.deepEqual(readFrames(input, cuts), readFrames(input, []), `split at ${cuts.join(', ')}`);
  }
}

/** The input is a sequence of blocks, each after a byte with its length. */
function fuzzHpack(bytes: Buffer, random: () => number): void {
  const decoder = new Decoder();
  const encoder = new Encoder();
  const mirror = new Decoder();
  const list = new HeaderList();
  const mirrored = new HeaderList();
  for (let at = 0; at < bytes.length; ) {
    const start = at + 1;
    at = Math.min(bytes.length, start + (bytes[at] as number));
    const result = decoder.decode(bytes, start, at, list);
    assert.ok(decoder.tableBytes <= TABLE_BYTES_MAX, 'the table is too large');
    assert.ok(list.length <= LIST_FIELDS_MAX, 'too many fields');
    let size = 0;
    for (let index = 0; index < list.length; index++) size += (list.fields[index] as Field).bytes;
    assert.ok(size <= LIST_BYTES_MAX, 'the list is too large');
    validateRequest(list);
    validateResponse(list);
    if (result !== NO_ERROR) return;
    if (random() < 0.1) encoder.setTableBytesMax(Math.floor(random() * 5000));
    const end = encoder.writeList(block, encoder.begin(block, 0), list);
    assert.equal(mirror.decode(block, 0, end, mirrored), NO_ERROR, 'what was encoded cannot be decoded');
    assert.equal(mirror.tableBytes, encoder.tableBytes, 'the tables differ');
    assert.equal(mirrored.length, list.length);
    for (let index = 0; index < list.length; index++) {
      assert.equal(mirrored.fields[index]?.line, list.fields[index]?.line);
      assert.equal(mirrored.fields[index]?.flags, list.fields[index]?.flags);
    }
    assert.equal(mirrored.pathField?.value, list.pathField?.value);
    assert.equal(mirrored.authorityField?.value, list.authorityField?.value);
  }
}

const http1Words = [
  '\r\n',
  '\n',
  '\r',
  ' ',
  '\t',
  ':',
  ',',
  '\0',
  '\x80',
  'HTTP/1.1',
  'HTTP/1.0',
  'GET ',
  'CONNECT a:1 ',

  'Host: a\r\n',
  'Content-Length: 5\r\n',
  'Transfer-Encoding: chunked\r\n',
  'Connection: close, x\r\n',

  'Connection: content-length\r\n',
  'Upgrade: websocket\r\n',
  'TE: trailers\r\n',
  'X: y\r\n',
  ' folded\r\n',

  'http://',
  '*',
  '?',
  '#',
  '@',
  '[::1]:80',
  'l5d-orig-proto: HTTP/1.1\r\n',
  'l5d-client-id: x\r\n',
  '204',
].map(latin1);

const hpackWords = [
  '82',
  '84',
  '86',
  'be',
  'bf',
  'c0',
  '7e',
  '20',
  '3fe11f',
  '3f45',
  'ff80',
  '400161',
  '0162',
  '1001',
  '00',
  '80',

  '0f2b0377726b',
  '0085f2b24a84ff',
  '418cf1e3c2e5f23a6ba0ab90f4ff',
  '0161ffffffff07',
  '7fffffffff0f',
  '5886a8eb10649cbf',
].map(hex);

export const targets: readonly FuzzTarget[] = [
  {
    name: 'http1-head',
    words: http1Words,
    run: fuzzHead,
  },
  {
    name: 'http1-body',
    words: [
      '\r\n',
      '\n',
      '0\r\n',
      '0\r\n\r\n',
      '5\r\nhello\r\n',
      ';a=b',
      ' ',
      'fffffffffffffff',
      '-1',
      'A: b\r\n',
      '00',
    ].map(latin1),
    run: fuzzBody,
  },
  {
    name: 'http2-frames',
    words: [
      '000000040000000000',
      '000000040100000000',
      '000000000100000001',
      '0000050105000000018286848141',

      '00000801090000000301828684',
      '000000090400000001',
      '0000040800000000000000ffff',
      '00000806000000000001020304050607',

      '000004030000000100000008',
      '0000080700000000000000000000000b',
      '00000502000000000380000001ff',
      '004000',
      '004001',
      'ff',
    ].map(hex),
    run: fuzzFrames,
  },
  {
    name: 'hpack',
    words: hpackWords,
    run: fuzzHpack,
  },
  {
    name: 'http1-against-llhttp',
    seeds: ['http1-head'],
    words: [...http1Words, ...['0\r\n\r\n', '5\r\nhello\r\n', ';a=b', 'A: b\r\n', 'hello'].map(latin1)],
    run: fuzzAgainstLlhttp,
  },
  {
    name: 'http2-against-nghttp2',
    seeds: ['hpack'],
    words: hpackWords,
    run: fuzzAgainstNghttp2,
  },
  {
    name: 'detection',
    seeds: ['http1-head'],
    words: [
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      'PRI',
      'GET ',
      'M-SEARCH ',
      'FETCH ',
      '/',
      ' HTTP/1.1',
      '\r\n',
      '\n',
      '\0',
      ' ',
    ].map(latin1),
    run: fuzzDetection,
  },
  {
    name: 'tls-hello',
    words: ['1603', '0100', '0303', '0000', '00', 'ff', '000a', '0000000a0008000005612e622e63', '1301'].map(
      hex,
    ),
    run: fuzzClientHello,
  },
  {
    name: 'transport-header',
    words: [
      '08',
      '0800',
      '08ffff03',
      '1a020a00',
      '1a021200',
      '120161',
      '00000005',
      'ffffffff',
      '80',
      '1a00',
      '25',
    ].map(hex),
    run: fuzzTransportHeader,
  },
];
