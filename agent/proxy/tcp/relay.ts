// SPDX-License-Identifier: Apache-2.0
// Carries bytes both ways between two connections and what happens to one of them to the other: the end of one
// direction (half-close), slowness, reset. Knows nothing of what is said.
//
//   left ──bytes──▶ right     'end' of left  ──▶ FIN to right, the other direction goes on
//   left ◀──bytes── right     reset of left  ──▶ reset of right

import type { Clock, Timer } from '#lib/core/clock.ts';
import { PlainSocket, SHARED_BUFFER_BYTES } from '#lib/net/plain-socket.ts';
import type { TcpSource } from '../exchange/byte-source.ts';
import { type Flushed, Flusher } from '../exchange/outbox.ts';
import { type Slab, takeSlab } from './slab.ts';

/** A half-closed pair in which nothing moves any more is reset. */
const HALF_CLOSED_IDLE_MS = 60 * 60_000;
/** Both ends are said, and a peer takes nothing of what is still to be written: the pair is reset. */
const UNREAD_MS = 5 * 60_000;

export interface RelayOptions {
  readonly clock: Clock;
  readonly halfClosedIdleMs?: number;
  readonly unreadMs?: number;
  /** After both sockets are closed. */
  readonly onClosed: () => void;
}

/**
 * A sink that holds as much stops its source. More than one read, so that writing and reading can overlap. An encrypted
 * one stops it at its own mark, since what comes until its write is over (in the same turn) would be copied twice.
 */
const WAITING_BYTES_MAX = 131_072;

/** What OpenSSL gives out at once; valid within a callback, as all that is read. */
const decrypted = Buffer.allocUnsafeSlow(16_384);
/** For bulk that is to be encrypted: what is there with one read and one write. */
const wide = Buffer.allocUnsafeSlow(131_072);

/** One per thread: what came in a turn of the event loop leaves at its end. */
const flusher = new Flusher();

/** `first` is what left sent already. Both sources are paused. Returns a function that resets both. */
export function relay(
  left: TcpSource,
  right: TcpSource,
  first: Buffer | null,
  options: RelayOptions,
): () => void {
  const pair = new Relay(left, right, options);
  pair.start(first);
  return () => pair.reset();
}

class Relay {
  readonly #options: RelayOptions;
  readonly #toRight: Direction;
  readonly #toLeft: Direction;
  #open = 2;
  #idle: Timer | null = null;
  #movedAtMs = 0;

  constructor(left: TcpSource, right: TcpSource, options: RelayOptions) {
    this.#options = options;
    this.#toRight = new Direction(left, right, this);
    this.#toLeft = new Direction(right, left, this);
  }

  start(first: Buffer | null): void {
    this.#toRight.start(first);
    this.#toLeft.start(null);
  }

  reset(): void {
    this.#toRight.source.reset();
    this.#toLeft.source.reset();
  }

  get bothEnded(): boolean {
    return this.#toRight.ended && this.#toLeft.ended;
  }

  moved(): void {
    if (this.#idle !== null) this.#movedAtMs = this.#options.clock.nowMs();
  }

  onEnded(): void {
    if (this.bothEnded) {
      this.#idle?.cancel();
      this.#idle = this.#watchUnread(this.#options.unreadMs ?? UNREAD_MS);
      return;
    }
    this.#idle ??= this.#watchIdle(this.#options.halfClosedIdleMs ?? HALF_CLOSED_IDLE_MS);
  }

  #watchIdle(limitMs: number): Timer {
    this.#movedAtMs = this.#options.clock.nowMs();
    const check = (): void => {
      const rest = this.#movedAtMs + limitMs - this.#options.clock.nowMs();
      if (rest <= 0) this.reset();
      else this.#idle = this.#options.clock.after(rest, check);
    };
    return this.#options.clock.after(limitMs, check);
  }

  /** Nothing is read any more, so only what waits to be written tells whether somebody still listens. */
  #watchUnread(limitMs: number): Timer {
    let before = this.#unwritten;
    const check = (): void => {
      const now = this.#unwritten;
      if (now < before) {
        before = now;
        this.#idle = this.#options.clock.after(limitMs, check);
      } else this.reset();
    };
    return this.#options.clock.after(limitMs, check);
  }

  get #unwritten(): number {
    return this.#toRight.source.socket.writableLength + this.#toLeft.source.socket.writableLength;
  }

  onClosed(): void {
    if (--this.#open > 0) return;
    this.#idle?.cancel();
    this.#options.onClosed();
  }
}

/**
 * One direction: reads `source`, writes `sink`. What comes in small pieces (16 KiB from TLS) is gathered for a turn of
 * the event loop in one of the thread's slabs, so that nothing is allocated for bytes that pass.
 */
class Direction implements Flushed {
  readonly source: TcpSource;
  readonly #sink: TcpSource;
  readonly #pair: Relay;
  ended = false;
  #slab: Slab | null = null;
  #at = 0;
  #queued = false;

  constructor(source: TcpSource, sink: TcpSource, pair: Relay) {
    this.source = source;
    this.#sink = sink;
    this.#pair = pair;
  }

  start(first: Buffer | null): void {
    const { socket } = this.source;
    const sink = this.#sink.socket;
    this.source.onBytes = (buffer, length) => this.#onBytes(buffer, length);
    if (this.source.encrypted) this.source.readInto?.(decrypted);
    if (socket instanceof PlainSocket && sink instanceof PlainSocket) {
      socket.passTo(sink, () => {
        this.#pair.moved();
        this.#hold();
      });
    }
    sink.on('drain', () => {
      if (!socket.destroyed) socket.resume();
    });
    socket.on('end', () => this.#onEnd());
    socket.on('error', () => this.#sink.reset());
    socket.on('close', () => {
      if (!this.ended) this.#sink.reset();
      this.#pair.onClosed();
    });
    if (socket.destroyed) {
      // Closed between two stages: its events are over.
      this.#sink.reset();
      this.#pair.onClosed();
      return;
    }
    const writable = first === null || first.length === 0 || sink.write(first);
    if (socket.readableEnded) this.#onEnd();
    else if (writable) socket.resume();
  }

  #onBytes(buffer: Buffer, length: number): void {
    this.#pair.moved();
    const sink = this.#sink.socket;
    if (sink instanceof PlainSocket && !this.source.encrypted) {
      // Copies what the kernel does not take.
      const { socket } = this.source;
      sink.writeBytes(buffer, length, socket instanceof PlainSocket && socket.ending);
      this.#hold();
      return;
    }
    // Once: each call costs.
    const filled = length === SHARED_BUFFER_BYTES && buffer !== wide;
    if (filled && this.#sink.encrypted) this.source.readInto?.(wide);
    if (this.#sink.encrypted && this.#at === 0 && sink.writableLength === 0) {
      // TLS has encrypted what it was given when `write` returns.
      sink.write(buffer.subarray(0, length));
      this.#hold();
      return;
    }
    let start = 0;
    while (start < length) {
      const slab = (this.#slab ??= takeSlab());
      const size = Math.min(length - start, slab.bytes.length - this.#at);
      buffer.copy(slab.bytes, this.#at, start, start + size);
      start += size;
      this.#at += size;
      if (this.#at === slab.bytes.length) this.#write();
    }
    if (this.#at === 0 || this.#queued) return;
    this.#queued = true;
    flusher.add(this);
  }

  flush(): void {
    this.#queued = false;
    this.#write();
  }

  #write(): void {
    const slab = this.#slab;
    if (slab === null) return;
    const { bytes } = slab;
    const size = this.#at;
    this.#slab = null;
    this.#at = 0;
    const sink = this.#sink.socket;
    if (sink.destroyed || sink.writableEnded) {
      slab.release();
      return;
    }
    sink.write(size === bytes.length ? bytes : bytes.subarray(0, size), slab.release);
    this.#hold();
  }

  #hold(): void {
    const sink = this.#sink.socket;
    if (!sink.writableNeedDrain) return;
    if (this.#sink.encrypted || sink.writableLength >= WAITING_BYTES_MAX) this.source.socket.pause();
  }

  #onEnd(): void {
    if (this.ended) return;
    this.#write();
    this.ended = true;
    const sink = this.#sink.socket;
    if (!sink.destroyed) {
      // Everything is written and nothing more will be read: destroy() sends the same FIN and costs less.
      if (this.#pair.bothEnded && sink.writableLength === 0 && !this.#sink.encrypted) sink.destroy();
      else sink.end();
    }
    this.#pair.onEnded();
  }
}
