// SPDX-License-Identifier: Apache-2.0
// A client's HTTP/2 connection to a gRPC server (RFC 9113): settings, windows, header compression, calls by number,
// the answers to floods and mistakes, leaving in two steps. What a call is, is server-call.ts; who may have how many
// connections, and when they are looked at, is call-server.ts. Frames that leave in one turn go in one write.

import type { Socket } from 'node:net';
import type { Clock } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import { METHOD_POST } from '#lib/http/methods.ts';
import {
  ENHANCE_YOUR_CALM,
  errorName,
  FLOW_CONTROL_ERROR,
  FRAME_CONTINUATION,
  FRAME_HEADER_BYTES,
  FRAME_HEADERS,
  FRAME_SIZE_DEFAULT,
  INITIAL_WINDOW_DEFAULT,
  NO_ERROR,
  PROTOCOL_ERROR,
  REFUSED_STREAM,
  SETTINGS_HEADER_TABLE_SIZE,
  SETTINGS_INITIAL_WINDOW_SIZE,
  SETTINGS_MAX_CONCURRENT_STREAMS,
  SETTINGS_MAX_FRAME_SIZE,
  SETTINGS_MAX_HEADER_LIST_SIZE,
  STREAM_CLOSED,
  WINDOW_MAX,
} from '#lib/http2/codes.ts';
import {
  frameHeaderBlock,
  GOAWAY_FRAME_BYTES,
  PING_FRAME_BYTES,
  RESET_FRAME_BYTES,
  WINDOW_UPDATE_FRAME_BYTES,
  writeDataHeader,
  writeGoAway,
  writePing,
  writeReset,
  writeSettings,
  writeSettingsAck,
  writeWindowUpdate,
} from '#lib/http2/frame-writer.ts';
import { type FrameHandler, FrameReader } from '#lib/http2/frames.ts';
import { Decoder } from '#lib/http2/hpack/decoder.ts';
import { BLOCK_OVERHEAD_BYTES, Encoder, FIELD_ENCODED_OVERHEAD_BYTES } from '#lib/http2/hpack/encoder.ts';
import { defineField, type Field } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import {
  BODY_MISMATCH,
  LIST_TOO_LARGE,
  PATH_TOO_LONG,
  requestBody,
  VALID,
  validateRequest,
  validateTrailers,
} from '#lib/http2/message.ts';
import { GrpcCall, type Method, type PlainAnswer } from './server-call.ts';
import { CallError, type Metadata, status, statusMessage, timeoutMs } from './status.ts';

/** What the connections of a server have in common. */
export interface ConnectionContext {
  readonly methods: ReadonlyMap<string, Method>;
  readonly streamsMax: number;
  readonly messageBytesMax: number;
  /** After so long without a frame the client is asked whether it is there, and so long it may take to answer. */
  readonly keepaliveMs: number;
  readonly keepaliveTimeoutMs: number;
  readonly clock: Clock;
  readonly log: Log;
  /** The client has come to a limit. */
  readonly onLimit: (limit: GrpcLimit) => void;
  /** Has `flush` called at the end of this turn. */
  flushLater(connection: GrpcConnection): void;
}

/** What a client may run into, as metrics name it. */
export const grpcLimits = ['flood', 'header_block', 'header_list', 'requests', 'streams', 'unread'] as const;
export type GrpcLimit = (typeof grpcLimits)[number];

const CONNECTION_WINDOW = 1_048_576;
/** A header list by the count of RFC 9113 6.5.2. */
const LIST_BYTES_MAX = 65_536;
const LIST_FIELDS_MAX = 100;
/**
 * Frames that cost us something and carry nothing, and calls given up: so many at once, then so many a second. A client
 * may give up all its calls at once.
 */
const NOISE_MIN = 4_000;
const NOISE_PER_SECOND = 1_000;
const NOISE_OF_RESET = 2;
/** Whoever changes the window of all calls has us go through them. */
const CALLS_OF_NOISE = 64;
/** Of what the kernel has not taken: beyond it calls wait, whatever their windows say. */
const UNSENT_BYTES_MAX = 262_144;
/** Of what waits for a client that does not read, its calls' messages included. */
const WAITING_BYTES_MAX = 67_108_864;
/** Answers to its frames that a client does not read. */
const ANSWERS_BYTES_MAX = 4_194_304;
/** Of requests that have not come whole, in all calls together; one message may be as long as the server allows. */
const HELD_MESSAGES_MAX = 4;
/** Calls that we ended a while ago, whose frames may still be on their way. */
const RESET_REMEMBERED = 256;
/** In the PING that goes with the notice of leaving: RFC 9113 6.8. */
const LEAVING_PING = 0x6c_65_61_76;

const OPEN = 0;
/** The client was told that no further calls are wanted; those on their way are taken. */
const NOTICED = 1;
/** Ends with its last call. */
const LEAVING = 2;
const CLOSED = 3;

const statusOk = defineField(':status', '200');
const grpcType = defineField('content-type', 'application/grpc');
const plainType = defineField('content-type', 'text/plain');
const identityOnly = defineField('grpc-accept-encoding', 'identity');
const acceptPost = defineField('allow', 'POST');
const statusFields: readonly Field[] = Array.from({ length: 17 }, (_, code) =>
  defineField('grpc-status', String(code)),
);

const plain = (code: number, text: string): PlainAnswer => ({
  status: code,
  body: Buffer.from(`${text}\n`),
});
const onlyPost = plain(405, 'This is gRPC: only POST is served.');
const onlyGrpc = plain(415, 'This is gRPC: content-type has to be application/grpc.');
const pathTooLong = plain(414, 'The path is too long.');
const listTooLarge = plain(431, 'The header fields are too large.');

/** Lists that are decoded into; used up before the next block is read. */
const received = new HeaderList(LIST_FIELDS_MAX, LIST_BYTES_MAX);

/** Where blocks of fields are made; copied from there. */
let scratch = Buffer.allocUnsafeSlow(4_096);

export class GrpcConnection implements FrameHandler {
  /** Address and port of the client. */
  readonly peer: string;
  readonly identity: string | undefined;
  readonly server: ConnectionContext;
  /** A new call's send window. */
  peerWindow = INITIAL_WINDOW_DEFAULT;
  readonly #socket: Socket;
  readonly #calls = new Map<number, GrpcCall>();
  readonly #reader = new FrameReader(true, this);
  readonly #decoder = new Decoder();
  readonly #encoder = new Encoder();
  #state = OPEN;
  /** Highest number of a call that the client began. */
  #lastStream = 0;
  #sendWindow = INITIAL_WINDOW_DEFAULT;
  #receiveWindow = CONNECTION_WINDOW;
  #uncredited = 0;
  #frameBytesMax = FRAME_SIZE_DEFAULT;
  /** Initial window in the SETTINGS frame that comes; -1: none. */
  #newWindow = -1;
  /** Calls that wait for the window of the connection, or for the kernel. */
  readonly #starved = new Set<GrpcCall>();
  readonly #reset = new Set<number>();
  #noise: number;
  #noiseMs: number;
  #receivedMs: number;
  #pingedMs = -1;
  #unsent = 0;
  #held = 0;
  /** Frames of this turn. */
  #chunks: Buffer[] = [];
  #chunkBytes = 0;
  #flushing = false;
  #ends = false;

  constructor(server: ConnectionContext, socket: Socket, identity: string | undefined) {
    this.server = server;
    this.#socket = socket;
    this.identity = identity;
    this.peer = `${socket.remoteAddress}:${socket.remotePort}`;
    this.#receivedMs = server.clock.nowMs();
    this.#noise = this.#noiseMax;
    this.#noiseMs = this.#receivedMs;
    socket.on('data', (bytes: Buffer) => this.#push(bytes));
    // Nobody half-closes an HTTP/2 connection: who has gone gets no answers.
    socket.on('end', () => socket.destroy());
    socket.on('drain', () => this.#feed());
    socket.on('error', (error) => server.log.debug({ peer: this.peer, err: error }, 'a connection failed'));
    socket.on('close', () => {
      this.#state = CLOSED;
      this.#loseAll();
    });
    const settings = [SETTINGS_MAX_CONCURRENT_STREAMS, server.streamsMax];
    settings.push(SETTINGS_MAX_HEADER_LIST_SIZE, LIST_BYTES_MAX);
    const greeting = Buffer.allocUnsafe(64);
    const at = writeSettings(greeting, 0, settings);
    this.#out(
      greeting.subarray(0, writeWindowUpdate(greeting, at, 0, CONNECTION_WINDOW - INITIAL_WINDOW_DEFAULT)),
    );
  }

  get #noiseMax(): number {
    return NOISE_MIN + NOISE_OF_RESET * this.server.streamsMax;
  }

  #push(bytes: Buffer): void {
    if (this.#state === CLOSED) return;
    this.#receivedMs = this.server.clock.nowMs();
    this.#pingedMs = -1;
    const error = this.#reader.push(bytes, 0, bytes.length);
    if (error !== NO_ERROR) {
      const { type } = this.#reader;
      const block = type === FRAME_HEADERS || type === FRAME_CONTINUATION;
      if (error === ENHANCE_YOUR_CALM && block && this.#noise > 0) this.#limited('header_block');
      this.#fail(error);
    } else if (this.#chunkBytes + this.#socket.writableLength > ANSWERS_BYTES_MAX) {
      this.#limited('unread');
      this.#fail(ENHANCE_YOUR_CALM);
    }
  }

  // ---- sending

  #out(bytes: Buffer): void {
    this.#chunks.push(bytes);
    this.#chunkBytes += bytes.length;
    this.#flushSoon();
  }

  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    this.server.flushLater(this);
  }

  flush(): void {
    this.#flushing = false;
    const chunks = this.#chunks;
    const bytes = this.#chunkBytes;
    const [first] = chunks;
    this.#chunks = [];
    this.#chunkBytes = 0;
    if (this.#socket.destroyed) return;
    if (first !== undefined) this.#socket.write(chunks.length === 1 ? first : Buffer.concat(chunks, bytes));
    if (this.#ends) this.#socket.end();
  }

  /** As much from `start` on as windows and kernel let through; up to where it has gone. */
  sendData(call: GrpcCall, bytes: Buffer, start: number): number {
    let at = start;
    while (at < bytes.length) {
      const size = Math.min(bytes.length - at, call.sendWindow, this.#sendWindow, this.#frameBytesMax);
      const full = this.#chunkBytes + this.#socket.writableLength >= UNSENT_BYTES_MAX;
      if (size <= 0 || full) {
        if (this.#sendWindow <= 0 || full) this.#starved.add(call);
        return at;
      }
      const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + size);
      bytes.copy(frame, writeDataHeader(frame, 0, size, call.id, false), at, at + size);
      this.#out(frame);
      at += size;
      call.sendWindow -= size;
      this.#sendWindow -= size;
      if (this.#noise < this.#noiseMax) this.#noise++;
    }
    return at;
  }

  /** Ends an answer that is none of gRPC. */
  sendEnd(call: GrpcCall): void {
    const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
    writeDataHeader(frame, 0, 0, call.id, true);
    this.#out(frame);
    this.forget(call);
  }

  sendHead(call: GrpcCall, metadata: Metadata): void {
    this.#sendBlock(call, [statusOk, grpcType, ...metadataFields(metadata)], false);
  }

  sendPlainHead(call: GrpcCall, answer: PlainAnswer): void {
    const fields = [defineField(':status', String(answer.status)), plainType];
    if (answer === onlyPost) fields.push(acceptPost);
    this.#sendBlock(call, fields, false);
  }

  sendTrailers(call: GrpcCall, headSent: boolean, code: status, details: string, metadata: Metadata): void {
    const fields = headSent ? [] : [statusOk, grpcType];
    fields.push(statusFields[code] ?? defineField('grpc-status', String(code)));
    const message = statusMessage(details);
    if (message !== '') fields.push(defineField('grpc-message', message));
    // Who uses an encoding that is not known is told which one is.
    if (code === status.UNIMPLEMENTED) fields.push(identityOnly);
    fields.push(...metadataFields(metadata));
    this.#sendBlock(call, fields, true);
  }

  #sendBlock(call: GrpcCall, fields: readonly Field[], endStream: boolean): void {
    let most = BLOCK_OVERHEAD_BYTES;
    for (const field of fields) most += field.bytes + FIELD_ENCODED_OVERHEAD_BYTES;
    most += (Math.ceil(most / this.#frameBytesMax) + 1) * FRAME_HEADER_BYTES;
    if (most > scratch.length) scratch = Buffer.allocUnsafeSlow(2 * most);
    let at = this.#encoder.begin(scratch, FRAME_HEADER_BYTES);
    for (const field of fields) at = this.#encoder.writeField(scratch, at, field);
    const bytes = at - FRAME_HEADER_BYTES;
    const end = frameHeaderBlock(scratch, 0, bytes, call.id, endStream, this.#frameBytesMax);
    this.#out(Buffer.from(scratch.subarray(0, end)));
  }

  sendReset(id: number, code: number): void {
    const frame = Buffer.allocUnsafe(RESET_FRAME_BYTES);
    writeReset(frame, 0, id, code);
    this.#out(frame);
    if (this.#reset.size >= RESET_REMEMBERED) {
      const [oldest] = this.#reset;
      this.#reset.delete(oldest as number);
    }
    this.#reset.add(id);
  }

  sendWindowUpdate(id: number, increment: number): void {
    const frame = Buffer.allocUnsafe(WINDOW_UPDATE_FRAME_BYTES);
    writeWindowUpdate(frame, 0, id, increment);
    this.#out(frame);
  }

  #sendGoAway(lastStream: number, code: number): void {
    const frame = Buffer.allocUnsafe(GOAWAY_FRAME_BYTES);
    writeGoAway(frame, 0, lastStream, code);
    this.#out(frame);
  }

  #sendPing(ack: boolean, high: number, low: number): void {
    const frame = Buffer.allocUnsafe(PING_FRAME_BYTES);
    writePing(frame, 0, ack, high, low);
    this.#out(frame);
  }

  // ---- limits of all calls together

  /** Bytes of messages more that wait, or fewer. */
  unsent(bytes: number): void {
    this.#unsent += bytes;
    if (this.#unsent <= WAITING_BYTES_MAX || this.#state === CLOSED) return;
    this.#limited('unread');
    this.#fail(ENHANCE_YOUR_CALM);
  }

  /** Bytes of requests more that are kept, or fewer; false when they are too many. */
  held(bytes: number): boolean {
    this.#held += bytes;
    if (this.#held <= HELD_MESSAGES_MAX * this.server.messageBytesMax) return true;
    this.#limited('requests');
    return false;
  }

  #limited(limit: GrpcLimit): void {
    this.server.onLimit(limit);
    this.server.log.debug({ peer: this.peer, limit }, 'a client has come to a limit');
  }

  /** A frame of the kind that attacks consist of. */
  #noisy(cost = 1): number {
    this.#noise -= cost;
    if (this.#noise > 0) return NO_ERROR;
    const now = this.server.clock.nowMs();
    this.#noise = Math.min(
      this.#noiseMax,
      Math.floor(((now - this.#noiseMs) * NOISE_PER_SECOND) / 1000) + this.#noise,
    );
    this.#noiseMs = now;
    if (this.#noise > 0) return NO_ERROR;
    this.#limited('flood');
    return ENHANCE_YOUR_CALM;
  }

  // ---- ends

  /** The call has ended in every respect. */
  forget(call: GrpcCall): void {
    if (!this.#calls.delete(call.id)) return;
    this.#starved.delete(call);
    this.#endIfDone();
  }

  /** The client shall go elsewhere with its next calls; those that it has may end here. */
  leave(): void {
    if (this.#state !== OPEN) return;
    this.#state = NOTICED;
    this.#sendGoAway(WINDOW_MAX, NO_ERROR);
    this.#sendPing(false, LEAVING_PING, 0);
  }

  #leave(): void {
    this.#state = LEAVING;
    this.#sendGoAway(this.#lastStream, NO_ERROR);
    this.#endIfDone();
  }

  #endIfDone(): void {
    if (this.#state === LEAVING && this.#calls.size === 0) this.#close();
  }

  #close(): void {
    this.#state = CLOSED;
    this.#ends = true;
    this.#flushSoon();
  }

  /** A mistake of the client that ends the connection: told with GOAWAY, then closed. */
  #fail(code: number): void {
    if (this.#state === CLOSED) return;
    const { type, stream } = this.#reader;
    const fields = { peer: this.peer, error: errorName(code), type, stream };
    this.server.log.debug(fields, 'a connection ends by an error of HTTP/2');
    this.#sendGoAway(this.#lastStream, code);
    this.#close();
    this.#loseAll();
  }

  #loseAll(): void {
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    this.#starved.clear();
    for (const call of calls) call.lost();
  }

  /** Is the client still there? */
  look(nowMs: number): void {
    const { keepaliveMs, keepaliveTimeoutMs } = this.server;
    if (this.#state === CLOSED) {
      // Whoever does not close in turn is not waited for.
      if (nowMs - this.#receivedMs >= keepaliveTimeoutMs) this.#socket.destroy();
    } else if (this.#pingedMs >= 0) {
      if (nowMs - this.#pingedMs >= keepaliveTimeoutMs) this.#socket.destroy();
    } else if (nowMs - this.#receivedMs >= keepaliveMs) {
      this.#pingedMs = nowMs;
      this.#sendPing(false, 0, 0);
    }
  }

  // ---- frames

  onHeaders(
    id: number,
    endStream: boolean,
    streamError: number,
    buffer: Buffer,
    start: number,
    end: number,
  ): number {
    const error = this.#decoder.decode(buffer, start, end, received);
    if (error !== NO_ERROR) return error;
    const call = this.#calls.get(id);
    if (call === undefined) {
      if (this.#ignores(id)) return NO_ERROR;
      if (streamError !== NO_ERROR && this.#isIdle(id)) {
        this.#lastStream = id;
        return this.#refuse(id, streamError);
      }
      return this.#newCall(id, received, endStream);
    }
    if (streamError !== NO_ERROR) return this.#streamError(call, streamError);
    const fault = validateTrailers(received) === VALID ? call.onTrailers(endStream) : PROTOCOL_ERROR;
    return fault === NO_ERROR ? NO_ERROR : this.#streamError(call, fault);
  }

  #newCall(id: number, list: HeaderList, endStream: boolean): number {
    if ((id & 1) === 0) return PROTOCOL_ERROR;
    if (id <= this.#lastStream) return STREAM_CLOSED;
    this.#lastStream = id;
    if (this.#calls.size >= this.server.streamsMax) {
      this.#limited('streams');
      return this.#refuse(id, REFUSED_STREAM);
    }
    const verdict = validateRequest(list);
    if (verdict > PATH_TOO_LONG) return this.#refuse(id, PROTOCOL_ERROR);
    if (verdict === LIST_TOO_LARGE) this.#limited('header_list');
    const remaining = requestBody(list, endStream);
    if (remaining === BODY_MISMATCH) return this.#refuse(id, PROTOCOL_ERROR);
    const method =
      verdict === VALID ? this.#methodOf(list) : verdict === LIST_TOO_LARGE ? listTooLarge : pathTooLong;
    const known = method instanceof CallError ? onlyGrpc : method;
    const call = new GrpcCall(this, id, known, remaining);
    this.#calls.set(id, call);
    const timeout = list.get('grpc-timeout')?.value;
    const ms = timeout === undefined ? undefined : timeoutMs(timeout);
    if (method instanceof CallError) call.refuse(method, endStream);
    else if (timeout !== undefined && ms === undefined)
      call.refuse(new CallError(status.INTERNAL, `"${timeout}" is no grpc-timeout`), endStream);
    else call.begin(endStream, ms);
    return NO_ERROR;
  }

  #methodOf(list: HeaderList): Method | PlainAnswer | CallError {
    if (list.method !== METHOD_POST) return onlyPost;
    const type = list.get('content-type')?.value ?? '';
    if (!/^application\/grpc(\+proto)?(;|$)/i.test(type)) return onlyGrpc;
    const path = list.pathField?.value ?? '';
    const method = this.server.methods.get(path);
    if (method === undefined) return new CallError(status.UNIMPLEMENTED, `there is no method ${path}`);
    const encoding = list.get('grpc-encoding')?.value ?? 'identity';
    if (encoding === 'identity') return method;
    return new CallError(status.UNIMPLEMENTED, `messages with grpc-encoding ${encoding} cannot be read`);
  }

  onData(
    id: number,
    buffer: Buffer,
    start: number,
    end: number,
    flowBytes: number,
    endStream: boolean,
  ): number {
    this.#receiveWindow -= flowBytes;
    if (this.#receiveWindow < 0) return FLOW_CONTROL_ERROR;
    this.#uncredited += flowBytes;
    if (this.#uncredited * 2 >= CONNECTION_WINDOW) {
      this.sendWindowUpdate(0, this.#uncredited);
      this.#receiveWindow += this.#uncredited;
      this.#uncredited = 0;
    }
    const call = this.#calls.get(id);
    if (call === undefined) {
      if (this.#isIdle(id)) return PROTOCOL_ERROR;
      return this.#ignores(id) ? NO_ERROR : STREAM_CLOSED;
    }
    const fault = call.onData(buffer, start, end, flowBytes, endStream);
    if (fault !== NO_ERROR) return this.#streamError(call, fault);
    if (flowBytes === 0 && !endStream) return this.#noisy();
    if (this.#noise < this.#noiseMax) this.#noise++;
    return NO_ERROR;
  }

  onReset(id: number): number {
    const call = this.#calls.get(id);
    if (call === undefined) return this.#isIdle(id) ? PROTOCOL_ERROR : this.#noisy();
    this.forget(call);
    call.lost();
    return this.#noisy(NOISE_OF_RESET);
  }

  onSetting(id: number, value: number): number {
    if (id === SETTINGS_HEADER_TABLE_SIZE) this.#encoder.setTableBytesMax(value);
    else if (id === SETTINGS_MAX_FRAME_SIZE) this.#frameBytesMax = Math.min(value, FRAME_SIZE_DEFAULT);
    else if (id === SETTINGS_INITIAL_WINDOW_SIZE) this.#newWindow = value;
    return NO_ERROR;
  }

  onSettingsEnd(): number {
    const ack = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
    writeSettingsAck(ack, 0);
    this.#out(ack);
    if (this.#newWindow < 0) return this.#noisy();
    const change = this.#newWindow - this.peerWindow;
    this.peerWindow = this.#newWindow;
    this.#newWindow = -1;
    const calls = [...this.#calls.values()];
    for (const call of calls) {
      call.sendWindow += change;
      if (call.sendWindow > WINDOW_MAX) return FLOW_CONTROL_ERROR;
    }
    // All of them are in force first, and the client knows it (RFC 9113 6.5.3).
    if (change > 0) for (const call of calls) call.proceed();
    return this.#noisy(1 + Math.floor(calls.length / CALLS_OF_NOISE));
  }

  onSettingsAck(): number {
    return this.#noisy();
  }

  onPing(ack: boolean, high: number, low: number): number {
    if (!ack) this.#sendPing(true, high, low);
    else if (high === LEAVING_PING && this.#state === NOTICED) this.#leave();
    return this.#noisy();
  }

  onGoAway(): number {
    if (this.#state < LEAVING) this.#leave();
    return this.#noisy();
  }

  onWindowUpdate(id: number, increment: number): number {
    if (id === 0) {
      this.#sendWindow += increment;
      if (this.#sendWindow > WINDOW_MAX) return FLOW_CONTROL_ERROR;
      this.#feed();
      return this.#noisy();
    }
    const call = this.#calls.get(id);
    if (call === undefined) return this.#isIdle(id) ? PROTOCOL_ERROR : this.#noisy();
    call.sendWindow += increment;
    if (call.sendWindow > WINDOW_MAX) return this.#streamError(call, FLOW_CONTROL_ERROR);
    call.proceed();
    return this.#noisy();
  }

  /** Calls go on that waited for the connection, each as far as it comes. */
  #feed(): void {
    for (const call of this.#starved) {
      if (this.#sendWindow <= 0 || this.#chunkBytes + this.#socket.writableLength >= UNSENT_BYTES_MAX) return;
      this.#starved.delete(call);
      call.proceed();
    }
  }

  onStreamError(id: number, code: number): number {
    const call = this.#calls.get(id);
    if (call !== undefined) return this.#streamError(call, code);
    if (this.#isIdle(id)) return PROTOCOL_ERROR;
    // Over already, maybe since the client wrote this: it is told all the same.
    return this.#refuse(id, code);
  }

  onIgnored(): number {
    return this.#noisy();
  }

  /** Whether no call of that number was begun yet, nor may be one that was begun after our GOAWAY. */
  #isIdle(id: number): boolean {
    return (id & 1) === 0 || (id > this.#lastStream && this.#state < LEAVING);
  }

  /** We have ended the call, or the client makes it again elsewhere (RFC 9113 6.8): frames of it may be on their way. */
  #ignores(id: number): boolean {
    return this.#reset.has(id) || ((id & 1) === 1 && id > this.#lastStream && this.#state >= LEAVING);
  }

  /** A mistake that concerns the call only. */
  #streamError(call: GrpcCall, code: number): number {
    this.sendReset(call.id, code);
    this.forget(call);
    call.lost();
    return this.#noisy(NOISE_OF_RESET);
  }

  /** Resets a stream that was never begun, or is over. */
  #refuse(id: number, code: number): number {
    this.sendReset(id, code);
    return this.#noisy(NOISE_OF_RESET);
  }

  /** Ends it with all its calls, as soon as what was written has gone. */
  end(): void {
    if (this.#state < LEAVING) this.#sendGoAway(this.#lastStream, NO_ERROR);
    this.#state = CLOSED;
    this.flush();
    this.#loseAll();
    this.#socket.destroySoon();
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

/** Anything but visible ASCII would have to be sent as `-bin`, which nothing here needs. */
function metadataFields(metadata: Metadata): Field[] {
  return Object.entries(metadata).map(([name, value]) => {
    if (!/^[ -~]*$/.test(value)) throw new TypeError(`metadata ${name} is not ASCII: ${value}`);
    return defineField(name.toLowerCase(), value);
  });
}
