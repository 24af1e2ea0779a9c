// SPDX-License-Identifier: Apache-2.0
// How many connections one pod may have in a worker, so that a pod under attack cannot take the descriptors of all.

/** Where the limit of descriptors leaves room for more than that, more is of no use. */
const CONNECTIONS_MAX = 16_384;
const CONNECTIONS_MIN = 256;
/** One pod gets half of the process's descriptors at most. */
const SHARE = 0.5;

// `limits` is the text of /proc/self/limits.

/** What is left to the control thread and to connections that are served already when no new ones are taken. */
const RESERVE_MAX = 1_024;

/** The soft limit of open files, from /proc/self/limits; Infinity if there is none. */
export function openFilesMax(limits: string): number {
  const soft = /^Max open files +(\d+|unlimited)/m.exec(limits)?.[1];
  return soft === undefined || soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
}

/** The number from which on a descriptor of a new connection is one too many: a new one is always the lowest free. */
export function connectionDescriptorsMax(limits: string): number {
  const all = openFilesMax(limits);
  return all - Math.min(RESERVE_MAX, Math.ceil(all / 4));
}

export function podConnectionsMax(limits: string, workers: number): number {
  const share = Math.floor((openFilesMax(limits) * SHARE) / workers);
  return Math.min(CONNECTIONS_MAX, Math.max(CONNECTIONS_MIN, share));
}
