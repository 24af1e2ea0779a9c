// SPDX-License-Identifier: Apache-2.0
// Gathers the frames that leave an HTTP/2 connection in one turn of the event loop in one buffer, and writes it at
// once: with many streams on a connection one write carries many messages. The buffers are the worker's; a connection
// has one only while it has something to write. Not a queue: flow control bounds what there can be.
//
// Most turns of most connections write little, so a buffer begins small and many small ones are kept: each that is made
// anew is memory outside the heap, which makes V8 collect all of its heap again and again.

import type { StreamSocket } from '#lib/net/stream-socket.ts';
import { writeOut } from '#lib/net/direct-write.ts';
import type { Flushed, Flusher } from './outbox.ts';

const none = Buffer.alloc(0);

/** Buffers of one size, for the whole worker. */
class Spares {
  readonly bytes: number;
  readonly #max: number;
  readonly #buffers: Buffer[] = [];

  constructor(bytes: number, max: number) {
    this.bytes = bytes;
    this.#max = max;
  }

  take(): Buffer {
    return this.#buffers.pop() ?? Buffer.allocUnsafeSlow(this.bytes);
  }

  give(buffer: Buffer): void {
    if (this.#buffers.length < this.#max) this.#buffers.push(buffer);
  }
}

/** As many as connections may write in one turn; 2 MiB and 1 MiB. */
const small = new Spares(4_096, 512);
const large = new Spares(65_536, 16);

export class FrameOutbox implements Flushed {
  /** `room(n)` makes at least n bytes of it free from `at` on; the writer moves `at`. */
  buffer: Buffer = none;
  at = 0;
  readonly #socket: StreamSocket;
  readonly #encrypted: boolean;
  readonly #flusher: Flusher;
  #queued = false;
  #ends = false;

  constructor(socket: StreamSocket, encrypted: boolean, flusher: Flusher) {
    this.#socket = socket;
    this.#encrypted = encrypted;
    this.#flusher = flusher;
  }

  /** Bytes that the kernel has not taken. */
  get waiting(): number {
    return this.at + this.#socket.writableLength;
  }

  room(bytes: number): void {
    if (this.buffer.length - this.at < bytes) this.#grow(bytes);
    if (this.#queued) return;
    this.#queued = true;
    this.#flusher.add(this);
  }

  #grow(bytes: number): void {
    const { buffer, at } = this;
    if (at + bytes > large.bytes) this.#write();
    const needed = this.at + bytes;
    this.buffer =
      needed > large.bytes
        ? Buffer.allocUnsafeSlow(needed)
        : needed > small.bytes
          ? large.take()
          : small.take();
    if (this.at === 0) return;
    buffer.copy(this.buffer, 0, 0, at);
    give(buffer);
  }

  /** After everything was written: FIN, or its like of TLS. */
  end(): void {
    this.#ends = true;
    this.room(0);
  }

  flush(): void {
    this.#queued = false;
    this.#write();
    if (this.#ends && !this.#socket.destroyed) this.#socket.end();
  }

  #write(): void {
    const { buffer, at } = this;
    this.buffer = none;
    this.at = 0;
    if (at === 0 || this.#socket.destroyed) {
      give(buffer);
      return;
    }
    const idle = this.#socket.writableLength === 0;
    const bytes = at === buffer.length ? buffer : buffer.subarray(0, at);
    writeOut(this.#socket, bytes, this.#encrypted);
    // TLS has encrypted or copied what it was given at once; TCP refers to it until it left.
    if (this.#encrypted ? idle : this.#socket.writableLength === 0) give(buffer);
  }
}

function give(buffer: Buffer): void {
  if (buffer.length === small.bytes) small.give(buffer);
  else if (buffer.length === large.bytes) large.give(buffer);
}
