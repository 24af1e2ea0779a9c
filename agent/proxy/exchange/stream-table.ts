// SPDX-License-Identifier: Apache-2.0
// The live streams of a connection by number. Numbers of one side count up in twos, so that the last half of them in an
// array costs an access where a map hashes, grows and is cleared up; who outlives so many others moves to a map.

/** Places; twice as many as streams are live at once on most connections. */
const PLACES = 64;
const LAST = PLACES - 1;

export interface Numbered {
  readonly id: number;
}

export class StreamTable<T extends Numbered> {
  readonly #places = Array.from<unknown, T | null>({ length: PLACES }, () => null);
  /** Whose place was taken. */
  readonly #others = new Map<number, T>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(id: number): T | undefined {
    const stream = this.#places[(id >> 1) & LAST] as T | null;
    if (stream !== null && stream.id === id) return stream;
    return this.#others.size === 0 ? undefined : this.#others.get(id);
  }

  /** No stream of that number is here. */
  add(stream: T): void {
    const place = (stream.id >> 1) & LAST;
    const older = this.#places[place] as T | null;
    // The older one lives long: those to come shall find the place free of it.
    if (older !== null) this.#others.set(older.id, older);
    this.#places[place] = stream;
    this.#size++;
  }

  /** Whether it was here. */
  delete(stream: T): boolean {
    const place = (stream.id >> 1) & LAST;
    if (this.#places[place] === stream) this.#places[place] = null;
    else if (this.#others.get(stream.id) !== stream || !this.#others.delete(stream.id)) return false;
    this.#size--;
    return true;
  }

  /** All that are here now, oldest first; may be deleted meanwhile. */
  list(): T[] {
    const all = [...this.#others.values()];
    for (const stream of this.#places) if (stream !== null) all.push(stream);
    return all.sort((one, other) => one.id - other.id);
  }
}
