// SPDX-License-Identifier: Apache-2.0
// The same bytes for our codecs and for those that applications have behind them: llhttp and nghttp2, both as Node.js
// brings them. What both accept must mean the same; what we accept they may refuse, then nothing was smuggled.

import assert from 'node:assert/strict';
import { createServer } from 'node:http2';
import { createRequire } from 'node:module';
import { Duplex } from 'node:stream';
import { BodyDecoder, type BodySink } from '../../agent/proxy/http1/body.ts';
import { Head } from '../../agent/proxy/http1/head.ts';
import {
  COMPRESSION_ERROR,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_HEADER_BYTES,
  FRAME_HEADERS,
  FRAME_PING,
  NO_ERROR,
} from '#lib/http2/codes.ts';
import { FrameLog } from '#lib/http2/frame-log.ts';
import { writeFrameHeader } from '#lib/http2/frame-writer.ts';
import { connectionPreface, FrameReader } from '#lib/http2/frames.ts';
import { Decoder } from '#lib/http2/hpack/decoder.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { LIST_FIELDS_MAX } from '#lib/http2/limits.ts';
import { VALID, validateRequest } from '#lib/http2/message.ts';

interface LlhttpParser {
  initialize(type: number, resource: object): void;
  execute(bytes: Buffer): number | (Error & { readonly code: string });
  [callback: number]: (...values: never[]) => number | void;
}

interface LlhttpClass {
  new (): LlhttpParser;
  readonly REQUEST: number;
  readonly RESPONSE: number;
  readonly kOnHeaders: number;
  readonly kOnHeadersComplete: number;
  readonly kOnBody: number;
  readonly kOnMessageComplete: number;
}

/** The parser of node:http, without the sockets and ticks around it. */
const { HTTPParser, methods } = createRequire(import.meta.url)('_http_common') as {
  readonly HTTPParser: LlhttpClass;
  readonly methods: readonly string[];
};

/** What a message is to whoever reads it. */
interface Reading {
  /** Method and target, or status. */
  line: string;
  minor: number;
  fields: string[];
  body: string;
  /** Another protocol follows, if the other side agrees. */
  upgrade: boolean;
  done: boolean;
}

/** The first message as llhttp reads it; undefined if it refuses it. */
function readWithLlhttp(bytes: Buffer, isRequest: boolean): Reading | undefined {
  const parser = new HTTPParser();
  parser.initialize(isRequest ? HTTPParser.REQUEST : HTTPParser.RESPONSE, {});
  const reading: Reading = { line: '', minor: 0, fields: [], body: '', upgrade: false, done: false };
  let url = '';
  let complete = false;
  let messages = 0;
  const add = (flat: readonly string[] | undefined): void => {
    for (let at = 0; at + 1 < (flat?.length ?? 0); at += 2)
      reading.fields.push(`${flat?.[at]}: ${flat?.[at + 1]}`);
  };
  // Long heads come in pieces; after the head these are trailers.
  parser[HTTPParser.kOnHeaders] = (fields: readonly string[], piece: string) => {
    if (complete) return;
    add(fields);
    url += piece;
  };
  parser[HTTPParser.kOnHeadersComplete] = (
    _major: number,
    minor: number,
    fields: readonly string[] | undefined,
    method: number,
    target: string | undefined,
    status: number,
    _text: string,
    upgrade: boolean,
  ) => {
    if (complete) return 0;
    complete = true;
    add(fields);
    reading.line = isRequest ? `${methods[method]} ${target ?? url}` : String(status);
    reading.minor = minor;
    reading.upgrade = upgrade;
    return upgrade ? 2 : 0;
  };
  parser[HTTPParser.kOnBody] = (piece: Buffer) => {
    if (messages === 0) reading.body += piece.toString('latin1');
  };
  parser[HTTPParser.kOnMessageComplete] = () => {
    messages++;
    reading.done = true;
  };
  const result = parser.execute(bytes);
  // What follows the first message is of no interest.
  return typeof result === 'number' || reading.done ? reading : undefined;
}

class Payload implements BodySink {
  text = '';
  onBody(buffer: Buffer, start: number, end: number): void {
    this.text += buffer.toString('latin1', start, end);
  }
  onTrailer(): void {}
}

const head = new Head();

/** The same as we read it, and where it ends; undefined if we refuse it or its head is not whole. */
function readWithOurs(bytes: Buffer, isRequest: boolean): { reading: Reading; end: number } | undefined {
  const at = isRequest
    ? head.parseRequest(bytes, 0, bytes.length, true)
    : head.parseResponse(bytes, 0, bytes.length, true);
  if (at <= 0) return undefined;
  const text = (from: number, to: number): string => bytes.toString('latin1', from, to);
  const fields: string[] = [];
  for (let field = 0; field < head.fieldCount; field++) {
    const start = head.valueStart(bytes, field);
    fields.push(
      `${text(head.nameStart(field), head.nameEnd(field))}: ${text(start, head.valueEnd(bytes, field, start))}`,
    );
  }
  const reading: Reading = {
    line: isRequest
      ? `${text(head.start, head.methodEnd)} ${text(head.targetStart, head.targetEnd)}`
      : String(head.status),
    minor: head.minor,
    fields,
    body: '',
    upgrade: head.upgrade,
    done: true,
  };
  const { status } = head;
  const bodiless = head.upgrade || (!isRequest && (status < 200 || status === 204 || status === 304));
  if (bodiless || (isRequest && !head.chunked && head.contentLength <= 0)) return { reading, end: at };
  const untilClose = !head.chunked && head.contentLength < 0;
  if (untilClose) {
    reading.body = text(at, bytes.length);
    reading.done = false;
    return { reading, end: bytes.length };
  }
  const decoder = new BodyDecoder(head);
  const sink = new Payload();
  if (head.chunked) decoder.startChunked(true);
  else decoder.startLength(head.contentLength);
  const next = decoder.done ? 0 : decoder.push(bytes, at, bytes.length, sink);
  if (next < 0) return undefined;
  reading.body = sink.text;
  reading.done = decoder.done;
  return { reading, end: decoder.done ? Math.max(at, next) : bytes.length };
}

export function fuzzAgainstLlhttp(bytes: Buffer): void {
  for (const isRequest of [true, false]) {
    compare(bytes, isRequest, false);
    if (readWithOurs(bytes, isRequest) === undefined) continue;
    if (!isRequest) dropFraming();
    const forwarded = Buffer.from(bytes);
    compare(forwarded.subarray(head.compact(forwarded, head.upgrade)), isRequest, true);
  }
}

/** As the exchange does with what a response without a body must not have (RFC 9110 8.6, RFC 9112 6.1). */
function dropFraming(): void {
  const { status } = head;
  if (status >= 200 && status !== 204 && status !== 304) return;
  if (status === 101) return;
  head.dropTransferEncoding();
  if (status !== 304) head.dropContentLength();
}

function compare(bytes: Buffer, isRequest: boolean, forwarded: boolean): void {
  const ours = readWithOurs(bytes, isRequest);
  if (ours === undefined) return;
  const { reading, end } = ours;
  const theirs = readWithLlhttp(bytes.subarray(0, end), isRequest);
  if (theirs === undefined) return;
  if (reading.upgrade) {
    // llhttp wants to be told in `Connection` too, which the other side decides.
    [theirs.upgrade, theirs.body, theirs.done] = [true, '', true];
  } else if (!forwarded && (theirs.upgrade || (!isRequest && head.status < 200))) {
    // An `Upgrade` that is not to be heeded, as in HTTP/1.0, does not travel; nor does a length of what has no body.
    return;
  }
  assert.deepEqual(reading, theirs, 'read otherwise by llhttp');
  if (reading.upgrade || !reading.done) return;
  const shorter = readWithLlhttp(bytes.subarray(0, end - 1), isRequest);
  assert.notEqual(shorter?.done, true, 'it ends earlier for llhttp');
}

/** A socket whose other end is this test. */
class Wire extends Duplex {
  readonly log = new FrameLog();
  readonly #reader = new FrameReader(false, this.log);
  #waiting: (() => void) | undefined;

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#reader.push(chunk, 0, chunk.length);
    done();
    this.#waiting?.();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    done(error);
    this.#waiting?.();
  }

  async until(done: (lines: readonly string[]) => boolean): Promise<void> {
    while (!this.destroyed && !done(this.log.lines))
      await new Promise<void>((resolve) => (this.#waiting = resolve));
  }
}

/** For nghttp2: pairs of each stream that it took for a request. */
async function readWithNghttp2(
  frames: Buffer,
): Promise<{ streams: Map<number, string[]>; log: readonly string[] }> {
  const streams = new Map<number, string[]>();
  const server = createServer({ maxHeaderListPairs: 2 * LIST_FIELDS_MAX });
  server.on('stream', (stream, _headers, _flags, raw) => {
    const fields: string[] = [];
    for (let at = 0; at + 1 < raw.length; at += 2) fields.push(`${raw[at]}: ${raw[at + 1]}`);
    streams.set(stream.id ?? 0, fields);
    stream.on('error', () => undefined);
    stream.close();
  });
  server.on('sessionError', () => undefined);
  const wire = new Wire();
  wire.on('error', () => undefined);
  server.emit('connection', wire);
  wire.push(frames);
  await wire.until((lines) => lines.some((line) => line.startsWith('ping ack') || line.startsWith('goaway')));
  // Streams are told of in later turns than that in which they were read.
  await new Promise((resolve) => setImmediate(resolve));
  wire.destroy();
  server.close();
  return { streams, log: wire.log.lines };
}

/** The input is a sequence of blocks, each after a byte with its length; each becomes a request. */
export async function fuzzAgainstNghttp2(bytes: Buffer): Promise<void> {
  const decoder = new Decoder();
  const list = new HeaderList();
  const ours = new Map<number, string[]>();
  const frames: Buffer[] = [connectionPreface, frame(0, 4, 0, 0)];
  let stream = 1;
  for (let at = 0; at < bytes.length; stream += 2) {
    const start = at + 1;
    at = Math.min(bytes.length, start + (bytes[at] as number));
    if (decoder.decode(bytes, start, at, list) !== NO_ERROR) break;
    frames.push(
      frame(at - start, FRAME_HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, stream),
      bytes.subarray(start, at),
    );
    if (validateRequest(list) !== VALID) continue;
    const { methodField, schemeField, authorityField, pathField } = list;
    ours.set(
      stream,
      [methodField, schemeField, authorityField, pathField, ...list.fields.slice(0, list.length)]
        .filter((field) => field !== null)
        .map(({ name, value }) => `${name}: ${value}`),
    );
  }
  if (stream === 1) return;
  frames.push(frame(8, FRAME_PING, 0, 0), Buffer.alloc(8));
  const theirs = await readWithNghttp2(Buffer.concat(frames));
  const lost = theirs.log.find((line) => line.startsWith('goaway') && line.endsWith(` ${COMPRESSION_ERROR}`));
  assert.equal(lost, undefined, 'a block that nghttp2 cannot decode');
  for (const [id, fields] of ours) {
    const read = theirs.streams.get(id);
    if (read !== undefined)
      assert.deepEqual(pseudoFirst(fields), pseudoFirst(read), `stream ${id} read otherwise`);
  }
}

/** Their order is of no meaning; that of the others is kept. */
function pseudoFirst(fields: readonly string[]): string[] {
  const isPseudo = (field: string): boolean => field.startsWith(':');
  return [...fields.filter(isPseudo).sort(), ...fields.filter((field) => !isPseudo(field))];
}

function frame(length: number, type: number, flags: number, stream: number): Buffer {
  const header = Buffer.alloc(FRAME_HEADER_BYTES);
  writeFrameHeader(header, 0, length, type, flags, stream);
  return header;
}
