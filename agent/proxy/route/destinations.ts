// SPDX-License-Identifier: Apache-2.0
// What the control thread has told of destinations, and the asking for them. A destination is asked for at its first
// use, shared by all pods of a namespace, followed while it is used and forgotten a while after.

import type { Clock, Timer } from '#lib/core/clock.ts';
import { formatSocketAddress } from '#lib/core/addresses.ts';
import type { Destination, FromWorker } from '../model.ts';

/** As long as Linkerd keeps an unused one: a client that polls finds it again. */
const IDLE_MS = 5_000;
const DESTINATIONS_MAX = 10_000;
/** Of these, what one pod may be the first to ask for: a quarter over all workers, and something in each. */
const POD_DESTINATIONS_MAX = 2_500;
const POD_DESTINATIONS_MIN = 50;

export interface DestinationHandle {
  readonly current: Destination | undefined;
  release(): void;
}

interface Entry {
  readonly key: string;
  /** Uid of the pod that asked first: it counts as its. */
  readonly owner: string;
  current: Destination | undefined;
  readonly listeners: Set<(destination: Destination) => void>;
  eviction: Timer | null;
}

export class Destinations {
  readonly #entries = new Map<string, Entry>();
  readonly #post: (message: FromWorker) => void;
  readonly #clock: Clock;
  readonly #podMax: number;
  /** Entries by owner. */
  readonly #owned = new Map<string, number>();

  constructor(post: (message: FromWorker) => void, clock: Clock, workers = 1) {
    this.#post = post;
    this.#clock = clock;
    this.#podMax = Math.max(POD_DESTINATIONS_MIN, Math.floor(POD_DESTINATIONS_MAX / workers));
  }

  get size(): number {
    return this.#entries.size;
  }

  /** `listener` hears of every change until release; undefined if the pod or the worker has too many. */
  acquire(
    podUid: string,
    namespace: string,
    ip: string,
    port: number,
    listener: (destination: Destination) => void,
  ): DestinationHandle | undefined {
    const key = `${namespace}|${formatSocketAddress(ip, port)}`;
    const entry = this.#entries.get(key) ?? this.#ask(podUid, key, namespace, ip, port);
    if (entry === undefined) return undefined;
    entry.eviction?.cancel();
    entry.eviction = null;
    entry.listeners.add(listener);
    return {
      get current() {
        return entry.current;
      },
      release: () => {
        if (!entry.listeners.delete(listener) || entry.listeners.size > 0) return;
        entry.eviction = this.#clock.after(IDLE_MS, () => {
          this.#entries.delete(key);
          const left = (this.#owned.get(entry.owner) ?? 0) - 1;
          if (left > 0) this.#owned.set(entry.owner, left);
          else this.#owned.delete(entry.owner);
          this.#post({ type: 'forget', key });
        });
      },
    };
  }

  /** A message of the control thread. */
  set(key: string, destination: Destination): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    entry.current = destination;
    for (const listener of entry.listeners) listener(destination);
  }

  #ask(owner: string, key: string, namespace: string, ip: string, port: number): Entry | undefined {
    if (this.#entries.size >= DESTINATIONS_MAX) return undefined;
    const owned = this.#owned.get(owner) ?? 0;
    if (owned >= this.#podMax) return undefined;
    this.#owned.set(owner, owned + 1);
    const entry: Entry = { key, owner, current: undefined, listeners: new Set(), eviction: null };
    this.#entries.set(key, entry);
    this.#post({ type: 'discover', key, namespace, ip, port });
    return entry;
  }
}
