// SPDX-License-Identifier: Apache-2.0
// Incremental decoder of HTTP/1 bodies: by length, chunked, or until the connection ends. It says which ranges of the
// buffer travel on. A chunked body travels with its framing (so that a relay copies nothing), without extensions and
// without trailers that must not be merged; `payloadOnly` leaves the framing out, for HTTP/1.0 and HTTP/2.
// One object per connection and direction; nothing is allocated unless a trailer line is split across reads.

import { hexValue, valueCharacter } from '#lib/http/characters.ts';
import { BAD_MESSAGE, type Head, TOO_LARGE } from './head.ts';
import {
  CHUNK_EXTENSION_BYTES_MAX,
  CHUNK_SIZE_DIGITS_MAX,
  TRAILER_BYTES_MAX,
  TRAILER_FIELDS_MAX,
} from './limits.ts';

export interface BodySink {
  /** `buffer[start, end)` is the next part; valid until the call returns. */
  onBody(buffer: Buffer, start: number, end: number): void;
  /** With `payloadOnly`: a trailer field's line with its CRLF, valid until the call returns. */
  onTrailer?(buffer: Buffer, start: number, end: number): void;
}

const DONE = 0;
const LENGTH = 1;
const UNTIL_CLOSE = 2;
const SIZE = 3;
const BEFORE_EXTENSION = 4;
const EXTENSION = 5;
const SIZE_LF = 6;
const DATA = 7;
const DATA_CR = 8;
const DATA_LF = 9;
const TRAILER = 10;

const CR = 13;
const LF = 10;
const SPACE = 32;
const TAB = 9;
const SEMICOLON = 59;

export class BodyDecoder {
  #state = DONE;
  #remaining = 0;
  #digits = 0;
  #extensionBytes = 0;
  #trailerBytes = 0;
  #trailerFields = 0;
  #payloadOnly = false;
  /** Start of a trailer line whose end has not come yet. */
  #line: Buffer | null = null;
  readonly #head: Head;

  /** `head` validates trailer fields. */
  constructor(head: Head) {
    this.#head = head;
  }

  get done(): boolean {
    return this.#state === DONE;
  }

  /** Whether the end of the connection is the end of this body. */
  get untilClose(): boolean {
    return this.#state === UNTIL_CLOSE;
  }

  startNone(): void {
    this.#state = DONE;
  }

  startLength(length: number): void {
    this.#remaining = length;
    this.#state = length === 0 ? DONE : LENGTH;
  }

  startUntilClose(): void {
    this.#state = UNTIL_CLOSE;
  }

  startChunked(payloadOnly: boolean): void {
    this.#state = SIZE;
    this.#remaining = 0;
    this.#digits = 0;
    this.#extensionBytes = 0;
    this.#trailerBytes = 0;
    this.#trailerFields = 0;
    this.#payloadOnly = payloadOnly;
    this.#line = null;
  }

  /** Leaves out the framing of a chunked body of which nothing was decoded yet. */
  leaveOutFraming(): void {
    this.#payloadOnly = true;
  }

  /**
   * How many of the next `available` bytes are body, if that can be said without looking at them (not chunked); they
   * count as passed on. Lets a head and its body leave in one piece.
   */
  take(available: number): number {
    if (this.#state === UNTIL_CLOSE) return available;
    if (this.#state !== LENGTH) return 0;
    const taken = available < this.#remaining ? available : this.#remaining;
    this.#remaining -= taken;
    if (this.#remaining === 0) this.#state = DONE;
    return taken;
  }

  /** Decodes `buffer[start, end)`; returns the position after the body (or `end`), or a negative verdict. */
  push(buffer: Buffer, start: number, end: number, sink: BodySink): number {
    if (this.#state === LENGTH || this.#state === UNTIL_CLOSE) {
      const taken = this.take(end - start);
      sink.onBody(buffer, start, start + taken);
      return start + taken;
    }
    return this.#state === DONE ? start : this.#pushChunked(buffer, start, end, sink);
  }

  #pushChunked(buffer: Buffer, start: number, end: number, sink: BodySink): number {
    const framing = !this.#payloadOnly;
    let at = start;
    /** What was decoded from here on travels on and has not been told yet. */
    let open = start;
    while (at < end) {
      const byte = buffer[at] as number;
      switch (this.#state) {
        case SIZE: {
          const value = hexValue[byte] as number;
          if (value < 16) {
            if (++this.#digits > CHUNK_SIZE_DIGITS_MAX) return BAD_MESSAGE;
            this.#remaining = this.#remaining * 16 + value;
            if (this.#remaining > Number.MAX_SAFE_INTEGER) return BAD_MESSAGE;
            at++;
            break;
          }
          if (this.#digits === 0) return BAD_MESSAGE;
          if (byte === CR) {
            this.#state = SIZE_LF;
            at++;
            break;
          }
          if (byte !== SEMICOLON && byte !== SPACE && byte !== TAB) return BAD_MESSAGE;
          if (framing && at > open) sink.onBody(buffer, open, at);
          this.#state = BEFORE_EXTENSION;
          break;
        }
        case BEFORE_EXTENSION:
          if (byte === SEMICOLON) this.#state = EXTENSION;
          else if (byte !== SPACE && byte !== TAB) return BAD_MESSAGE;
          if (++this.#extensionBytes > CHUNK_EXTENSION_BYTES_MAX) return BAD_MESSAGE;
          at++;
          open = at;
          break;
        case EXTENSION:
          if (byte === CR) {
            open = at;
            this.#state = SIZE_LF;
          } else {
            if (valueCharacter[byte] === 0) return BAD_MESSAGE;
            if (++this.#extensionBytes > CHUNK_EXTENSION_BYTES_MAX) return BAD_MESSAGE;
            open = at + 1;
          }
          at++;
          break;
        case SIZE_LF:
          if (byte !== LF) return BAD_MESSAGE;
          at++;
          this.#digits = 0;
          if (this.#remaining === 0) {
            this.#state = TRAILER;
          } else {
            this.#state = DATA;
            if (!framing) open = at;
          }
          break;
        case DATA: {
          const taken = end - at < this.#remaining ? end - at : this.#remaining;
          at += taken;
          this.#remaining -= taken;
          if (this.#remaining === 0) this.#state = DATA_CR;
          if (!framing) {
            sink.onBody(buffer, open, at);
            open = at;
          }
          break;
        }
        case DATA_CR:
          if (byte !== CR) return BAD_MESSAGE;
          this.#state = DATA_LF;
          at++;
          break;
        case DATA_LF:
          if (byte !== LF) return BAD_MESSAGE;
          this.#state = SIZE;
          at++;
          break;
        default: {
          if (framing && at > open) sink.onBody(buffer, open, at);
          at = this.#trailerLine(buffer, at, end, sink);
          if (at < 0) return at;
          open = at;
          if (this.#state === DONE) return at;
        }
      }
    }
    if (framing && open < end) sink.onBody(buffer, open, end);
    return end;
  }

  /** One line of the trailer section, or what there is of it. */
  #trailerLine(buffer: Buffer, start: number, end: number, sink: BodySink): number {
    let at = start;
    while (at < end && buffer[at] !== LF) at++;
    const complete = at < end;
    if (complete) at++;
    this.#trailerBytes += at - start;
    if (this.#trailerBytes > TRAILER_BYTES_MAX) return TOO_LARGE;
    let line = buffer;
    let lineStart = start;
    let lineEnd = at;
    if (this.#line !== null || !complete) {
      const piece = buffer.subarray(start, at);
      line = this.#line === null ? Buffer.from(piece) : Buffer.concat([this.#line, piece]);
      lineStart = 0;
      lineEnd = line.length;
      this.#line = complete ? null : line;
      if (!complete) return at;
    }
    if (lineEnd - lineStart === 2 && line[lineStart] === CR) {
      this.#state = DONE;
      if (!this.#payloadOnly) sink.onBody(line, lineStart, lineEnd);
      return at;
    }
    if (++this.#trailerFields > TRAILER_FIELDS_MAX) return TOO_LARGE;
    const verdict = this.#head.trailer(line, lineStart, lineEnd);
    if (verdict < 0) return BAD_MESSAGE;
    if (verdict > 0) {
      if (this.#payloadOnly) sink.onTrailer?.(line, lineStart, lineEnd);
      else sink.onBody(line, lineStart, lineEnd);
    }
    return at;
  }
}
