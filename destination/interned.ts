// SPDX-License-Identifier: Apache-2.0
// Things made from texts that thousands of clients send alike: made once while they are in use, so that what a stream
// keeps is a reference. A cache that is full begins anew; whoever has a thing keeps it.

export interface InternedLimits {
  /** Longer texts are nobody's usual ones: what is made from them is not kept. */
  readonly textLengthMax: number;
  readonly entriesMax: number;
}

const usualLimits: InternedLimits = { textLengthMax: 1_024, entriesMax: 8_192 };

export class Interned<T> {
  readonly #things = new Map<string, T>();
  readonly #make: (text: string) => T;
  readonly #limits: InternedLimits;

  constructor(make: (text: string) => T, limits: InternedLimits = usualLimits) {
    this.#make = make;
    this.#limits = limits;
  }

  /** Throws what `make` throws. */
  of(text: string): T {
    const known = this.#things.get(text);
    if (known !== undefined) return known;
    const made = this.#make(text);
    if (text.length > this.#limits.textLengthMax) return made;
    if (this.#things.size >= this.#limits.entriesMax) this.#things.clear();
    this.#things.set(text, made);
    return made;
  }
}
