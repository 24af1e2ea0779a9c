// SPDX-License-Identifier: Apache-2.0
// The numbers under which the kernel knows a node's pods. Those of an earlier agent's pods are kept for them: vouchers
// that wait in a backlog name them.

import type { Random } from '#lib/core/clock.ts';

export interface PodIndices {
  take(uid: string): number;
  /** For when the pod is enrolled again. */
  keep(uid: string, index: number): void;
  forget(uid: string): void;
  readonly kept: ReadonlyMap<string, number>;
}

export function createPodIndices(random: Random, inUse: () => readonly number[]): PodIndices {
  // Not from 1: a voucher of an earlier agent, still in a backlog, must not name one of our pods.
  let next = 1 + Math.floor(random() * 2 ** 31);
  const kept = new Map<string, number>();
  return {
    take(uid) {
      const own = kept.get(uid);
      kept.delete(uid);
      if (own !== undefined) return own;
      const used = new Set([...kept.values(), ...inUse()]);
      while (used.has(next)) next++;
      return next++;
    },
    keep: (uid, index) => void kept.set(uid, index),
    forget: (uid) => void kept.delete(uid),
    kept,
  };
}
