// SPDX-License-Identifier: Apache-2.0
// The objects of streams that ended as they should, kept by their connection for its next streams: they and what hangs on
// them are most of what a request allocates. Whoever ended a stream may still look at it before it returns, so it waits
// here until the connection reads again.

/** More live streams than this at once are rare, and idle connections shall be small. */
const SPARES_MAX = 64;

export class SpareStreams<T> {
  readonly #ended: T[] = [];
  readonly #spare: T[] = [];

  take(): T | undefined {
    return this.#spare.pop();
  }

  /** Nobody else refers to it when the connection reads again. */
  keep(stream: T): void {
    if (this.#ended.length + this.#spare.length < SPARES_MAX) this.#ended.push(stream);
  }

  /** The connection reads: nothing that ended a stream is still running. */
  turn(): void {
    while (this.#ended.length > 0) this.#spare.push(this.#ended.pop() as T);
  }

  /** The connection is idle. */
  clear(): void {
    this.#ended.length = 0;
    this.#spare.length = 0;
  }
}
