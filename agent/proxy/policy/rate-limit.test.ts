// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RATE_ALLOWED, RATE_IDENTITY, RATE_TOTAL, RateLimiter, type RateLimits } from './rate-limit.ts';

/** How many of `asked` requests at one instant are allowed. */
const burst = (limiter: RateLimiter, identity: string, asked: number, nowMs = 0): number =>
  Array.from({ length: asked }, () => limiter.check(identity, nowMs)).filter(
    (verdict) => verdict === RATE_ALLOWED,
  ).length;
const limiterOf = (limits: Partial<RateLimits>) => new RateLimiter({ overrides: [], ...limits });

describe('limits of rates (C-306)', () => {
  test('C-306 without limits everything is allowed', () => {
    assert.equal(burst(limiterOf({}), 'a', 1_000), 1_000);
  });

  test('C-306 a second’s worth may come at once, then they come evenly', () => {
    for (const rate of [1, 3, 10, 997]) {
      const limiter = limiterOf({ total: rate });
      assert.equal(burst(limiter, 'a', 2 * rate), rate, `${rate} at once`);
      let allowed = 0;
      for (let ms = 1; ms <= 10_000; ms++) if (limiter.check('a', ms) === RATE_ALLOWED) allowed++;
      assert.equal(allowed, 10 * rate > 9_970 ? allowed : 10 * rate, `${rate} a second`);
      assert.ok(allowed <= 10 * rate);
    }
  });

  test('C-306 each identity has its own bucket; those without one share theirs', () => {
    const limiter = limiterOf({ identity: 5 });
    assert.equal(burst(limiter, 'a', 10), 5);
    assert.equal(burst(limiter, 'b', 10), 5);
    assert.equal(burst(limiter, '', 3), 3);
    assert.equal(burst(limiter, '', 10), 2);
    assert.equal(limiter.check('a', 0), RATE_IDENTITY);
  });

  test('C-306 an override stands in place of the identity’s limit; the first that names a client counts', () => {
    const limiter = limiterOf({
      identity: 1,
      overrides: [
        { requestsPerSecond: 7, identities: ['a', 'b'] },
        { requestsPerSecond: 2, identities: ['b', 'c'] },
      ],
    });
    assert.equal(burst(limiter, 'a', 5), 5);
    assert.equal(burst(limiter, 'b', 5), 2, 'what an override gives is shared by those whom it names');
    assert.equal(burst(limiter, 'c', 5), 2);
    assert.equal(burst(limiter, 'd', 5), 1);
    assert.deepEqual(
      ['a', 'b', 'c', 'd'].map((identity) => limiter.rateOf(RATE_IDENTITY, identity)),
      [7, 7, 2, 1],
    );
  });

  test('C-306 the total is for everybody, overrides too', () => {
    const limiter = limiterOf({ total: 4, overrides: [{ requestsPerSecond: 10, identities: ['a'] }] });
    assert.equal(burst(limiter, 'a', 10), 4);
    assert.equal(limiter.check('b', 0), RATE_TOTAL);
    assert.equal(limiter.rateOf(RATE_TOTAL, 'b'), 4);
  });

  test('C-444 what the identity’s limit refuses is taken from the total all the same', () => {
    const limiter = limiterOf({ total: 10, identity: 2 });
    assert.equal(burst(limiter, 'greedy', 9), 2);
    assert.equal(burst(limiter, 'other', 2), 1, 'one of the ten is left');
    assert.equal(limiter.check('other', 0), RATE_TOTAL);
  });

  test('buckets of many identities are forgotten when they are full again, and limited', () => {
    const limiter = limiterOf({ identity: 1 });
    for (let index = 0; index < 10_000; index++) limiter.check(`a-${index}`, 0);
    assert.equal(limiter.check('late', 0), RATE_ALLOWED, 'in the bucket of those without identity');
    assert.equal(limiter.check('later', 0), RATE_IDENTITY);
    assert.equal(limiter.check('later', 1_001), RATE_ALLOWED, 'with room again a bucket of its own');
    assert.equal(limiter.check('', 1_001), RATE_ALLOWED);
  });
});
