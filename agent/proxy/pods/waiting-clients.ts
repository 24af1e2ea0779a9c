// SPDX-License-Identifier: Apache-2.0
// Clients of a pod that have not said who they are: connected, and their TLS hello or handshake is incomplete. Whoever
// is slow on purpose ends after a time, and when there are many at once the longest waiting ends for each new one: so
// they cannot take the places of those who speak up.

import type { Socket } from 'node:net';

/** Of one pod in one worker. */
export const WAITING_MAX = 2_048;
/** A burst of clients that are all honest is let be for so long. */
export const WAITING_SURE_MS = 1_000;

export class WaitingClients {
  readonly #sinceMs = new Map<Socket, number>();

  get size(): number {
    return this.#sinceMs.size;
  }

  /** The client whose place this one takes, if there is no other. */
  add(socket: Socket, nowMs: number): Socket | undefined {
    let oldest: Socket | undefined;
    if (this.#sinceMs.size >= WAITING_MAX) {
      const [first] = this.#sinceMs;
      if (first !== undefined && nowMs - first[1] >= WAITING_SURE_MS) {
        oldest = first[0];
        this.#sinceMs.delete(oldest);
      }
    }
    this.#sinceMs.set(socket, nowMs);
    return oldest;
  }

  /** It has said who it is, or it is gone. */
  remove(socket: Socket): void {
    this.#sinceMs.delete(socket);
  }
}
