// SPDX-License-Identifier: Apache-2.0
// Keep-alive for connections that we dial, once they are about a second old: it costs four system calls, which most
// short ones never need. (Accepted ones have it from their listener.)

import { ofSocket } from '#lib/net/of-socket.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';

export const KEEPALIVE_MS = 10_000;

export class LateKeepAlive {
  #young = new Set<StreamSocket>();
  /** Held for a second after its end it would be old for the garbage collector, with all that hangs on it. */
  readonly #onClose = ofSocket((socket) => this.#young.delete(socket));

  add(socket: StreamSocket): void {
    this.#young.add(socket);
    socket.on('close', this.#onClose);
  }

  /** How many wait for the sweep. */
  get size(): number {
    return this.#young.size;
  }

  /** Called about once a second. */
  sweep(): void {
    const young = this.#young;
    this.#young = new Set();
    for (const socket of young) if (!socket.destroyed) socket.setKeepAlive(true, KEEPALIVE_MS);
  }
}
