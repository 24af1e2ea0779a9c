// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { defaultReviewLimits, type ReviewLimits } from '#lib/registry/cached-reviews.ts';
import type { TokenReviewStatus } from '#lib/registry/token-review.ts';
import { createReviews, type Reviews } from './reviews.ts';
import { Refusal } from './rules.ts';

/** A reviewer whose answers are held until `answer` is called; tokens that begin with "bad" are refused. */
function heldReviews(limits: Partial<ReviewLimits> = {}): {
  reviews: Reviews;
  asked: string[];
  clock: VirtualClock;
  answer: () => void;
} {
  const asked: string[] = [];
  const held: (() => void)[] = [];
  const clock = new VirtualClock();
  const reviews = createReviews({
    reviewer: {
      review: (token, audiences) =>
        new Promise<TokenReviewStatus>((resolve) => {
          asked.push(token);
          const authenticated = !token.startsWith('bad');
          held.push(() => resolve({ authenticated, audiences, user: undefined, error: undefined }));
        }),
    },
    audiences: ['a'],
    clock,
    limits: { ...defaultReviewLimits, ...limits },
  });
  return {
    reviews,
    asked,
    clock,
    answer: () => {
      for (const one of held.splice(0)) one();
    },
  };
}

it('runs so many reviews at once, lets so many wait and refuses the next', async () => {
  const { reviews, asked, answer } = heldReviews({ runningMax: 2, waitingMax: 1 });
  const [first, second, third] = ['1', '2', '3'].map((token) => reviews.review(token));
  await assert.rejects(
    reviews.review('4'),
    (error) => error instanceof Refusal && error.rule === 'review-busy',
  );
  assert.deepEqual(asked, ['1', '2']);
  answer();
  await Promise.all([first, second]);
  answer();
  await third;
  assert.deepEqual(asked, ['1', '2', '3']);
  const fourth = reviews.review('4');
  answer();
  await fourth;
});

it('shares a review that is under way, and keeps its answer: an authentic one longer', async () => {
  const { reviews, asked, clock, answer } = heldReviews({ authenticatedMs: 10_000, refusedMs: 1000 });
  const both = async (tokens: readonly string[]): Promise<void> => {
    const answers = tokens.map((token) => reviews.review(token));
    answer();
    await Promise.all(answers);
  };
  await both(['good', 'good', 'bad', 'bad']);
  assert.deepEqual(asked.splice(0), ['good', 'bad']);
  clock.advance(999);
  await both(['good', 'bad']);
  assert.deepEqual(asked.splice(0), []);
  clock.advance(1);
  await both(['good', 'bad']);
  assert.deepEqual(asked.splice(0), ['bad']);
  clock.advance(9000);
  await both(['good']);
  assert.deepEqual(asked.splice(0), ['good']);
});

it('remembers only so many tokens, the oldest go first', async () => {
  const { reviews, asked, answer } = heldReviews({ cachedMax: 2 });
  for (const token of ['1', '2', '3', '3', '2', '1']) {
    const asking = reviews.review(token);
    answer();
    await asking;
  }
  assert.deepEqual(asked, ['1', '2', '3', '1']);
});
