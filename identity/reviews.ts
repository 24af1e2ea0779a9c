// SPDX-License-Identifier: Apache-2.0
// Token reviews for Certify: cached and limited, and what cannot be had is a Refusal.

import type { Clock } from '#lib/core/clock.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { createCachedReviews, type ReviewLimits } from '#lib/registry/cached-reviews.ts';
import type { TokenReviewer, TokenReviewStatus } from '#lib/registry/token-review.ts';
import { Refusal } from './rules.ts';

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
  const cached = createCachedReviews(options);
  return {
    async review(token) {
      try {
        return await cached.review(token, options.audiences);
      } catch (error) {
        if (error instanceof MeshError && error.code === 'MESH_LIMIT')
          throw new Refusal('review-busy', error.message);
        throw new Refusal('review-failed', `the token cannot be reviewed: ${errorMessage(error)}`);
      }
    },
  };
}
