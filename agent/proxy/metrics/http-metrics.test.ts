// SPDX-License-Identifier: Apache-2.0
// The series of a peer that is gone: a scraper finds them for a while, then they end, also those that a late answer
// brought into being.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import { MetricStore } from '#lib/metrics/store.ts';
import { GRPC_NONE } from '../exchange/types.ts';
import { FAILURE_NONE } from '../failure.ts';
import { proxyFamilies } from './families.ts';
import { EndpointHttpMetrics } from './http-metrics.ts';

const IDLE_MS = 600_000;

test('the series of an endpoint that is gone end ten minutes later; those of others stay', async () => {
  const clock = new VirtualClock();
  const registry = new MetricRegistry(proxyFamilies, clock);
  const store = new MetricStore({
    id: 'w',
    families: proxyFamilies,
    send: (definition) => registry.define(0, definition),
    clock,
  });
  const gone = new EndpointHttpMetrics(store, 'target_ip="10.0.0.1"', 'uid');
  const stays = new EndpointHttpMetrics(store, 'target_ip="10.0.0.2"', 'uid');
  for (const endpoint of [gone, stays]) {
    endpoint.requestStarted();
    endpoint.firstBody(200, 1);
    endpoint.responseEnded(200, FAILURE_NONE, GRPC_NONE);
    endpoint.responseEnded(200, FAILURE_NONE, 5);
    endpoint.responseReset(0, 8);
  }
  gone.close();
  clock.advance(IDLE_MS / 2);
  // An answer that was under way when the endpoint was taken out.
  gone.responseEnded(503, FAILURE_NONE, GRPC_NONE);
  clock.advance(IDLE_MS / 2 - 1);
  store.sweep();
  const before = await registry.render();
  assert.match(before, /^response_total\{target_ip="10\.0\.0\.1",status_code="200".*\} 1$/m);
  clock.advance(1);
  store.sweep();
  const between = await registry.render();
  assert.doesNotMatch(between, /^request_total\{target_ip="10\.0\.0\.1"/m);
  assert.match(between, /^response_total\{target_ip="10\.0\.0\.1",status_code="503"/m);
  clock.advance(IDLE_MS);
  store.sweep();
  const after = await registry.render();
  assert.doesNotMatch(after, /10\.0\.0\.1/);
  assert.match(after, /^request_total\{target_ip="10\.0\.0\.2"\} 1$/m);
});
