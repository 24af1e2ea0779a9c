// SPDX-License-Identifier: Apache-2.0
// Asks the token reviewer, gently: one review per token at a time, answers kept for seconds, and limits on how many
// run, wait and start. An agent certifies a hundred accounts with one token; that is one review.

import { createHash } from 'node:crypto';
import type { Clock } from '#lib/core/clock.ts';
import { createConcurrency } from '#lib/core/concurrency.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { TokenReviewer, TokenReviewStatus } from '#lib/registry/token-review.ts';
import { Refusal } from './rules.ts';

export interface ReviewLimits {
  readonly runningMax: number;
  readonly waitingMax: number;
  readonly startsPerSecondMax: number;
  readonly cachedMax: number;
  /** How long an authentic token is believed; the pods it is bound to are looked at every time. */
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

export interface Reviews {
  /** The reviewer's answer; a Refusal if it cannot be had now. */
  review(token: string): Promise<TokenReviewStatus>;
}

export interface ReviewsOptions {
  readonly reviewer: TokenReviewer;
  readonly audiences: readonly string[];
  readonly clock: Clock;
  readonly limits?: ReviewLimits;
}

export function createReviews(options: ReviewsOptions): Reviews {
  const { reviewer, audiences, clock } = options;
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
    if (startsLeft < 1) throw new Refusal('review-busy', 'too many tokens are being reviewed');
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
  const ask = async (hash: string, token: string): Promise<TokenReviewStatus> => {
    try {
      const status = await concurrency.run(() => reviewer.review(token, audiences));
      remember(hash, status);
      return status;
    } catch (error) {
      if (error instanceof MeshError && error.code === 'MESH_LIMIT')
        throw new Refusal('review-busy', error.message);
      throw new Refusal('review-failed', `the token cannot be reviewed: ${errorMessage(error)}`);
    } finally {
      underWay.delete(hash);
    }
  };

  return {
    async review(token) {
      const hash = createHash('sha256').update(token).digest('base64');
      const hit = known.get(hash);
      if (hit !== undefined && hit.untilMs > clock.nowMs()) return hit.status;
      known.delete(hash);
      const shared = underWay.get(hash);
      if (shared !== undefined) return await shared;
      takeStart();
      const asked = ask(hash, token);
      underWay.set(hash, asked);
      return await asked;
    },
  };
}
