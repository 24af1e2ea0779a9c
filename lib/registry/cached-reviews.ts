// SPDX-License-Identifier: Apache-2.0
// Asks a token reviewer, gently: one review per token at a time, answers kept for seconds, and limits on how many
// run, wait and start. An agent certifies a hundred accounts with one token; that is one review. Only what the
// token says is kept: whether its pod lives, whoever asks looks up in the registry every time.

import { createHash } from 'node:crypto';
import type { Clock } from '#lib/core/clock.ts';
import { createConcurrency } from '#lib/core/concurrency.ts';
import { MeshError } from '#lib/core/errors.ts';
import type { TokenReviewer, TokenReviewStatus } from './token-review.ts';

export interface ReviewLimits {
  readonly runningMax: number;
  readonly waitingMax: number;
  readonly startsPerSecondMax: number;
  readonly cachedMax: number;
  /** How long an authentic token is believed. */
  readonly authenticatedMs: number;
  readonly refusedMs: number;
}

export const defaultReviewLimits: ReviewLimits = {
  runningMax: 16,
  waitingMax: 1000,
  startsPerSecondMax: 200,
  cachedMax: 10_000,
  authenticatedMs: 10_000,
  refusedMs: 1000,
};

export interface CachedReviewsOptions {
  readonly reviewer: TokenReviewer;
  readonly clock: Clock;
  readonly limits?: ReviewLimits;
}

/** Rejects with MESH_LIMIT when too many reviews are asked for. */
export function createCachedReviews(options: CachedReviewsOptions): TokenReviewer {
  const { reviewer, clock } = options;
  const limits = options.limits ?? defaultReviewLimits;
  const concurrency = createConcurrency({
    what: 'token reviews',
    runningMax: limits.runningMax,
    waitingMax: limits.waitingMax,
  });
  const known = new Map<string, { readonly status: TokenReviewStatus; readonly untilMs: number }>();
  const underWay = new Map<string, Promise<TokenReviewStatus>>();
  let startsLeft = limits.startsPerSecondMax;
  let countedAtMs = clock.nowMs();

  const takeStart = (): void => {
    const nowMs = clock.nowMs();
    const earned = ((nowMs - countedAtMs) / 1000) * limits.startsPerSecondMax;
    startsLeft = Math.min(limits.startsPerSecondMax, startsLeft + earned);
    countedAtMs = nowMs;
    if (startsLeft < 1) {
      throw new MeshError('MESH_LIMIT', 'too many tokens are being reviewed', { retryable: true });
    }
    startsLeft--;
  };
  const remember = (hash: string, status: TokenReviewStatus): void => {
    const keptMs = status.authenticated ? limits.authenticatedMs : limits.refusedMs;
    known.delete(hash);
    known.set(hash, { status, untilMs: clock.nowMs() + keptMs });
    for (const oldest of known.keys()) {
      if (known.size <= limits.cachedMax) break;
      known.delete(oldest);
    }
  };
  const ask = async (hash: string, token: string, audiences: readonly string[]) => {
    try {
      const status = await concurrency.run(() => reviewer.review(token, audiences));
      remember(hash, status);
      return status;
    } finally {
      underWay.delete(hash);
    }
  };

  return {
    async review(token, audiences) {
      const hash = createHash('sha256')
        .update(`${audiences.join(' ')}\n${token}`)
        .digest('base64');
      const hit = known.get(hash);
      if (hit !== undefined && hit.untilMs > clock.nowMs()) return hit.status;
      known.delete(hash);
      const shared = underWay.get(hash);
      if (shared !== undefined) return await shared;
      takeStart();
      const asked = ask(hash, token, audiences);
      underWay.set(hash, asked);
      return await asked;
    },
  };
}
