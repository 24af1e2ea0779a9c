// SPDX-License-Identifier: Apache-2.0
// Picks by themselves, and a simulation of endpoints on virtual time.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { seededRandom } from '#lib/core/clock.ts';
import { slotOf } from '../exchange/endpoint-slot.ts';
import { LoopbackEndpoint, RecordedMetrics } from '../exchange/loopback.ts';
import type { HttpEndpoint } from '../exchange/types.ts';
import { DEFAULT_DECAY_MS } from './peak-ewma.ts';
import { pickEndpoint } from './pick.ts';

const metrics = new RecordedMetrics();
const make = (count: number): HttpEndpoint[] =>
  Array.from({ length: count }, (_, index) => new LoopbackEndpoint(index, metrics));

test('one endpoint is taken without drawing', () => {
  const [only] = make(1) as [HttpEndpoint];
  assert.equal(
    pickEndpoint([only], 0, () => assert.fail('no random number is needed')),
    only,
  );
});

test('two different ones are drawn, the lower load wins, a tie goes to the first drawn', () => {
  const list = make(3);
  const draws =
    (...values: number[]): (() => number) =>
    () =>
      values.shift() ?? 0;
  assert.equal(pickEndpoint(list, 0, draws(0.99, 0)), list[2]);
  assert.equal(pickEndpoint(list, 0, draws(0, 0)), list[0], 'the second drawn is never the first again');
  slotOf(list[0] as HttpEndpoint, 0).load.started();
  assert.equal(pickEndpoint(list, 0, draws(0, 0)), list[1]);
});

test('without load every endpoint gets its share', () => {
  const list = make(4);
  const random = seededRandom(1);
  const counts = new Map<HttpEndpoint, number>();
  for (let n = 0; n < 8000; n++) {
    const picked = pickEndpoint(list, 0, random);
    counts.set(picked, (counts.get(picked) ?? 0) + 1);
  }
  for (const endpoint of list) assert.ok(Math.abs((counts.get(endpoint) ?? 0) - 2000) < 200);
});

/** Share of the first endpoint relative to a fair one, per 5 s, while it is ten times slower from 20 s to 60 s. */
function simulate(endpoints: number, requestsPerSecond: number, latencyMs: number, seed: number): number[] {
  const random = seededRandom(seed);
  const list = make(endpoints);
  const slow = list[0] as HttpEndpoint;
  const flying: { at: number; started: number; endpoint: HttpEndpoint }[] = [];
  const all: number[] = [];
  const its: number[] = [];
  for (let now = 0; ; ) {
    now += (-Math.log(1 - random()) * 1000) / requestsPerSecond;
    if (now >= 100_000) break;
    flying.sort((a, b) => a.at - b.at);
    while ((flying[0]?.at ?? Number.POSITIVE_INFINITY) <= now) {
      const { at, started, endpoint } = flying.shift() as (typeof flying)[number];
      slotOf(endpoint, at).load.finished(at, at - started);
    }
    const endpoint = pickEndpoint(list, now, random);
    slotOf(endpoint, now).load.started();
    const factor = endpoint === slow && now >= 20_000 && now < 60_000 ? 10 : 1;
    flying.push({ at: now + latencyMs * factor * (0.5 + random()), started: now, endpoint });
    const window = Math.floor(now / 5000);
    all[window] = (all[window] ?? 0) + 1;
    its[window] = (its[window] ?? 0) + (endpoint === slow ? 1 : 0);
  }
  return all.map((count, window) => ((its[window] ?? 0) / count) * endpoints);
}

for (const [endpoints, rps, latencyMs] of [
  [2, 100, 10],
  [4, 400, 10],
  [10, 1000, 30],
  [3, 300, 50],
] as const) {
  test(`${endpoints} endpoints: ten times slower gets under 5 % and has its share again within the decay time`, () => {
    for (const seed of [1, 2, 3, 4]) checkShares(simulate(endpoints, rps, latencyMs, seed));
  });
}

function checkShares(share: readonly number[]): void {
  const between = (fromMs: number, toMs: number): number => {
    const part = share.slice(fromMs / 5000, toMs / 5000);
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  };
  assert.ok(Math.abs(between(0, 20_000) - 1) < 0.15, 'fair before');
  assert.ok(between(20_000, 60_000) < 0.05, 'hardly anything while slow');
  const recovered = 60_000 + DEFAULT_DECAY_MS;
  assert.ok(between(recovered, recovered + 5000) > 0.8, 'its share after the decay time');
  assert.ok(Math.abs(between(recovered + 5000, 100_000) - 1) < 0.15, 'fair after');
}
