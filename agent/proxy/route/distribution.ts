// SPDX-License-Identifier: Apache-2.0
// Which of a rule's backends gets a request: by weight among those that are available, as if the others were not there,
// or the first that is. Allocates nothing.

import type { Random } from '#lib/core/clock.ts';

export interface Weighted {
  readonly weight: number;
  /** Not while requests to it would fail at once. */
  readonly available: boolean;
}

/** Undefined: none is available. */
export function firstAvailable<T extends Weighted>(backends: readonly T[]): T | undefined {
  for (const backend of backends) if (backend.available) return backend;
  return undefined;
}

/** As `firstAvailable`; what has no weight is never picked. */
export function byWeight<T extends Weighted>(backends: readonly T[], random: Random): T | undefined {
  let total = 0;
  for (const backend of backends) if (backend.available) total += backend.weight;
  let left = random() * total;
  let last: T | undefined;
  for (const backend of backends) {
    if (!backend.available || backend.weight === 0) continue;
    last = backend;
    left -= backend.weight;
    if (left < 0) return backend;
  }
  return last;
}
