// SPDX-License-Identifier: Apache-2.0
// What the newer families count, from a request's way through an exchange to the text that is scraped.

import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import { MetricStore } from '#lib/metrics/store.ts';
import { NOT_RESET } from '../exchange/http2-client.ts';
import type { RequestEnd } from '../exchange/request-end.ts';
import { RouteMeter } from '../exchange/route-meter.ts';
import { GRPC_MISSING, GRPC_NONE, type HttpRoute } from '../exchange/types.ts';
import {
  FAILURE_CLIENT_GONE,
  FAILURE_CONNECT_REFUSED,
  FAILURE_FAILFAST,
  FAILURE_LOADSHED,
  FAILURE_NONE,
  FAILURE_RESPONSE_TIMEOUT,
  FAILURE_UPSTREAM_RESET,
} from '../failure.ts';
import { CANCEL } from '#lib/http2/codes.ts';
import { BalancerSeries } from './balancer-metrics.ts';
import { proxyFamilies } from './families.ts';
import { defaultRouteOf, parentOf, routeLabels, serviceLabels } from './labels.ts';
import {
  inboundRequestFamilies,
  inboundResponseFamilies,
  outboundBackendFamilies,
  outboundRouteFamilies,
  type RouteKind,
  StreamSeries,
} from './route-metrics.ts';

const end = (
  atMs: number,
  status: number,
  failure = FAILURE_NONE,
  grpcStatus = GRPC_NONE,
  reset = NOT_RESET,
  started = true,
): RequestEnd => ({ atMs, status, failure, grpcStatus, reset, started });

const PARENT =
  'parent_group="core",parent_kind="Service",parent_namespace="shop",parent_name="cart",parent_port="80",parent_section_name=""';
const ROUTE = 'route_group="",route_kind="default",route_namespace="",route_name="http"';
const BACKEND = PARENT.replaceAll('parent_', 'backend_');
const cart = parentOf({
  kind: 'service',
  authority: 'cart.shop.svc.cluster.local:80',
  opaque: false,
  resolved: true,
  endpoints: [],
});

describe('route metrics', () => {
  let clock: VirtualClock;
  let store: MetricStore;
  let registry: MetricRegistry;
  let meter: RouteMeter;
  const place = () => ({ store, owner: 'uid', podLabels: 'pod="web"' });

  beforeEach(() => {
    clock = new VirtualClock();
    registry = new MetricRegistry(proxyFamilies, clock);
    store = new MetricStore({
      id: 'w',
      families: proxyFamilies,
      send: (definition) => registry.define(0, definition),
      clock,
    });
    meter = new RouteMeter();
  });

  /** Value of the one sample whose name and labels are these, without the pod's. */
  const value = async (name: string, labels: string): Promise<number | undefined> => {
    const found = (await registry.render())
      .split('\n')
      .find((line) => line.startsWith(`${name}{${labels},pod="web"`));
    return found === undefined ? undefined : Number(found.slice(found.lastIndexOf(' ') + 1));
  };
  const outbound = (kind: RouteKind = 'http', balancer: BalancerSeries | null = null): HttpRoute => ({
    metrics: new StreamSeries(place(), kind, outboundRouteFamilies(kind), `${PARENT},${ROUTE},hostname=""`),
    backend: new StreamSeries(
      place(),
      kind,
      outboundBackendFamilies(kind),
      `${PARENT},${ROUTE},${BACKEND}`,
      balancer,
    ),
  });
  const NAME = 'outbound_http_route';
  const LABELS = `${PARENT},${ROUTE}`;

  test('labels of a service and of its default route', () => {
    assert.equal(serviceLabels('parent', cart), PARENT);
    assert.equal(routeLabels(defaultRouteOf(cart, 'http')), ROUTE);
    const unknown = parentOf({ kind: 'unknown' });
    assert.match(
      serviceLabels('parent', unknown),
      /parent_kind="default".*parent_name="fallback",parent_port=""/,
    );
    assert.match(routeLabels(defaultRouteOf(unknown, 'http')), /route_name="fallback"/);
  });

  test('a request: durations from its arrival and from its end, parts of bodies, statuses', async () => {
    const route = outbound();
    meter.begin();
    meter.arrived(route, 1000);
    meter.attempted(1000, false);
    meter.requestPart(100);
    meter.requestPart(2000);
    meter.flushed(1400);
    meter.responsePart(20_000);
    meter.ended(end(1600, 204));
    assert.equal(await value(`${NAME}_request_duration_seconds_sum`, `${LABELS},hostname=""`), 0.6);
    assert.equal(
      await value(`${NAME}_request_statuses_total`, `${LABELS},hostname="",http_status="204",error=""`),
      1,
    );
    const frames = `${NAME}_request_frame_size_bytes`;
    assert.equal(await value(`${frames}_count`, `${LABELS},hostname=""`), 2);
    assert.equal(await value(`${NAME}_backend_requests_total`, `${LABELS},${BACKEND}`), 1);
    const seconds = await value(`${NAME}_backend_response_duration_seconds_sum`, `${LABELS},${BACKEND}`);
    assert.ok(Math.abs((seconds ?? 0) - 0.2) < 1e-9);
    assert.equal(
      await value(`${NAME}_backend_response_frame_size_bytes_sum`, `${LABELS},${BACKEND}`),
      20_000,
    );
    const text = await registry.render();
    const bounds = (name: string): string[] =>
      [...text.matchAll(new RegExp(`^${name}_bucket.*le="([^"]+)"`, 'gm'))].map(([, bound]) => bound ?? '');
    assert.deepEqual(bounds(`${NAME}_request_duration_seconds`), ['0.05', '0.5', '1', '10', '+Inf']);
    assert.deepEqual(bounds(`${NAME}_backend_response_duration_seconds`), [
      '0.025',
      '0.05',
      '0.1',
      '0.25',
      '0.5',
      '1',
      '10',
      '+Inf',
    ]);
    assert.deepEqual(bounds(frames), ['128', '1024', '10240', '+Inf']);
  });

  test('two attempts are one request of the route and two of the backend', async () => {
    const route = outbound();
    meter.begin();
    meter.arrived(route, 0);
    meter.attempted(0, true);
    meter.attemptEnded(end(10, 503));
    meter.arrived(route, 20);
    meter.attempted(20, true);
    meter.ended(end(30, 200));
    assert.equal(await value(`${NAME}_backend_requests_total`, `${LABELS},${BACKEND}`), 2);
    assert.equal(
      await value(
        `${NAME}_backend_response_statuses_total`,
        `${LABELS},${BACKEND},http_status="503",error=""`,
      ),
      1,
    );
    assert.equal(
      await value(
        `${NAME}_backend_response_statuses_total`,
        `${LABELS},${BACKEND},http_status="200",error=""`,
      ),
      1,
    );
    assert.equal(
      await value(`${NAME}_request_statuses_total`, `${LABELS},hostname="",http_status="200",error=""`),
      1,
    );
    assert.equal(await value(`${NAME}_request_duration_seconds_sum`, `${LABELS},hostname=""`), 0.03);
  });

  test('errors by name: without an answer there is no status, in the middle of one it stays', async () => {
    const route = outbound();
    const ends = (status: number, failure: number, reset: number, started: boolean): void => {
      meter.begin();
      meter.arrived(route, 0);
      meter.attempted(0, true);
      meter.ended(end(1, status, failure, GRPC_NONE, reset, started));
    };
    ends(504, FAILURE_FAILFAST, NOT_RESET, false);
    ends(0, FAILURE_UPSTREAM_RESET, CANCEL, false);
    meter.limit = 'IDLE_TIMEOUT';
    ends(200, FAILURE_RESPONSE_TIMEOUT, NOT_RESET, true);
    ends(200, FAILURE_CLIENT_GONE, NOT_RESET, true);
    ends(0, FAILURE_CLIENT_GONE, NOT_RESET, false);
    ends(502, FAILURE_CONNECT_REFUSED, NOT_RESET, false);
    ends(200, FAILURE_UPSTREAM_RESET, NOT_RESET, true);
    const text = await registry.render();
    const outcomes = [
      ...text.matchAll(/route_request_statuses_total\{.*(http_status="\d*",error="\w*").*\} (\d+)/g),
    ];
    assert.deepEqual(outcomes.map(([, labels, count]) => `${labels} ${count}`).sort(), [
      'http_status="",error="CANCEL" 1',
      'http_status="",error="FAIL_FAST" 1',
      'http_status="200",error="IDLE_TIMEOUT" 1',
      'http_status="200",error="IO" 1',
      'http_status="200",error="UNKNOWN" 1',
      'http_status="502",error="" 1',
    ]);
    assert.equal(
      await value(`${NAME}_backend_requests_total`, `${LABELS},${BACKEND}`),
      7,
      'attempts, all of them',
    );
  });

  test('a route of gRPC has families of its own, with the names of statuses', async () => {
    const route = outbound('grpc');
    for (const grpcStatus of [0, 5, GRPC_MISSING]) {
      meter.begin();
      meter.arrived(route, 0);
      meter.attempted(0, true);
      meter.ended(end(1, 200, FAILURE_NONE, grpcStatus));
    }
    for (const name of ['OK', 'NOT_FOUND', 'UNKNOWN']) {
      const labels = `${LABELS},hostname="",grpc_status="${name}",error=""`;
      assert.equal(await value('outbound_grpc_route_request_statuses_total', labels), 1, name);
    }
  });

  test('inbound by server and route, the status alone', async () => {
    const labels = 'parent_name="all-unauthenticated",route_name="default"';
    for (const kind of ['http', 'grpc'] as const) {
      const route = {
        metrics: new StreamSeries(place(), kind, inboundRequestFamilies(kind), labels),
        backend: new StreamSeries(place(), kind, inboundResponseFamilies(kind), labels),
      };
      meter.begin();
      meter.arrived(route, 0);
      meter.attempted(0, true);
      meter.ended(end(100, 200, FAILURE_NONE, 13));
      const status = kind === 'http' ? 200 : 13;
      assert.equal(await value(`inbound_${kind}_requests_total`, labels), 1);
      assert.equal(await value(`inbound_${kind}_statuses_total`, `${labels},status="${status}"`), 1);
      assert.equal(await value(`inbound_${kind}_request_duration_seconds_sum`, labels), 0.1);
      assert.equal(await value(`inbound_${kind}_response_duration_seconds_sum`, labels), 0.1);
    }
  });

  test('a balancer: its endpoints, who waits how long, its gate', async () => {
    const balancer = new BalancerSeries(place(), 'http', PARENT, 3000);
    balancer.updated(true, 0, 0);
    balancer.hasEndpoints(2, 1);
    const name = 'outbound_http_balancer';
    assert.equal(await value(`${name}_endpoints`, `state="ready",${PARENT}`), 2);
    assert.equal(await value(`${name}_endpoints`, `state="pending",${PARENT}`), 1);
    assert.equal(await value(`${name}_p2c_endpoints`, PARENT), 3);
    balancer.updated(false, 2, 1);
    for (const [op, count] of [
      ['Reset', 1],
      ['Add', 2],
      ['Remove', 1],
    ] as const) {
      assert.equal(await value(`${name}_p2c_updates_total`, `op="${op}",${PARENT}`), count);
    }
    assert.equal(await value(`${name}_queue_gate_timeout_seconds`, PARENT), 3);

    const route = outbound('http', balancer);
    meter.begin();
    meter.arrived(route, 0);
    meter.waits(0);
    assert.equal(await value(`${name}_queue_length`, PARENT), 1);
    meter.attempted(700, true);
    assert.equal(await value(`${name}_queue_length`, PARENT), 0);
    assert.equal(await value(`${name}_queue_latency_seconds_sum`, PARENT), 0.7);
    meter.ended(end(800, 200));
    meter.begin();
    meter.arrived(route, 0);
    meter.waits(0);
    meter.ended(end(3000, 504, FAILURE_FAILFAST, GRPC_NONE, NOT_RESET, false));
    assert.equal(await value(`${name}_queue_length`, PARENT), 0, 'nobody waits who has failed');
    meter.begin();
    meter.arrived(route, 0);
    meter.ended(end(0, 503, FAILURE_LOADSHED, GRPC_NONE, NOT_RESET, false));
    assert.equal(
      await value(`${name}_queue_requests_total`, PARENT),
      2,
      'what is shed never comes to the balancer',
    );
    assert.equal(await value(`${NAME}_backend_requests_total`, `${LABELS},${BACKEND}`), 2);
    balancer.shut(5000);
    balancer.opened(9000);
    assert.equal(await value(`${name}_queue_gate_shut_total`, PARENT), 1);
    assert.equal(await value(`${name}_queue_gate_shut_time_seconds`, PARENT), 5);
    assert.equal(await value(`${name}_queue_gate_open_time_seconds`, PARENT), 9);
  });

  test('what is closed is given up', async () => {
    const balancer = new BalancerSeries(place(), 'tcp', PARENT, 3000);
    const route = outbound();
    meter.begin();
    meter.arrived(route, 0);
    meter.attempted(0, true);
    meter.ended(end(1, 200));
    balancer.close();
    for (const series of [route.metrics, route.backend]) (series as StreamSeries).close();
    clock.advance(601_000);
    store.sweep();
    assert.doesNotMatch(await registry.render(), /outbound_/);
  });
});
