// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LoadEstimate } from './peak-ewma.ts';

const near = (actual: number, expected: number): void =>
  assert.ok(Math.abs(actual - expected) < 1e-9, `${actual} is not ${expected}`);

test('an endpoint without history costs the default round trip', () => {
  near(new LoadEstimate(0).load(0), 30);
  near(new LoadEstimate(0, 0).load(0), 1);
});

test('a peak counts at once, better times come slowly', () => {
  const load = new LoadEstimate(0, 10, 1000);
  load.started();
  load.finished(0, 500);
  near(load.rttMs, 500);
  load.started();
  load.finished(1000, 100);
  near(load.rttMs, 500 * 0.1 + 100 * 0.9);
});

test('reading lets the estimate decay towards zero', () => {
  const load = new LoadEstimate(0, 100, 1000);
  near(load.load(1000), 100 * 0.1);
  near(load.load(1000), 100 * 0.1);
  near(load.load(3000), 100 * 0.1 ** 3);
});

test('every request in flight costs one more round trip', () => {
  const load = new LoadEstimate(0, 10);
  load.started();
  load.started();
  near(load.load(0), 30);
  load.finished(0, 1);
  assert.equal(load.inFlight, 1);
  near(load.load(0), 20);
});

test('a clock that stands still or steps back changes nothing but peaks', () => {
  const load = new LoadEstimate(100, 10);
  near(load.load(50), 10);
  near(load.load(50), 10);
});
