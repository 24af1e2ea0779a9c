// SPDX-License-Identifier: Apache-2.0
// When to renew a certificate and when to try again: numbers only.

import type { Random } from '#lib/core/clock.ts';

const RENEWAL_MIN_MS = 1000;
const RENEWAL_MAX_MS = 24 * 3_600_000;
const RETRY_FIRST_MS = 200;

/** Until the renewal of a certificate that ends in `remainingMs`: at 70 %, give or take 5 % so that a node's do not meet. */
export function renewalDelayMs(remainingMs: number, random: Random): number {
  const delayMs = remainingMs * (0.65 + 0.1 * random());
  return Math.min(RENEWAL_MAX_MS, Math.max(RENEWAL_MIN_MS, delayMs));
}

/** Until the next try after `failures` failures in a row (1 for the first): doubling up to `maxMs`, between half and all of it. */
export function retryDelayMs(failures: number, maxMs: number, random: Random): number {
  const fullMs = Math.min(maxMs, RETRY_FIRST_MS * 2 ** Math.min(failures - 1, 20));
  return fullMs * (0.5 + 0.5 * random());
}
