// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { Breaker, type Verdict } from './breaker.ts';

describe('a breaker', () => {
  const accrual = { maxFailures: 3, minPenaltyMs: 1000, maxPenaltyMs: 5000, jitterRatio: 0.5 };
  let clock: VirtualClock;
  let changes: boolean[];
  let random: number;
  let breaker: Breaker;
  beforeEach(() => {
    clock = new VirtualClock();
    changes = [];
    random = 0;
    breaker = new Breaker({
      accrual,
      clock,
      random: () => random,
      changed: () => changes.push(breaker.admits),
    });
  });
  const end = (...verdicts: readonly Verdict[]): void => {
    for (const verdict of verdicts) {
      breaker.started();
      breaker.ended(verdict);
    }
  };

  test('shuts after failures in a row, not before; a success begins the count anew, no verdict does not', () => {
    end('failure', 'failure', 'success', 'failure', 'none', 'failure');
    assert.equal(breaker.admits, true);
    end('failure');
    assert.equal(breaker.admits, false);
    assert.deepEqual(changes, [false]);
  });

  test('after the pause admits one request; its success opens', () => {
    end('failure', 'failure', 'failure');
    clock.advance(999);
    assert.equal(breaker.admits, false);
    clock.advance(1);
    assert.equal(breaker.admits, true);
    breaker.started();
    assert.equal(breaker.admits, false, 'one only');
    breaker.ended('success');
    assert.equal(breaker.admits, true);
    end('failure', 'failure');
    assert.equal(breaker.admits, true, 'the count begins anew');
  });

  test('its failure shuts again for a longer pause, up to the longest; a success resets that', () => {
    end('failure', 'failure', 'failure');
    for (const pauseMs of [1000, 2000, 4000, 5000, 5000]) {
      clock.advance(pauseMs - 1);
      assert.equal(breaker.admits, false, `before ${pauseMs}`);
      clock.advance(1);
      assert.equal(breaker.admits, true, `after ${pauseMs}`);
      end('failure');
    }
    clock.advance(5000);
    end('success', 'failure', 'failure', 'failure');
    clock.advance(1000);
    assert.equal(breaker.admits, true);
  });

  test('a request without a verdict lets the next one try', () => {
    end('failure', 'failure', 'failure');
    clock.advance(1000);
    end('none');
    assert.equal(breaker.admits, true);
  });

  test('what was under way when it shut says nothing', () => {
    end('failure', 'failure', 'failure');
    breaker.ended('success');
    breaker.ended('failure');
    assert.equal(breaker.admits, false);
    clock.advance(1000);
    assert.equal(breaker.admits, true);
  });

  test('jitter makes the pause longer, never longer than the longest', () => {
    random = 1;
    end('failure', 'failure', 'failure');
    clock.advance(1499);
    assert.equal(breaker.admits, false);
    clock.advance(1);
    for (const pauseMs of [3000, 5000]) {
      end('failure');
      clock.advance(pauseMs - 1);
      assert.equal(breaker.admits, false);
      clock.advance(1);
      assert.equal(breaker.admits, true);
    }
  });

  test('leaves no timer behind', () => {
    end('failure', 'failure', 'failure');
    assert.equal(clock.pendingTimers, 1);
    breaker.close();
    assert.equal(clock.pendingTimers, 0);
    assert.deepEqual(changes, [false]);
  });
});
