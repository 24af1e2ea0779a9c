// SPDX-License-Identifier: Apache-2.0
// Things made from texts that thousands of clients send alike: made once while they are in use, so that what a stream
// keeps is a reference. A cache that is full begins anew; whoever has a thing keeps it.

/** Longer texts are nobody's usual ones. */
const TEXT_LENGTH_MAX = 1_024;
const ENTRIES_MAX = 8_192;

export class Interned<T> {
  readonly #things = new Map<string, T>();
  readonly #make: (text: string) => T;

  constructor(make: (text: string) => T) {
    this.#make = make;
  }

  /** Throws what `make` throws. */
  of(text: string): T {
    const known = this.#things.get(text);
    if (known !== undefined) return known;
    const made = this.#make(text);
    if (text.length > TEXT_LENGTH_MAX) return made;
    if (this.#things.size >= ENTRIES_MAX) this.#things.clear();
    this.#things.set(text, made);
    return made;
  }
}
