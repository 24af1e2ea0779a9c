// SPDX-License-Identifier: Apache-2.0
// Gathers what is to be written to a socket in one turn of the event loop and writes it at once: one write per message
// and turn is the largest lever of the engine. Small things leave as one latin1 string (node writes up to 16 KiB of it
// without allocating), larger ones as a copy of their own. Not a queue: what does not fit the kernel waits in the
// socket, and the owner is told to stop its source.

import type { StreamSocket } from '#lib/net/stream-socket.ts';
import { writeOut } from '#lib/net/direct-write.ts';

/** Up to this size Node.js writes a latin1 string from the stack. */
const TEXT_BYTES_MAX = 16_384;
const SCRATCH_BYTES = 65_536;

const OPEN = 0;
/** Send FIN after the last byte. */
const ENDING = 1;
/** Destroy after the last byte if it left at once (cheaper than FIN and waiting), else as ENDING. */
const DESTROYING = 2;

export interface OutboxOwner {
  /** The socket holds as much as it may: stop what feeds it until its 'drain'. */
  onBlocked(): void;
}

/** What the flusher writes out. */
export interface Flushed {
  flush(): void;
}

/** One per worker: writes all outboxes that have something, once per turn. */
export class Flusher {
  /** Bytes of a large write that usually leaves synchronously; replaced when it did not. */
  scratch: Buffer = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
  #waiting: Flushed[] = [];
  #spare: Flushed[] = [];
  #scheduled = false;
  // Not nextTick: that runs after every read and would gather nothing across sockets.
  readonly #run = (): void => this.#flush();

  add(outbox: Flushed): void {
    this.#waiting.push(outbox);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#run);
  }

  #flush(): void {
    const boxes = this.#waiting;
    this.#waiting = this.#spare;
    this.#scheduled = false;
    for (let index = 0; index < boxes.length; index++) (boxes[index] as Flushed).flush();
    boxes.length = 0;
    this.#spare = boxes;
  }
}

export class Outbox implements Flushed {
  readonly #socket: StreamSocket;
  readonly #flusher: Flusher;
  readonly #owner: OutboxOwner;
  readonly #encrypted: boolean;
  #text = '';
  #queued = false;
  #closing = OPEN;
  /** Whether anything was written since `mark`. */
  #flushed = false;

  constructor(socket: StreamSocket, encrypted: boolean, flusher: Flusher, owner: OutboxOwner) {
    this.#socket = socket;
    this.#encrypted = encrypted;
    this.#flusher = flusher;
    this.#owner = owner;
  }

  /** Whether the socket holds as much as it may. */
  get blocked(): boolean {
    return this.#socket.writableLength >= this.#socket.writableHighWaterMark;
  }

  /** From here on `unwritten` tells whether something left. */
  mark(): void {
    this.#flushed = false;
  }

  /** Takes back everything since `mark`, or null if some of it left already. */
  unwritten(): string | null {
    if (this.#flushed) return null;
    const text = this.#text;
    this.#text = '';
    return text;
  }

  string(text: string): void {
    if (this.#closing !== OPEN) return;
    const length = this.#text.length;
    if (length === 0) this.#text = text;
    else if (length + text.length <= TEXT_BYTES_MAX) this.#text += text;
    else {
      this.#writeText();
      // No longer complete: too much for taking back.
      this.#flushed = true;
      this.#text = text;
    }
    this.#enqueue();
  }

  /** Adds `buffer[start, end)`, which the caller may reuse afterwards. */
  bytes(buffer: Buffer, start: number, end: number): void {
    const size = end - start;
    if (size <= TEXT_BYTES_MAX) {
      if (size > 0) this.string(buffer.toString('latin1', start, end));
      return;
    }
    if (this.#closing !== OPEN) return;
    this.#writeText();
    this.#flushed = true;
    const socket = this.#socket;
    if (socket.destroyed) return;
    const flusher = this.#flusher;
    if (this.#encrypted || size > SCRATCH_BYTES || socket.writableLength > 0) {
      const copy = Buffer.allocUnsafeSlow(size);
      buffer.copy(copy, 0, start, end);
      socket.write(copy);
    } else {
      buffer.copy(flusher.scratch, 0, start, end);
      socket.write(size === SCRATCH_BYTES ? flusher.scratch : flusher.scratch.subarray(0, size));
      if (socket.writableLength > 0) flusher.scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
    }
    if (this.blocked) this.#owner.onBlocked();
  }

  /** After everything was written: FIN. */
  end(): void {
    if (this.#closing === OPEN) this.#closing = ENDING;
    this.#enqueue();
  }

  /** After everything was written: closes in the cheapest way that loses nothing. */
  close(): void {
    this.#closing = this.#encrypted ? ENDING : DESTROYING;
    this.#enqueue();
  }

  flush(): void {
    this.#queued = false;
    this.#writeText();
    if (this.#closing === OPEN) return;
    if (this.#closing === DESTROYING && this.#socket.writableLength === 0) this.#socket.destroy();
    else this.#socket.end();
  }

  #enqueue(): void {
    if (this.#queued) return;
    this.#queued = true;
    this.#flusher.add(this);
  }

  #writeText(): void {
    const text = this.#text;
    const socket = this.#socket;
    // What a dead socket did not get may be taken back.
    if (text.length === 0 || socket.destroyed) return;
    this.#text = '';
    this.#flushed = true;
    writeOut(socket, text, this.#encrypted);
    if (this.blocked) this.#owner.onBlocked();
  }
}

/** A part of a body as a chunk (RFC 9112 7.1). */
export function sendChunk(out: Outbox, buffer: Buffer, start: number, end: number): void {
  out.string(`${(end - start).toString(16)}\r\n`);
  out.bytes(buffer, start, end);
  out.string('\r\n');
}
