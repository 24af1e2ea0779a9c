// SPDX-License-Identifier: Apache-2.0
// Clients of a pod that have not said who they are: connected, and their TLS hello or handshake is incomplete. Whoever
// is slow on purpose ends after a time, and when there are many at once the longest waiting ends for each new one: so
// they cannot take the places of those who speak up.

import type { StreamSocket } from '#lib/net/stream-socket.ts';

/** Of one pod in one worker. */
export const WAITING_MAX = 2_048;
/** A burst of clients that are all honest is let be for so long. */
export const WAITING_SURE_MS = 1_000;
/** For one that comes. */
const DISPLACED_MAX = 8;

export class WaitingClients {
  readonly #sinceMs = new Map<StreamSocket, number>();

  get size(): number {
    return this.#sinceMs.size;
  }

  /** Those that give way to this one; several, so that what a burst has left shrinks to the limit again. */
  add(socket: StreamSocket, nowMs: number): StreamSocket[] {
    this.#sinceMs.set(socket, nowMs);
    const displaced: StreamSocket[] = [];
    if (this.#sinceMs.size <= WAITING_MAX) return displaced;
    for (const [oldest, sinceMs] of this.#sinceMs) {
      if (nowMs - sinceMs < WAITING_SURE_MS || displaced.length === DISPLACED_MAX) break;
      displaced.push(oldest);
      this.#sinceMs.delete(oldest);
      if (this.#sinceMs.size <= WAITING_MAX) break;
    }
    return displaced;
  }

  /** It has said who it is, or it is gone. */
  remove(socket: StreamSocket): void {
    this.#sinceMs.delete(socket);
  }
}
