// SPDX-License-Identifier: Apache-2.0
// What the control thread has told of destinations, and the asking for them. A destination is asked for at its first
// use, shared by all pods of a namespace, followed while it is used and forgotten a while after.

import type { Clock, Timer } from '#lib/core/clock.ts';
import { formatSocketAddress } from '#lib/core/addresses.ts';
import type { Destination, FromWorker } from '../model.ts';

/** As long as Linkerd keeps an unused one: a client that polls finds it again. */
const IDLE_MS = 5_000;
const DESTINATIONS_MAX = 10_000;

export interface DestinationHandle {
  readonly current: Destination | undefined;
  release(): void;
}

interface Entry {
  readonly key: string;
  current: Destination | undefined;
  readonly listeners: Set<(destination: Destination) => void>;
  eviction: Timer | null;
}

export class Destinations {
  readonly #entries = new Map<string, Entry>();
  readonly #post: (message: FromWorker) => void;
  readonly #clock: Clock;

  constructor(post: (message: FromWorker) => void, clock: Clock) {
    this.#post = post;
    this.#clock = clock;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** `listener` hears of every change until release; undefined if there are too many destinations. */
  acquire(
    namespace: string,
    ip: string,
    port: number,
    listener: (destination: Destination) => void,
  ): DestinationHandle | undefined {
    const key = `${namespace}|${formatSocketAddress(ip, port)}`;
    const entry = this.#entries.get(key) ?? this.#ask(key, namespace, ip, port);
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

  #ask(key: string, namespace: string, ip: string, port: number): Entry | undefined {
    if (this.#entries.size >= DESTINATIONS_MAX) return undefined;
    const entry: Entry = { key, current: undefined, listeners: new Set(), eviction: null };
    this.#entries.set(key, entry);
    this.#post({ type: 'discover', key, namespace, ip, port });
    return entry;
  }
}
