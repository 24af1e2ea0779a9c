// SPDX-License-Identifier: Apache-2.0
// What both ends of an HTTP/2 connection have in common (RFC 9113): settings, windows, header compression, streams by
// number, pings, the answers to floods and mistakes. Frames that leave are gathered (frame-outbox.ts).
//
// The connection's receive window is credited as soon as something came: a slow reader is held back by the window of
// its own stream and never stops the other streams of the connection.

import type { StreamSocket } from '#lib/net/stream-socket.ts';
import {
  CANCEL,
  ENHANCE_YOUR_CALM,
  FLOW_CONTROL_ERROR,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_HEADER_BYTES,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_PRIORITY,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_SIZE_DEFAULT,
  FRAME_WINDOW_UPDATE,
  INITIAL_WINDOW_DEFAULT,
  NO_ERROR,
  PROTOCOL_ERROR,
  SETTINGS_ENABLE_PUSH,
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
  writePreface,
  writeReset,
  writeSettings,
  writeSettingsAck,
  writeWindowUpdate,
} from '#lib/http2/frame-writer.ts';
import { type FrameHandler, FrameReader } from '#lib/http2/frames.ts';
import { Decoder } from '#lib/http2/hpack/decoder.ts';
import { BLOCK_OVERHEAD_BYTES, Encoder, FIELD_ENCODED_OVERHEAD_BYTES } from '#lib/http2/hpack/encoder.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { type Http2Limit, LIST_BYTES_MAX } from '#lib/http2/limits.ts';
import type { TimeoutNode } from '../timers/wheel.ts';
import type { TcpSource } from './byte-source.ts';
import { FrameOutbox } from './frame-outbox.ts';
import type { Stream } from './http2-stream.ts';
import type { ServerContext } from './server-context.ts';
import type { SpareStreams } from './spare-streams.ts';
import { StreamTable } from './stream-table.ts';

/** As Linkerd's. */
const CONNECTION_WINDOW = 1_048_576;
/** What a peer may have in flight to us; Linkerd sets no limit. */
export const STREAMS_MAX = 1_000;
/**
 * Frames that cost us something and carry nothing, and streams given up: so many at once, then so many a second. Each
 * DATA frame of either side pays for one more, since honest peers measure the way with a PING for what they get.
 */
const NOISE_MAX = 4_000;
const NOISE_PER_SECOND = 1_000;
const NOISE_OF_RESET = 2;
/** Increments below it, for a stream that waits for them, would have us send crumbs. */
const CRUMB_BYTES = 1_024;
/** For how long a peer may hold the window of a stream shut while something waits for it. */
const STALL_MS = 300_000;
/** Of DATA that the kernel has not taken: a peer may offer windows that are larger than what it reads. */
export const UNSENT_BYTES_MAX = 262_144;
/** Bytes that wait for a peer who does not read at all, what it asked for included. */
const WAITING_BYTES_MAX = 4_194_304;
/** Streams that we gave up a while ago, whose frames may still be on their way. */
const RESET_REMEMBERED = 256;
/** How often a connection is looked at. */
const CHECK_MS = 10_000;

/** By type of the frame that was one too many. */
const floods: Readonly<Record<number, Http2Limit>> = {
  [FRAME_DATA]: 'flood_data',
  [FRAME_HEADERS]: 'flood_headers',
  [FRAME_PRIORITY]: 'flood_priority',
  [FRAME_RST_STREAM]: 'flood_rst_stream',
  [FRAME_SETTINGS]: 'flood_settings',
  [FRAME_PING]: 'flood_ping',
  [FRAME_WINDOW_UPDATE]: 'flood_window_update',
};
const FLOOD_OTHER = 'flood_other';

const OPEN = 0;
/** Ends when its last stream has ended. */
const LEAVING = 1;
const CLOSED = 2;

/** Lists that are decoded into; used up before the next block is read. */
const received = new HeaderList();

/** Up to here a loop is quicker than the call that copies. */
const LOOP_BYTES_MAX = 64;

function copyBytes(from: Buffer, start: number, to: Buffer, at: number, size: number): void {
  if (size > LOOP_BYTES_MAX) from.copy(to, at, start, start + size);
  else for (let index = 0; index < size; index++) to[at + index] = from[start + index] as number;
}

export abstract class Http2Connection implements FrameHandler, TimeoutNode {
  timeoutPrevious: TimeoutNode | null = null;
  timeoutNext: TimeoutNode | null = null;
  timeoutTick = 0;
  readonly streams = new StreamTable<Stream>();
  /** A new stream's send window. */
  peerWindow = INITIAL_WINDOW_DEFAULT;
  protected readonly context: ServerContext;
  protected readonly source: TcpSource;
  protected readonly socket: StreamSocket;
  protected readonly out: FrameOutbox;
  protected readonly encoder = new Encoder();
  protected peerStreamsMax = Number.MAX_SAFE_INTEGER;
  /** Highest number of a stream that the peer opened, or we. */
  protected lastStream = 0;
  /** When the bytes came that are read now, or were last: what their frames begin and end has this time. */
  receivedMs: number;
  protected abstract readonly spares: SpareStreams<Stream>;
  readonly #decoder = new Decoder();
  readonly #reader: FrameReader;
  #state = OPEN;
  #sendWindow = INITIAL_WINDOW_DEFAULT;
  #receiveWindow = CONNECTION_WINDOW;
  #uncredited = 0;
  #frameBytesMax = FRAME_SIZE_DEFAULT;
  readonly #starved = new Set<Stream>();
  readonly #reset = new Set<number>();
  /** The settings that come let streams send more. */
  #widened = false;
  #noise = NOISE_MAX;
  #noiseMs: number;
  #pinged = false;

  constructor(context: ServerContext, source: TcpSource, isServer: boolean) {
    this.context = context;
    this.source = source;
    this.socket = source.socket;
    this.out = new FrameOutbox(source.socket, source.encrypted, context.flusher);
    this.#reader = new FrameReader(isServer, this);
    this.receivedMs = context.clock.nowMs();
    this.#noiseMs = this.receivedMs;
    source.onBytes = (buffer, length) => this.push(buffer, 0, length);
    const { socket } = this;
    socket.on('end', () => this.#onEnd());
    socket.on('error', (error) => context.log.debug({ err: error }, 'HTTP/2 connection failed'));
    socket.on('close', () => this.#onClose());
    socket.on('drain', () => this.#feed());
    this.#greet(isServer);
    context.wheel.schedule(this, this.receivedMs, CHECK_MS);
  }

  /** About now. */
  get nowMs(): number {
    return this.context.clock.nowMs();
  }

  get leaving(): boolean {
    return this.#state !== OPEN;
  }

  /** Reads on; `first` was read before. */
  start(first: Buffer | null): void {
    if (first !== null) this.push(first, 0, first.length);
    this.socket.resume();
  }

  protected push(buffer: Buffer, start: number, end: number): void {
    if (this.#state === CLOSED) return;
    this.spares.turn();
    this.receivedMs = this.context.clock.nowMs();
    this.#pinged = false;
    const error = this.#reader.push(buffer, start, end);
    if (error !== NO_ERROR) {
      const { type } = this.#reader;
      const block = type === FRAME_HEADERS || type === FRAME_CONTINUATION;
      if (error === ENHANCE_YOUR_CALM && block) this.limited('header_block');
      this.fail(error);
    } else if (this.out.waiting > WAITING_BYTES_MAX) {
      this.limited('unread');
      this.fail(ENHANCE_YOUR_CALM);
    }
  }

  #greet(isServer: boolean): void {
    const { out } = this;
    out.room(128);
    if (!isServer) out.at = writePreface(out.buffer, out.at);
    const settings = isServer ? [SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_MAX] : [SETTINGS_ENABLE_PUSH, 0];
    settings.push(SETTINGS_MAX_HEADER_LIST_SIZE, LIST_BYTES_MAX);
    out.at = writeSettings(out.buffer, out.at, settings);
    out.at = writeWindowUpdate(out.buffer, out.at, 0, CONNECTION_WINDOW - INITIAL_WINDOW_DEFAULT);
  }

  // ---- sending

  /** As much as the windows let through; the position up to which it is sent. */
  sendData(stream: Stream, buffer: Buffer, start: number, end: number, endStream: boolean): number {
    const { out } = this;
    let at = start;
    if (start === end && !endStream) return end;
    do {
      let size = end - at;
      if (size > stream.sendWindow) size = stream.sendWindow;
      if (size > this.#sendWindow) size = this.#sendWindow;
      if (size > this.#frameBytesMax) size = this.#frameBytesMax;
      const full = this.socket.writableLength >= UNSENT_BYTES_MAX;
      if ((size <= 0 || full) && at < end) {
        if ((this.#sendWindow <= 0 || full) && !stream.starved) {
          stream.starved = true;
          this.#starved.add(stream);
        }
        return at;
      }
      out.room(FRAME_HEADER_BYTES + size);
      const next = writeDataHeader(out.buffer, out.at, size, stream.id, endStream && at + size === end);
      copyBytes(buffer, at, out.buffer, next, size);
      out.at = next + size;
      at += size;
      stream.sendWindow -= size;
      this.#sendWindow -= size;
      if (this.#noise < NOISE_MAX) this.#noise++;
    } while (at < end);
    return at;
  }

  sendEmptyData(stream: Stream): void {
    this.out.room(FRAME_HEADER_BYTES);
    this.out.at = writeDataHeader(this.out.buffer, this.out.at, 0, stream.id, true);
  }

  /** A whole list as the head of a message, or an interim one. */
  sendList(stream: Stream, list: HeaderList, endStream: boolean): void {
    const block = this.beginBlock(list.bytes + (list.length + 5) * FIELD_ENCODED_OVERHEAD_BYTES);
    this.endBlock(stream, this.encoder.writeList(this.out.buffer, block, list), endStream);
  }

  sendTrailers(stream: Stream, list: HeaderList): void {
    this.sendList(stream, list, true);
  }

  /** Makes room for a header block of that size at most; where its first field goes. */
  protected beginBlock(bytesMax: number): number {
    const frames = Math.ceil((bytesMax + BLOCK_OVERHEAD_BYTES) / this.#frameBytesMax);
    this.out.room(bytesMax + BLOCK_OVERHEAD_BYTES + frames * FRAME_HEADER_BYTES);
    return this.encoder.begin(this.out.buffer, this.out.at + FRAME_HEADER_BYTES);
  }

  /** Frames the block that ends at `end`. */
  protected endBlock(stream: Stream, end: number, endStream: boolean): void {
    const { out } = this;
    const bytes = end - out.at - FRAME_HEADER_BYTES;
    out.at = frameHeaderBlock(out.buffer, out.at, bytes, stream.id, endStream, this.#frameBytesMax);
  }

  sendReset(stream: Stream, code: number): void {
    this.#writeReset(stream.id, code);
    if (this.#reset.size >= RESET_REMEMBERED) {
      const [oldest] = this.#reset;
      this.#reset.delete(oldest as number);
    }
    this.#reset.add(stream.id);
  }

  #writeReset(id: number, code: number): void {
    this.out.room(RESET_FRAME_BYTES);
    this.out.at = writeReset(this.out.buffer, this.out.at, id, code);
  }

  sendWindowUpdate(stream: Stream, increment: number): void {
    this.out.room(WINDOW_UPDATE_FRAME_BYTES);
    this.out.at = writeWindowUpdate(this.out.buffer, this.out.at, stream.id, increment);
  }

  protected sendGoAway(lastStream: number, code: number): void {
    this.out.room(GOAWAY_FRAME_BYTES);
    this.out.at = writeGoAway(this.out.buffer, this.out.at, lastStream, code);
  }

  // ---- streams

  /** The stream has ended in every respect. */
  forget(stream: Stream): void {
    if (!this.streams.delete(stream)) return;
    if (stream.starved) this.#starved.delete(stream);
    stream.dropped();
    this.onStreamGone();
  }

  /** The peer has come to a limit. */
  protected abstract limited(limit: Http2Limit): void;
  /** A stream came free. */
  protected abstract onStreamGone(): void;
  /** The first header block of a stream that we do not know. */
  protected abstract onNewStream(id: number, list: HeaderList, endStream: boolean): number;
  /** Every stream was told. */
  protected abstract onClosed(): void;
  protected abstract onIdle(nowMs: number): void;

  /** No new streams; ends with the last one. */
  leave(): void {
    if (this.#state === OPEN) this.#state = LEAVING;
    this.endIfDone();
  }

  protected endIfDone(): void {
    if (this.#state === LEAVING && this.streams.size === 0) {
      this.#state = CLOSED;
      this.context.wheel.cancel(this);
      this.out.end();
      // Whoever does not close in turn is not waited for.
      this.context.wheel.schedule(this, this.context.clock.nowMs(), CHECK_MS);
    }
  }

  /** A mistake of the peer that ends the connection: told with GOAWAY, then closed. */
  fail(code: number): void {
    if (this.#state === CLOSED) return;
    this.context.log.debug(
      { code, type: this.#reader.type, stream: this.#reader.stream },
      'HTTP/2 connection error',
    );
    this.sendGoAway(this.lastRemoteStream, code);
    // Before anybody asks for another stream here.
    this.#state = CLOSED;
    this.#loseAll(code);
    this.out.end();
  }

  protected get lastRemoteStream(): number {
    return 0;
  }

  #loseAll(code: number): void {
    for (const stream of this.streams.list()) {
      this.forget(stream);
      stream.onLost(code, false);
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
    const stream = this.streams.get(id);
    if (stream === undefined) {
      if (this.#reset.has(id)) return NO_ERROR;
      if (streamError !== NO_ERROR && this.isIdle(id)) {
        this.lastStream = id;
        this.#writeReset(id, streamError);
        return this.noise();
      }
      return this.onNewStream(id, received, endStream);
    }
    if (stream.remoteEnded) return this.streamError(stream, STREAM_CLOSED);
    if (streamError !== NO_ERROR) return this.streamError(stream, streamError);
    const fault = stream.onHeaders(received, endStream);
    return fault === NO_ERROR ? NO_ERROR : this.streamError(stream, fault);
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
    if (this.#uncredited >= CONNECTION_WINDOW >> 1) {
      this.out.room(WINDOW_UPDATE_FRAME_BYTES);
      this.out.at = writeWindowUpdate(this.out.buffer, this.out.at, 0, this.#uncredited);
      this.#receiveWindow += this.#uncredited;
      this.#uncredited = 0;
    }
    const stream = this.streams.get(id);
    if (stream === undefined) {
      if (this.isIdle(id)) return PROTOCOL_ERROR;
      return this.#reset.has(id) || this.ignores(id) ? NO_ERROR : STREAM_CLOSED;
    }
    if (stream.remoteEnded) return this.streamError(stream, STREAM_CLOSED);
    stream.receiveWindow -= flowBytes;
    if (stream.receiveWindow < 0) return this.streamError(stream, FLOW_CONTROL_ERROR);
    if (start === end && !endStream && flowBytes === 0) return this.noise();
    if (this.#noise < NOISE_MAX) this.#noise++;
    if (stream.remaining >= 0) {
      stream.remaining -= end - start;
      if (stream.remaining < 0 || (endStream && stream.remaining > 0))
        return this.streamError(stream, PROTOCOL_ERROR);
    }
    if (endStream) stream.remoteEnded = true;
    if (end > start) stream.onData(buffer, start, end);
    if (endStream) this.ended(stream);
    else stream.received(flowBytes);
    return NO_ERROR;
  }

  /** The peer has sent its last frame of the stream. */
  ended(stream: Stream): void {
    stream.remoteEnded = true;
    stream.onEnded();
    if (stream.localEnded) this.forget(stream);
  }

  onReset(id: number, code: number): number {
    const stream = this.streams.get(id);
    if (stream === undefined) return this.isIdle(id) ? PROTOCOL_ERROR : this.noise();
    this.forget(stream);
    stream.onReset(code);
    return this.noise(NOISE_OF_RESET);
  }

  onSetting(id: number, value: number): number {
    switch (id) {
      case SETTINGS_HEADER_TABLE_SIZE:
        this.encoder.setTableBytesMax(value);
        break;
      case SETTINGS_MAX_CONCURRENT_STREAMS:
        this.peerStreamsMax = value;
        break;
      case SETTINGS_MAX_FRAME_SIZE:
        this.#frameBytesMax = Math.min(value, FRAME_SIZE_DEFAULT);
        break;
      case SETTINGS_INITIAL_WINDOW_SIZE: {
        const change = value - this.peerWindow;
        this.peerWindow = value;
        for (const stream of this.streams.list()) {
          stream.sendWindow += change;
          if (stream.sendWindow > WINDOW_MAX) return FLOW_CONTROL_ERROR;
        }
        if (change > 0) this.#widened = true;
        break;
      }
      default:
        break;
    }
    return NO_ERROR;
  }

  onSettingsEnd(): number {
    this.out.room(FRAME_HEADER_BYTES);
    this.out.at = writeSettingsAck(this.out.buffer, this.out.at);
    // All of them are in force first, and the peer knows it (RFC 9113 6.5.3).
    if (this.#widened) {
      this.#widened = false;
      for (const stream of this.streams.list()) stream.proceed();
    }
    return this.noise();
  }

  onSettingsAck(): number {
    return this.noise();
  }

  onPing(ack: boolean, high: number, low: number): number {
    if (ack) this.onPong(low);
    else this.sendPing(true, high, low);
    return this.noise();
  }

  /** The peer has read what was sent before a PING. */
  protected onPong(_low: number): void {}

  protected sendPing(ack: boolean, high: number, low: number): void {
    this.out.room(PING_FRAME_BYTES);
    this.out.at = writePing(this.out.buffer, this.out.at, ack, high, low);
  }

  abstract onGoAway(lastStream: number, code: number): number;

  onWindowUpdate(id: number, increment: number): number {
    if (id === 0) {
      this.#sendWindow += increment;
      if (this.#sendWindow > WINDOW_MAX) return FLOW_CONTROL_ERROR;
      this.#feed();
      return NO_ERROR;
    }
    const stream = this.streams.get(id);
    if (stream === undefined) return this.isIdle(id) ? PROTOCOL_ERROR : NO_ERROR;
    stream.sendWindow += increment;
    if (stream.sendWindow > WINDOW_MAX) return this.streamError(stream, FLOW_CONTROL_ERROR);
    if (!stream.blocked) return NO_ERROR;
    stream.proceed();
    return increment < CRUMB_BYTES ? this.noise(NOISE_OF_RESET) : NO_ERROR;
  }

  /** Streams go on that waited for the connection, each as far as it comes. */
  #feed(): void {
    for (const stream of this.#starved) {
      if (this.#sendWindow <= 0 || this.socket.writableLength >= UNSENT_BYTES_MAX) break;
      this.#starved.delete(stream);
      stream.starved = false;
      stream.proceed();
    }
  }

  onStreamError(id: number, code: number): number {
    const stream = this.streams.get(id);
    if (stream !== undefined) return this.streamError(stream, code);
    if (this.isIdle(id)) return PROTOCOL_ERROR;
    // Over already, maybe since the peer wrote this: it is told all the same.
    return this.refuse(id, code);
  }

  onIgnored(): number {
    return this.noise();
  }

  /** Whether no stream of that number was opened yet. */
  protected abstract isIdle(id: number): boolean;

  /** Whether the stream was begun after our last GOAWAY: its client makes it again elsewhere (RFC 9113 6.8). */
  protected ignores(_id: number): boolean {
    return false;
  }

  /** A mistake that concerns the stream only. */
  protected streamError(stream: Stream, code: number): number {
    stream.cancel(code);
    stream.onLost(code, false);
    return this.noise();
  }

  /** Resets a stream that was never begun, or is over. */
  protected refuse(id: number, code: number): number {
    this.#writeReset(id, code);
    return this.noise();
  }

  /** One frame of the kind that attacks consist of. */
  protected noise(cost = 1): number {
    this.#noise -= cost;
    if (this.#noise > 0) return NO_ERROR;
    const now = this.context.clock.nowMs();
    this.#noise = Math.min(NOISE_MAX, Math.floor(((now - this.#noiseMs) * NOISE_PER_SECOND) / 1000));
    this.#noiseMs = now;
    if (this.#noise > 0) return NO_ERROR;
    this.limited(floods[this.#reader.type] ?? FLOOD_OTHER);
    return ENHANCE_YOUR_CALM;
  }

  // ---- ends

  /** Is the peer still there? Asked only of connections in use; an idle one ends. */
  onTimeout(): void {
    if (this.#state === CLOSED) {
      this.socket.destroy();
      return;
    }
    const now = this.context.clock.nowMs();
    this.context.wheel.schedule(this, now, CHECK_MS);
    if (this.streams.size === 0) {
      this.spares.clear();
      this.onIdle(now);
      return;
    }
    for (const stream of this.streams.list()) {
      if (!stream.blocked || now - stream.movedMs < STALL_MS) continue;
      this.limited('stalled');
      this.streamError(stream, ENHANCE_YOUR_CALM);
    }
    if (now - this.receivedMs >= CHECK_MS) {
      if (this.#pinged) {
        this.socket.destroy();
        return;
      }
      this.#pinged = true;
      this.sendPing(false, 0, 0);
    }
  }

  #onEnd(): void {
    // Nobody half-closes an HTTP/2 connection: who has gone gets no answers.
    if (this.streams.size === 0 || this.#state === CLOSED) this.out.end();
    else this.socket.destroy();
    this.#state = CLOSED;
  }

  #onClose(): void {
    this.context.wheel.cancel(this);
    this.#state = CLOSED;
    this.#loseAll(CANCEL);
    this.onClosed();
  }
}
