// SPDX-License-Identifier: Apache-2.0
// Gathers the frames that leave an HTTP/2 connection in one turn of the event loop in one buffer, and writes it at
// once: with many streams on a connection one write carries many messages. The buffers are the worker's; a connection
// has one only while it has something to write. Not a queue: flow control bounds what there can be.

import type { Socket } from 'node:net';
import type { Flushed, Flusher } from './outbox.ts';

const BUFFER_BYTES = 65_536;
const SPARES_MAX = 8;

const none = Buffer.alloc(0);
const spares: Buffer[] = [];

export class FrameOutbox implements Flushed {
  /** `room(n)` makes at least n bytes of it free from `at` on; the writer moves `at`. */
  buffer: Buffer = none;
  at = 0;
  readonly #socket: Socket;
  readonly #encrypted: boolean;
  readonly #flusher: Flusher;
  #queued = false;
  #ends = false;

  constructor(socket: Socket, encrypted: boolean, flusher: Flusher) {
    this.#socket = socket;
    this.#encrypted = encrypted;
    this.#flusher = flusher;
  }

  /** Bytes that the kernel has not taken. */
  get waiting(): number {
    return this.at + this.#socket.writableLength;
  }

  room(bytes: number): void {
    if (this.buffer.length - this.at < bytes) {
      this.#write();
      this.buffer = bytes > BUFFER_BYTES ? Buffer.allocUnsafeSlow(bytes) : take();
    }
    if (this.#queued) return;
    this.#queued = true;
    this.#flusher.add(this);
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
    this.#socket.write(at === buffer.length ? buffer : buffer.subarray(0, at));
    // TLS has encrypted or copied what it was given at once; TCP refers to it until it left.
    if (this.#encrypted ? idle : this.#socket.writableLength === 0) give(buffer);
  }
}

function take(): Buffer {
  return spares.pop() ?? Buffer.allocUnsafeSlow(BUFFER_BYTES);
}

function give(buffer: Buffer): void {
  if (buffer.length === BUFFER_BYTES && spares.length < SPARES_MAX) spares.push(buffer);
}
