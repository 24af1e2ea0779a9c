// SPDX-License-Identifier: Apache-2.0
// How bytes reach a codec: one settable callback per socket, so that sockets may read into one buffer per worker and hand
// it over without an event, a stream chunk or a copy. Writing goes through the socket itself.

import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { type HeldReader, READ_BYTES_MIN, type ReadBudget } from '#lib/net/read-budget.ts';
import { resetSocket } from '#lib/net/reset.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';
import { readInto } from '#lib/net/user-buffer.ts';

/**
 * Rules of the callback:
 * - `buffer[0, length)` is valid only until it returns: use it up or copy it; never give a subarray of it to `write`.
 *   The callee may scribble in that range (heads are closed up in place).
 * - It may pause (`socket.pause()`) or destroy the socket. After a pause no call follows until `socket.resume()`.
 * - A source is handed over paused (or with nothing read yet and no turn of the event loop in between). The
 *   receiver sets `onBytes` and calls `socket.resume()`. Bytes while `onBytes` is null destroy the socket.
 * - End, errors and close are the socket's own events: 'end' (FIN seen; sockets are allowHalfOpen), 'error', 'close'.
 */
export interface TcpSource {
  readonly socket: StreamSocket;
  /** TLS: closing needs close_notify, so never only a destroy after the last byte. */
  readonly encrypted: boolean;
  onBytes: ((buffer: Buffer, length: number) => void) | null;
  /**
   * Reads into a buffer of the receiver's from here on, where that works. For one that stays to the end and takes what
   * may still come after a pause: what was decrypted already.
   */
  readInto?(buffer: Buffer): void;
  /** What its pod may read in a turn; null: whatever comes. */
  budget: ReadBudget | null;
  /** Ends the connection so that the peer sees an error (RST), never a clean end. */
  reset(): void;
}

/** One with a socket of Node.js under it. */
export interface ByteSource extends TcpSource {
  readonly socket: Socket;
}

/**
 * The source of a socket of Node.js. `raw` is the TCP socket under a TLS one where it is known, so that
 * `reset` can send an RST; without it a TLS connection is reset by closing it without close_notify.
 */
export function attachDataSource(socket: Socket, raw: Socket | null = null): ByteSource {
  return new DataSource(socket, raw);
}

/** RST for a TCP socket; anything else is destroyed. */
function reset(socket: Socket, raw: Socket | null): void {
  const tcp = raw ?? (socket instanceof TLSSocket ? null : socket);
  if (tcp !== null) resetSocket(tcp);
  if (tcp !== socket) socket.destroy();
}

class DataSource implements ByteSource, HeldReader {
  readonly socket: Socket;
  readonly encrypted: boolean;
  onBytes: ((buffer: Buffer, length: number) => void) | null = null;
  budget: ReadBudget | null = null;
  readonly #raw: Socket | null;
  #buffer: Buffer | null = null;
  /** Whether its owner has stopped it, whatever the budget does. */
  #paused = true;
  #held = false;
  readonly #pause: () => Socket;
  readonly #resume: () => Socket;

  constructor(socket: Socket, raw: Socket | null) {
    this.socket = socket;
    this.encrypted = socket instanceof TLSSocket;
    this.#raw = raw;
    const pause = socket.pause.bind(socket);
    this.#pause = pause;
    this.#resume = socket.resume.bind(socket);
    pause();
    socket.on('data', (chunk: Buffer) => {
      if (this.onBytes === null) socket.destroy();
      else if (!this.#took(chunk, chunk.length)) pause();
      if (this.#buffer !== null) this.readInto(this.#buffer);
    });
    // Two may stop it: it reads when neither does.
    socket.pause = () => {
      this.#paused = true;
      return pause();
    };
    socket.resume = () => {
      this.#paused = false;
      return this.#held ? socket : this.#resume();
    };
  }

  /** Passes bytes on; false: the pod has read its share, and nothing more comes until `release`. */
  #took(buffer: Buffer, length: number): boolean {
    const large = length > READ_BYTES_MIN;
    const began = large ? performance.now() : 0;
    this.onBytes?.(buffer, length);
    if (this.budget === null || this.#held) return true;
    if (this.budget.take(length, large ? performance.now() - began : 0, this)) return true;
    this.#held = true;
    return false;
  }

  release(): void {
    this.#held = false;
    if (!this.#paused && !this.socket.destroyed) this.#resume();
  }

  readInto(buffer: Buffer): void {
    const { socket } = this;
    this.#buffer = null;
    if (socket.destroyed) return;
    const works = readInto(socket, buffer, (length) => {
      if (this.onBytes !== null) return this.#took(buffer, length);
      socket.destroy();
      return true;
    });
    // Where something waits unread, it comes first.
    if (!works) this.#buffer = buffer;
    // Only from now on a pause stops the reading itself.
    else if (socket.isPaused()) this.#pause();
  }

  reset(): void {
    reset(this.socket, this.#raw);
  }
}
