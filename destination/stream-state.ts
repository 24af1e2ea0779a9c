// SPDX-License-Identifier: Apache-2.0
// One server stream as a function of the index: on every change the wanted state is computed anew and the
// difference to what was sent goes out. A client that does not read costs no memory: nothing is computed for it
// until it does.

import type { Watch } from '#lib/registry/registry.ts';
import type { ClusterIndex, Topic } from './cluster-index.ts';

/** What is used of grpc-js's server streams. */
export interface OutStream<T> {
  write(message: T): boolean;
  end(): void;
  /** grpc-js answers an emitted error with its status. */
  emit(event: 'error', error: Error): boolean;
  on(event: 'cancelled' | 'close' | 'error' | 'drain', listener: () => void): unknown;
}

export interface StreamStateOptions<T> {
  readonly index: ClusterIndex;
  readonly stream: OutStream<T>;
  /** Messages that bring the client from what it was sent last to what holds now. Throws to end the stream. */
  readonly difference: () => readonly T[];
}

export class StreamState<T> {
  readonly #options: StreamStateOptions<T>;
  #watch: Watch | undefined;
  #topics = '';
  #blocked = false;
  #stale = false;
  #ended = false;

  constructor(options: StreamStateOptions<T>) {
    this.#options = options;
    const { stream } = options;
    onceEnded(stream, () => this.#end());
    stream.on('drain', () => {
      this.#blocked = false;
      if (this.#stale) this.refresh();
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Listens to other topics; what was sent stays. */
  follow(topics: readonly Topic[]): void {
    const text = JSON.stringify(topics);
    if (this.#ended || text === this.#topics) return;
    this.#topics = text;
    this.#watch?.close();
    this.#watch = this.#options.index.subscribe(topics, () => this.refresh());
  }

  refresh(): void {
    if (this.#ended) return;
    this.#stale = this.#blocked;
    if (this.#blocked) return;
    try {
      for (const message of this.#options.difference()) {
        if (!this.#options.stream.write(message)) this.#blocked = true;
      }
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  fail(error: Error): void {
    if (this.#ended) return;
    this.#end();
    this.#options.stream.emit('error', error);
  }

  #end(): void {
    this.#ended = true;
    this.#watch?.close();
  }
}

/** Calls `ended` once, however the stream ends: by its client, by an error, or with its connection. */
export function onceEnded(stream: Pick<OutStream<never>, 'on'>, ended: () => void): void {
  let called = false;
  const end = (): void => {
    if (called) return;
    called = true;
    ended();
  };
  stream.on('cancelled', end);
  stream.on('close', end);
  stream.on('error', end);
}
