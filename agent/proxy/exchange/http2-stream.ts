// SPDX-License-Identifier: Apache-2.0
// One stream of an HTTP/2 connection: its windows, what waits for them, and which sides have ended. What its frames
// mean for a request is decided by the two kinds of it (http2-server.ts, http2-client.ts). What cannot be sent is at
// most what its source had read when it was told to stop; what was received and not passed on is at most the window.

import { NO_ERROR } from '#lib/http2/codes.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { Http2Connection } from './http2-connection.ts';

/** As Linkerd's. */
export const STREAM_WINDOW = 65_535;

export abstract class Stream {
  /** 0 until its first frame is sent or received. */
  id = 0;
  readonly connection: Http2Connection;
  /** What the peer takes. */
  sendWindow: number;
  /** What the peer may send. */
  receiveWindow = STREAM_WINDOW;
  localEnded = false;
  remoteEnded = false;
  /** Of the body that is to come, by `content-length`; -1: unknown. */
  remaining = -1;
  /** Waits for the connection's window. */
  starved = false;
  /** What we send is the whole exchange: whatever the peer has not sent by its end is not wanted. */
  endsBoth = false;
  /** When what waits here moved last. */
  movedMs = 0;
  #pending: Buffer | null = null;
  #pendingEnd = false;
  #pendingTrailers: HeaderList | null = null;
  #uncredited = 0;
  #paused = false;

  constructor(connection: Http2Connection) {
    this.connection = connection;
    this.sendWindow = connection.peerWindow;
  }

  /** Begins anew, as another stream. */
  again(): void {
    this.id = 0;
    this.sendWindow = this.connection.peerWindow;
    this.receiveWindow = STREAM_WINDOW;
    this.localEnded = false;
    this.remoteEnded = false;
    this.remaining = -1;
    this.starved = false;
    this.endsBoth = false;
    this.#pending = null;
    this.#pendingEnd = false;
    this.#pendingTrailers = null;
    this.#uncredited = 0;
    this.#paused = false;
  }

  /** What could not be sent waits here: no more, please. */
  get blocked(): boolean {
    return this.#pending !== null;
  }

  abstract onHeaders(list: HeaderList, endStream: boolean): number;
  abstract onData(buffer: Buffer, start: number, end: number): void;
  /** The peer has sent everything. */
  abstract onEnded(): void;
  /** The peer reset it. */
  abstract onReset(code: number): void;
  /** An error of the stream or the end of the connection ended it. `unprocessed`: nothing was done with it. */
  abstract onLost(code: number, unprocessed: boolean): void;
  /** Nothing waits any more. */
  abstract onWritable(): void;

  // ---- sending

  data(buffer: Buffer, start: number, end: number, endStream: boolean): void {
    if (this.localEnded) return;
    let at = start;
    if (this.#pending === null) {
      at = this.connection.sendData(this, buffer, start, end, endStream);
      if (at === end) {
        if (endStream) this.#ended();
        return;
      }
      this.#pending = Buffer.from(buffer.subarray(at, end));
      this.movedMs = this.connection.nowMs;
    } else {
      this.#pending = Buffer.concat([this.#pending, buffer.subarray(at, end)]);
    }
    this.#pendingEnd = endStream;
  }

  end(): void {
    if (this.localEnded) return;
    if (this.#pending !== null) {
      this.#pendingEnd = true;
      return;
    }
    this.connection.sendEmptyData(this);
    this.#ended();
  }

  /** Ends with a trailer section. */
  trailers(list: HeaderList): void {
    if (this.localEnded) return;
    if (this.#pending !== null) {
      this.#pendingEnd = true;
      this.#pendingTrailers = list;
      return;
    }
    this.connection.sendTrailers(this, list);
    this.#ended();
  }

  /** The windows may have room again. */
  proceed(): void {
    const pending = this.#pending;
    if (pending === null) return;
    const trailers = this.#pendingTrailers;
    const endsHere = this.#pendingEnd && trailers === null;
    const at = this.connection.sendData(this, pending, 0, pending.length, endsHere);
    if (at < pending.length) {
      if (at > 0) {
        this.#pending = pending.subarray(at);
        this.movedMs = this.connection.nowMs;
      }
      return;
    }
    this.#pending = null;
    if (this.#pendingEnd) {
      if (trailers !== null) this.connection.sendTrailers(this, trailers);
      this.#ended();
    }
    this.onWritable();
  }

  #ended(): void {
    this.localEnded = true;
    this.#pendingTrailers = null;
    if (this.remoteEnded) this.connection.forget(this);
    else if (this.endsBoth) this.cancel(NO_ERROR);
  }

  /** The head that was sent was all there is. */
  headEnded(): void {
    this.#ended();
  }

  /** Ends it now, both ways, if it has not ended. Nobody hears of it here. */
  cancel(code: number): void {
    if (this.id === 0 || this.connection.streams.get(this.id) !== this) return;
    if (!(this.localEnded && this.remoteEnded)) this.connection.sendReset(this, code);
    this.connection.forget(this);
  }

  // ---- receiving

  /** Whoever takes what is received takes no more, or takes it again. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#credit();
  }

  /** NO_ERROR, or what is wrong with the stream. `flowBytes` were taken off the window. */
  received(flowBytes: number): void {
    this.#uncredited += flowBytes;
    this.#credit();
  }

  #credit(): void {
    if (this.#paused || this.remoteEnded || this.#uncredited < STREAM_WINDOW >> 1) return;
    this.receiveWindow += this.#uncredited;
    this.connection.sendWindowUpdate(this, this.#uncredited);
    this.#uncredited = 0;
  }

  /** The connection dropped it. */
  dropped(): void {
    this.#pending = null;
    this.#pendingTrailers = null;
    this.starved = false;
  }
}
