// SPDX-License-Identifier: Apache-2.0
// Reader of HTTP/2 frames (RFC 9113 4, 6): bytes in, events out. It knows framing, not streams: which stream may get
// which frame, windows, counts of floods and settings in force are its handler's matter. One object per connection;
// nothing is allocated per frame, except for header blocks that are split across reads or frames.
//
//   PREFACE (server only) -> HEADER <-> SMALL (fixed payloads) | PAD_LENGTH -> DATA -> SKIP (padding) | BLOCK | SKIP
//
// DATA is passed on in parts, as it comes; a header block in one piece. Writing is `frame-writer.ts`.

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
  FRAME_HEADER_BYTES,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_PRIORITY,
  FRAME_PUSH_PROMISE,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_SIZE_DEFAULT,
  FRAME_SIZE_ERROR,
  FRAME_SIZE_MAX,
  FRAME_WINDOW_UPDATE,
  NO_ERROR,
  PROTOCOL_ERROR,
  SETTINGS_ENABLE_PUSH,
  SETTINGS_INITIAL_WINDOW_SIZE,
  SETTINGS_MAX_FRAME_SIZE,
  WINDOW_MAX,
} from './codes.ts';
import { BLOCK_BYTES_MAX, CONTINUATIONS_MAX } from './limits.ts';

/** Each method answers NO_ERROR to go on, or the error with which the connection has to end. */
export interface FrameHandler {
  /**
   * Payload `buffer[start, end)` of a DATA frame or a part of it, valid until the call returns. `flowBytes` is what
   * counts for flow control: with padding, which is counted with the first part. `endStream` comes with the last part
   * only. An empty frame is told once, with `start === end`; so is padding's end if the stream ends with it.
   */
  onData(
    stream: number,
    buffer: Buffer,
    start: number,
    end: number,
    flowBytes: number,
    endStream: boolean,
  ): number;
  /**
   * A whole header block, valid until the call returns. `streamError`: if not NO_ERROR, decode it (the compression
   * state depends on it) and reset the stream.
   */
  onHeaders(
    stream: number,
    endStream: boolean,
    streamError: number,
    buffer: Buffer,
    start: number,
    end: number,
  ): number;
  onReset(stream: number, code: number): number;
  /** One of a SETTINGS frame's, value checked; unknown ones too. */
  onSetting(id: number, value: number): number;
  /** The SETTINGS frame is complete: apply and acknowledge. */
  onSettingsEnd(): number;
  onSettingsAck(): number;
  /** The opaque data as two halves, to be given to `writePing`. */
  onPing(ack: boolean, high: number, low: number): number;
  onGoAway(lastStream: number, code: number): number;
  /** `increment` is at least 1; whether the window overflows is the handler's matter. */
  onWindowUpdate(stream: number, increment: number): number;
  /** A frame whose content concerns that stream only is wrong: reset it. */
  onStreamError(stream: number, code: number): number;
  /** PRIORITY (RFC 9113 5.3.2) or an unknown frame: nothing to do but to count it. */
  onIgnored(type: number, stream: number): number;
}

const PREFACE = 0;
const HEADER = 1;
const SMALL = 2;
const PAD_LENGTH = 3;
const DATA = 4;
const BLOCK = 5;
const SKIP = 6;
const DEAD = 7;

const SETTING_BYTES = 6;
const BLOCK_BYTES_MIN = 512;

/** What a client sends first (RFC 9113 3.4). */
export const connectionPreface: Buffer = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

const noBlock = Buffer.alloc(0);

export class FrameReader {
  /** Of the frame being read, for messages about an error. */
  type = 0;
  stream = 0;

  #state: number;
  #flags = 0;
  /** Of the frame's payload. */
  #remaining = 0;
  #padding = 0;
  /** Flow-controlled bytes of padding that have not been told yet. */
  #overhead = 0;
  readonly #scratch = Buffer.alloc(FRAME_HEADER_BYTES);
  #have = 0;
  #need = 0;
  #settingsSeen = false;
  /** Whose header block goes on in CONTINUATION, or 0. */
  #continuing = 0;
  #continuations = 0;
  /** What there is of a block that is split, the padding of its HEADERS included. */
  #block: Buffer = noBlock;
  #blockStart = 0;
  #blockEnd = 0;
  #blockEndsStream = false;
  #blockError = NO_ERROR;
  #error = NO_ERROR;

  readonly #isServer: boolean;
  readonly #handler: FrameHandler;
  readonly #frameSizeMax: number;

  /** A server reads the client's preface first. `frameSizeMax` is what our SETTINGS say. */
  constructor(isServer: boolean, handler: FrameHandler, frameSizeMax: number = FRAME_SIZE_DEFAULT) {
    this.#isServer = isServer;
    this.#handler = handler;
    this.#frameSizeMax = frameSizeMax;
    this.#state = isServer ? PREFACE : HEADER;
  }

  /** Whether the connection could end here without cutting off a frame. */
  get betweenFrames(): boolean {
    return this.#state === HEADER && this.#have === 0 && this.#continuing === 0;
  }

  /** Reads all of `buffer[start, end)`; NO_ERROR, or what the connection has to end with, then and ever after. */
  push(buffer: Buffer, start: number, end: number): number {
    let at = start;
    while (at < end) {
      switch (this.#state) {
        case HEADER:
          if (this.#have === 0 && end - at >= FRAME_HEADER_BYTES) {
            this.#error = this.#startFrame(buffer, at);
            at += FRAME_HEADER_BYTES;
            break;
          }
          at = this.#gather(buffer, at, end, FRAME_HEADER_BYTES);
          if (this.#have < FRAME_HEADER_BYTES) return NO_ERROR;
          this.#have = 0;
          this.#error = this.#startFrame(this.#scratch, 0);
          break;
        case DATA: {
          const taken = Math.min(end - at, this.#remaining);
          this.#remaining -= taken;
          this.#error = this.#data(buffer, at, at + taken);
          at += taken;
          break;
        }
        case BLOCK: {
          const taken = Math.min(end - at, this.#remaining);
          this.#error = this.#blockPart(buffer, at, at + taken);
          at += taken;
          break;
        }
        case SMALL: {
          const bytes = this.#need;
          if (this.#have === 0 && end - at >= bytes) {
            this.#error = this.#small(buffer, at);
            at += bytes;
            break;
          }
          at = this.#gather(buffer, at, end, bytes);
          if (this.#have < bytes) return NO_ERROR;
          this.#have = 0;
          this.#error = this.#small(this.#scratch, 0);
          break;
        }
        case SKIP: {
          const taken = Math.min(end - at, this.#remaining);
          this.#remaining -= taken;
          at += taken;
          if (this.#remaining === 0) this.#error = this.#endSkip(buffer, at);
          break;
        }
        case PAD_LENGTH:
          this.#error = this.#padLength(buffer, at);
          at++;
          break;
        case PREFACE:
          if (buffer[at++] !== connectionPreface[this.#have++]) {
            this.#error = PROTOCOL_ERROR;
          } else if (this.#have === connectionPreface.length) {
            this.#have = 0;
            this.#state = HEADER;
          }
          break;
        default:
          return this.#error;
      }
      if (this.#error !== NO_ERROR) {
        this.#state = DEAD;
        this.#block = noBlock;
      }
    }
    return this.#error;
  }

  /** Copies what is missing of `wanted` bytes into the scratch; new position. */
  #gather(buffer: Buffer, start: number, end: number, wanted: number): number {
    let at = start;
    while (at < end && this.#have < wanted) this.#scratch[this.#have++] = buffer[at++] as number;
    return at;
  }

  /** Checks what the header says and goes to the state that reads the payload; ends a frame that has none. */
  #startFrame(buffer: Buffer, at: number): number {
    const length =
      ((buffer[at] as number) << 16) | ((buffer[at + 1] as number) << 8) | (buffer[at + 2] as number);
    const type = buffer[at + 3] as number;
    const flags = buffer[at + 4] as number;
    const stream = uint31(buffer, at + 5);
    this.type = type;
    this.stream = stream;
    this.#flags = flags;
    this.#remaining = length;
    if (length > this.#frameSizeMax) return FRAME_SIZE_ERROR;
    if (!this.#settingsSeen) {
      // RFC 9113 3.4: each side's preface is a SETTINGS frame.
      if (type !== FRAME_SETTINGS || (flags & FLAG_ACK) !== 0) return PROTOCOL_ERROR;
      this.#settingsSeen = true;
    }
    if (this.#continuing !== 0 && (type !== FRAME_CONTINUATION || stream !== this.#continuing))
      return PROTOCOL_ERROR;
    switch (type) {
      case FRAME_DATA:
        return this.#startData(length);
      case FRAME_HEADERS:
        if (stream === 0) return PROTOCOL_ERROR;
        this.#continuations = 0;
        this.#blockStart = 0;
        this.#blockEnd = 0;
        this.#blockEndsStream = (flags & FLAG_END_STREAM) !== 0;
        this.#blockError = NO_ERROR;
        return this.#startBlockFrame(length);
      case FRAME_CONTINUATION:
        if (this.#continuing === 0) return PROTOCOL_ERROR;
        if (++this.#continuations > CONTINUATIONS_MAX) return ENHANCE_YOUR_CALM;
        return this.#startBlockFrame(length);
      case FRAME_PRIORITY:
        if (stream === 0) return PROTOCOL_ERROR;
        if (length === 5) return this.#startSmall(5);
        return this.#startSkip(length) || this.#handler.onStreamError(stream, FRAME_SIZE_ERROR);
      case FRAME_RST_STREAM:
        return stream === 0 ? PROTOCOL_ERROR : length !== 4 ? FRAME_SIZE_ERROR : this.#startSmall(4);
      case FRAME_SETTINGS:
        return this.#startSettings(length);
      case FRAME_PUSH_PROMISE:
        // A client may not push (RFC 9113 8.4), and to servers we say ENABLE_PUSH = 0.
        return PROTOCOL_ERROR;
      case FRAME_PING:
        return stream !== 0 ? PROTOCOL_ERROR : length !== 8 ? FRAME_SIZE_ERROR : this.#startSmall(8);
      case FRAME_GOAWAY:
        return stream !== 0 ? PROTOCOL_ERROR : length < 8 ? FRAME_SIZE_ERROR : this.#startSmall(8);
      case FRAME_WINDOW_UPDATE:
        return length !== 4 ? FRAME_SIZE_ERROR : this.#startSmall(4);
      default:
        return this.#startSkip(length) || this.#handler.onIgnored(type, stream);
    }
  }

  #startSmall(bytes: number): number {
    this.#need = bytes;
    this.#state = SMALL;
    return NO_ERROR;
  }

  #startSkip(bytes: number): number {
    this.#remaining = bytes;
    this.#state = bytes === 0 ? HEADER : SKIP;
    return NO_ERROR;
  }

  /** The end of what was skipped is the end of the frame. */
  #endSkip(buffer: Buffer, at: number): number {
    this.#state = HEADER;
    if (this.type !== FRAME_DATA || (this.#flags & FLAG_END_STREAM) === 0) return NO_ERROR;
    return this.#handler.onData(this.stream, buffer, at, at, 0, true);
  }

  #startData(length: number): number {
    if (this.stream === 0) return PROTOCOL_ERROR;
    this.#padding = 0;
    this.#overhead = 0;
    if ((this.#flags & FLAG_PADDED) !== 0) {
      this.#state = PAD_LENGTH;
      return length === 0 ? FRAME_SIZE_ERROR : NO_ERROR;
    }
    this.#state = DATA;
    return length === 0 ? this.#data(this.#scratch, 0, 0) : NO_ERROR;
  }

  #padLength(buffer: Buffer, at: number): number {
    this.#padding = buffer[at] as number;
    this.#remaining -= 1 + this.#padding;
    if (this.#remaining < 0) return PROTOCOL_ERROR;
    this.#overhead = 1 + this.#padding;
    this.#state = DATA;
    return this.#remaining === 0 ? this.#data(buffer, at, at) : NO_ERROR;
  }

  /** Tells a part of the payload; `#remaining` is what comes after it. */
  #data(buffer: Buffer, start: number, end: number): number {
    const flowBytes = end - start + this.#overhead;
    this.#overhead = 0;
    let endStream = false;
    if (this.#remaining === 0) {
      endStream = this.#padding === 0 && (this.#flags & FLAG_END_STREAM) !== 0;
      this.#startSkip(this.#padding);
    }
    return this.#handler.onData(this.stream, buffer, start, end, flowBytes, endStream);
  }

  #startBlockFrame(length: number): number {
    if (this.#blockEnd + length > BLOCK_BYTES_MAX) return ENHANCE_YOUR_CALM;
    this.#state = BLOCK;
    return length === 0 ? this.#blockPart(this.#scratch, 0, 0) : NO_ERROR;
  }

  #blockPart(buffer: Buffer, start: number, end: number): number {
    const bytes = end - start;
    this.#remaining -= bytes;
    const complete = this.#remaining === 0;
    const endsHeaders = (this.#flags & FLAG_END_HEADERS) !== 0;
    if (complete && endsHeaders && this.#blockEnd === 0 && this.type === FRAME_HEADERS) {
      // The usual case: one frame, in one read.
      const error = this.#strip(buffer, start, end);
      if (error !== NO_ERROR) return error;
      return this.#endBlock(buffer);
    }
    if (this.#blockEnd + bytes > this.#block.length) {
      const grown = Buffer.allocUnsafeSlow(
        Math.max(BLOCK_BYTES_MIN, this.#blockEnd + bytes, this.#block.length * 2),
      );
      this.#block.copy(grown, 0, 0, this.#blockEnd);
      this.#block = grown;
    }
    buffer.copy(this.#block, this.#blockEnd, start, end);
    this.#blockEnd += bytes;
    if (!complete) return NO_ERROR;
    if (this.type === FRAME_HEADERS) {
      const error = this.#strip(this.#block, 0, this.#blockEnd);
      if (error !== NO_ERROR) return error;
    }
    if (endsHeaders) return this.#endBlock(this.#block);
    this.#continuing = this.stream;
    this.#state = HEADER;
    return NO_ERROR;
  }

  /** Finds the fragment of the block in a HEADERS payload: without padding and priority. */
  #strip(buffer: Buffer, start: number, end: number): number {
    let at = start;
    let fragmentEnd = end;
    if ((this.#flags & FLAG_PADDED) !== 0) {
      if (at === end) return FRAME_SIZE_ERROR;
      fragmentEnd -= buffer[at++] as number;
    }
    if ((this.#flags & FLAG_PRIORITY) !== 0) {
      if (end - at < 5) return FRAME_SIZE_ERROR;
      // RFC 7540 5.3.1: a stream cannot depend on itself. RFC 9113 has no dependencies, but still expects well-formed ones.
      if (uint31(buffer, at) === this.stream) this.#blockError = PROTOCOL_ERROR;
      at += 5;
    }
    if (at > fragmentEnd) return PROTOCOL_ERROR;
    this.#blockStart = at;
    this.#blockEnd = fragmentEnd;
    return NO_ERROR;
  }

  #endBlock(buffer: Buffer): number {
    const start = this.#blockStart;
    const end = this.#blockEnd;
    this.#continuing = 0;
    this.#state = HEADER;
    const { stream } = this;
    const error = this.#handler.onHeaders(
      stream,
      this.#blockEndsStream,
      this.#blockError,
      buffer,
      start,
      end,
    );
    if (this.#block !== noBlock) this.#block = noBlock;
    return error;
  }

  #startSettings(length: number): number {
    if (this.stream !== 0) return PROTOCOL_ERROR;
    if ((this.#flags & FLAG_ACK) !== 0) {
      if (length !== 0) return FRAME_SIZE_ERROR;
      this.#state = HEADER;
      return this.#handler.onSettingsAck();
    }
    if (length % SETTING_BYTES !== 0) return FRAME_SIZE_ERROR;
    if (length > 0) return this.#startSmall(SETTING_BYTES);
    this.#state = HEADER;
    return this.#handler.onSettingsEnd();
  }

  /** A payload of fixed length, or one setting, at `buffer[at]`. */
  #small(buffer: Buffer, at: number): number {
    this.#remaining -= this.#need;
    this.#state = HEADER;
    const { stream } = this;
    switch (this.type) {
      case FRAME_SETTINGS:
        return this.#setting(
          ((buffer[at] as number) << 8) | (buffer[at + 1] as number),
          uint32(buffer, at + 2),
        );
      case FRAME_WINDOW_UPDATE: {
        const increment = uint31(buffer, at);
        if (increment > 0) return this.#handler.onWindowUpdate(stream, increment);
        return stream === 0 ? PROTOCOL_ERROR : this.#handler.onStreamError(stream, PROTOCOL_ERROR);
      }
      case FRAME_RST_STREAM:
        return this.#handler.onReset(stream, uint32(buffer, at));
      case FRAME_PING:
        return this.#handler.onPing((this.#flags & FLAG_ACK) !== 0, int32(buffer, at), int32(buffer, at + 4));
      case FRAME_GOAWAY:
        // Then there may be debug data.
        this.#startSkip(this.#remaining);
        return this.#handler.onGoAway(uint31(buffer, at), uint32(buffer, at + 4));
      default:
        if (uint31(buffer, at) === stream) return this.#handler.onStreamError(stream, PROTOCOL_ERROR);
        return this.#handler.onIgnored(FRAME_PRIORITY, stream);
    }
  }

  #setting(id: number, value: number): number {
    // RFC 9113 6.5.2
    if (id === SETTINGS_ENABLE_PUSH && value > (this.#isServer ? 1 : 0)) return PROTOCOL_ERROR;
    if (id === SETTINGS_INITIAL_WINDOW_SIZE && value > WINDOW_MAX) return FLOW_CONTROL_ERROR;
    if (id === SETTINGS_MAX_FRAME_SIZE && (value < FRAME_SIZE_DEFAULT || value > FRAME_SIZE_MAX))
      return PROTOCOL_ERROR;
    const error = this.#handler.onSetting(id, value);
    if (error !== NO_ERROR) return error;
    if (this.#remaining > 0) return this.#startSmall(SETTING_BYTES);
    return this.#handler.onSettingsEnd();
  }
}

function int32(buffer: Buffer, at: number): number {
  return (
    ((buffer[at] as number) << 24) |
    ((buffer[at + 1] as number) << 16) |
    ((buffer[at + 2] as number) << 8) |
    (buffer[at + 3] as number)
  );
}

function uint32(buffer: Buffer, at: number): number {
  return int32(buffer, at) >>> 0;
}

/** Without the reserved bit. */
function uint31(buffer: Buffer, at: number): number {
  return int32(buffer, at) & WINDOW_MAX;
}
