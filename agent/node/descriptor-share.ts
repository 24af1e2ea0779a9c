// SPDX-License-Identifier: Apache-2.0
// How many connections one pod may have in a worker, so that a pod under attack cannot take the descriptors of all.

/** Where the limit of descriptors leaves room for more than that, more is of no use. */
const CONNECTIONS_MAX = 16_384;
const CONNECTIONS_MIN = 256;
/** One pod gets half of the process's descriptors at most. */
const SHARE = 0.5;

/** `limits` is the text of /proc/self/limits. */
export function podConnectionsMax(limits: string, workers: number): number {
  const soft = /^Max open files +(\d+|unlimited)/m.exec(limits)?.[1];
  const descriptors = soft === undefined || soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
  const share = Math.floor((descriptors * SHARE) / workers);
  return Math.min(CONNECTIONS_MAX, Math.max(CONNECTIONS_MIN, share));
}
