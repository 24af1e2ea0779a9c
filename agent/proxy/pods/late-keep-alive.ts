// SPDX-License-Identifier: Apache-2.0
// Keep-alive for connections that we dial, once they are about a second old: it costs four system calls, which most
// short ones never need. (Accepted ones have it from their listener.)

import type { Socket } from 'node:net';

export const KEEPALIVE_MS = 10_000;

export class LateKeepAlive {
  #young: Socket[] = [];

  add(socket: Socket): void {
    this.#young.push(socket);
  }

  /** Called about once a second. */
  sweep(): void {
    const young = this.#young;
    this.#young = [];
    for (const socket of young) if (!socket.destroyed) socket.setKeepAlive(true, KEEPALIVE_MS);
  }
}
