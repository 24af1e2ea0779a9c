// SPDX-License-Identifier: Apache-2.0
// Growing, jittered pauses between attempts. Full jitter: a thousand agents that lost the same server come back
// spread over the whole pause, and nobody is away for longer than it takes to say "within seconds".

import type { Random } from '#lib/core/clock.ts';

export interface BackOff {
  /** The pause before the next attempt. */
  nextMs(): number;
  /** An attempt succeeded. */
  reset(): void;
}

export function createBackOff(random: Random, minMs = 200, maxMs = 5_000): BackOff {
  let ceilingMs = minMs;
  return {
    nextMs() {
      const pause = minMs / 2 + random() * (ceilingMs - minMs / 2);
      ceilingMs = Math.min(maxMs, ceilingMs * 2);
      return pause;
    },
    reset() {
      ceilingMs = minMs;
    },
  };
}
