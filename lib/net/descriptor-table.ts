// SPDX-License-Identifier: Apache-2.0
// Descriptors that a worker opened by FFI, in memory shared with the control thread: when a worker dies, nobody else
// knows of them. A hash set of numbers with linear probing; only the owning worker writes while it lives.

import { MeshError } from '#lib/core/errors.ts';

const EMPTY = 0;
/** A place that was used: look-ups go on behind it. */
const GONE = -1;

export class DescriptorTable {
  readonly shared: SharedArrayBuffer;
  readonly #cells: Int32Array;

  constructor(shared: SharedArrayBuffer) {
    this.shared = shared;
    this.#cells = new Int32Array(shared);
  }

  /** Room for `descriptors` at most. */
  static create(descriptors: number): DescriptorTable {
    return new DescriptorTable(new SharedArrayBuffer(descriptors * 4));
  }

  /** Throws MESH_LIMIT when the table is full; the caller closes the descriptor then. */
  add(fd: number): void {
    const cells = this.#cells;
    for (let step = 0; step < cells.length; step++) {
      const at = (fd + step) % cells.length;
      if ((cells[at] ?? 0) <= 0) {
        Atomics.store(cells, at, fd + 1);
        return;
      }
    }
    throw new MeshError('MESH_LIMIT', `a worker holds ${cells.length} descriptors already`, {
      retryable: true,
    });
  }

  /** To be called before the descriptor is closed, since its number is given away again at once. */
  remove(fd: number): void {
    const cells = this.#cells;
    for (let step = 0; step < cells.length; step++) {
      const at = (fd + step) % cells.length;
      const cell = cells[at];
      if (cell === EMPTY) return;
      if (cell === fd + 1) {
        const next = cells[(at + 1) % cells.length];
        Atomics.store(cells, at, next === EMPTY ? EMPTY : GONE);
        return;
      }
    }
  }

  has(fd: number): boolean {
    return this.#cells.includes(fd + 1);
  }

  /** Takes out everything, for closing: only after the worker has ended. */
  sweep(): number[] {
    const found: number[] = [];
    for (let at = 0; at < this.#cells.length; at++) {
      const cell = Atomics.load(this.#cells, at);
      // Most were never used, and take up no memory.
      if (cell === EMPTY) continue;
      Atomics.store(this.#cells, at, EMPTY);
      if (cell > 0) found.push(cell - 1);
    }
    return found;
  }
}
