// SPDX-License-Identifier: Apache-2.0
// One server stream as a function of the index: on every change the wanted state is computed anew and the
// difference to what was sent goes out. A client that does not read costs no memory: nothing is computed for it
// until it does. There are tens of thousands of them, so that each is a few words: no closures, no lists of its own.

import type { CallListener, EncodedMessage, OutStream } from '#lib/grpc/call.ts';
import { type ClusterIndex, sameTopics, type Subscriber, type Topic } from './cluster-index.ts';

export interface StreamStateOptions<T> {
  readonly index: ClusterIndex;
  readonly stream: OutStream<T>;
  /** Messages that bring the client from what it was sent last to what holds now. Throws to end the stream. */
  difference(): readonly (T | EncodedMessage)[];
}

const nothing: readonly Topic[] = [];

export class StreamState<T> implements CallListener, Subscriber {
  readonly #options: StreamStateOptions<T>;
  #topics = nothing;
  #blocked = false;
  #stale = false;
  #ended = false;

  constructor(options: StreamStateOptions<T>) {
    this.#options = options;
    options.stream.listen(this);
  }

  /** Listens to other topics; what was sent stays. */
  follow(topics: readonly Topic[]): void {
    if (this.#ended || sameTopics(topics, this.#topics)) return;
    this.#options.index.unsubscribe(this.#topics, this);
    this.#topics = topics;
    this.#options.index.subscribe(topics, this);
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
      this.fail(error);
    }
  }

  /** Its client reads again. */
  drained(): void {
    this.#blocked = false;
    if (this.#stale) this.refresh();
  }

  fail(error: unknown): void {
    if (!this.#ended) this.#options.stream.fail(error);
  }

  ended(): void {
    this.#ended = true;
    this.#options.index.unsubscribe(this.#topics, this);
    this.#topics = nothing;
  }
}
