// SPDX-License-Identifier: Apache-2.0
// Sets of things by a key, for an index.

const nothing: ReadonlySet<never> = new Set<never>();

/** Sets by key; empty ones are forgotten. */
export class Groups<T> {
  readonly #groups = new Map<string, Set<T>>();

  of(key: string): ReadonlySet<T> {
    return this.#groups.get(key) ?? nothing;
  }

  /** A copy, for loops that change the group. */
  list(key: string): T[] {
    return [...this.of(key)];
  }

  add(key: string, value: T): void {
    const group = this.#groups.get(key);
    if (group === undefined) this.#groups.set(key, new Set([value]));
    else group.add(value);
  }

  delete(key: string, value: T): void {
    const group = this.#groups.get(key);
    group?.delete(value);
    if (group?.size === 0) this.#groups.delete(key);
  }
}
