// SPDX-License-Identifier: Apache-2.0
// Buffers of a thread for bytes that pass: taken when something came, back when the write has finished. Allocating
// one for each read kept the garbage collector busier than the proxy. What the pool does not hold is left to the
// collector; how much is in use is bounded by what each connection may have waiting.

export const SLAB_BYTES = 65_536;
const SPARES_MAX = 64;

const spares: Slab[] = [];

export class Slab {
  readonly bytes = Buffer.allocUnsafeSlow(SLAB_BYTES);
  /** Also the callback of a write, with or without an error. */
  readonly release = (): void => {
    if (spares.length < SPARES_MAX) spares.push(this);
  };
}

export const takeSlab = (): Slab => spares.pop() ?? new Slab();
