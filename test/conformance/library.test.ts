// SPDX-License-Identifier: Apache-2.0
// Scenarios of the parts that Linkerd's proxy is made of which need no agent: classification, what endpoints say about
// themselves, settings.

import { strict as assert } from 'node:assert';
import { describe } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { asDurationMs, asInteger, asList, asListen } from '#lib/core/config.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import { MetricStore } from '#lib/metrics/store.ts';
import { socketToWire } from '#lib/proto/addresses.ts';
import { WeightedAddr } from '#lib/proto/gen/linkerd/destination.ts';
import { endpointOf } from '../../agent/node/service-lookup.ts';
import { GRPC_MISSING, GRPC_NONE } from '../../agent/proxy/exchange/types.ts';
import { FAILURE_CLIENT_GONE, FAILURE_NONE, FAILURE_UPSTREAM_RESET } from '../../agent/proxy/failure.ts';
import { proxyFamilies } from '../../agent/proxy/metrics/families.ts';
import { EndpointHttpMetrics, isFailure } from '../../agent/proxy/metrics/http-metrics.ts';
import { parseMetrics, sumOf } from './metrics.ts';
import { test } from './stage.ts';

describe('parts', () => {
  test('C-285 success and failure, of HTTP by status, of gRPC by its own', () => {
    for (const [status, failed] of [
      [200, false],
      [304, false],
      [400, false],
      [429, false],
      [499, false],
      [500, true],
      [503, true],
      [599, true],
      [0, true],
    ] as const) {
      assert.equal(isFailure(status, FAILURE_NONE, GRPC_NONE), failed, `${status}`);
    }
    const failures = new Set([2, 4, 7, 13, 14, 15]);
    for (let code = 0; code <= 16; code++) {
      assert.equal(isFailure(200, FAILURE_NONE, code), failures.has(code), `grpc-status ${code}`);
    }
    // No status at all is no failure, whatever HTTP says.
    assert.equal(isFailure(200, FAILURE_NONE, GRPC_MISSING), false);
    assert.equal(isFailure(503, FAILURE_NONE, GRPC_MISSING), false);
    assert.equal(isFailure(200, FAILURE_UPSTREAM_RESET, GRPC_NONE), true);
  });

  test('C-315 responses are counted by status, by gRPC status, by error, and when they were dropped', async () => {
    const registry = new MetricRegistry(proxyFamilies, new VirtualClock());
    const store = new MetricStore({
      id: 'one',
      families: proxyFamilies,
      send: (definition) => registry.define(0, definition),
      clock: new VirtualClock(),
    });
    const metrics = new EndpointHttpMetrics(store, 'x="y"', 'pod');
    const ended: readonly (readonly [status: number, failure: number, grpcStatus: number, times: number])[] =
      [
        [200, FAILURE_NONE, GRPC_NONE, 3],
        [204, FAILURE_NONE, GRPC_NONE, 1],
        [502, FAILURE_UPSTREAM_RESET, GRPC_NONE, 2],
        [200, FAILURE_NONE, 0, 4],
        [200, FAILURE_NONE, 14, 5],
        [0, FAILURE_CLIENT_GONE, GRPC_NONE, 6],
      ];
    for (const [status, failure, grpcStatus, times] of ended) {
      for (let time = 0; time < times; time++) metrics.responseEnded(status, failure, grpcStatus);
    }
    const series = parseMetrics(await registry.render());
    const count = (labels: Record<string, string>): number => sumOf(series, 'response_total', labels);
    assert.equal(count({ status_code: '204', classification: 'success' }), 1);
    assert.equal(count({ status_code: '502', classification: 'failure' }), 2);
    assert.equal(count({ status_code: '200', classification: 'success', grpc_status: '0' }), 4);
    assert.equal(count({ status_code: '200', classification: 'failure', grpc_status: '14' }), 5);
    assert.equal(count({ classification: 'failure', error: 'unclassified' }), 6);
    assert.equal(count({}), 21);
  });

  test('C-307 an endpoint is spoken to as it says: identity, header, HTTP/2, labels', () => {
    const addr = socketToWire('10.1.2.3', 8080);
    const name = { name: 'api.shop.serviceaccount.identity.linkerd.cluster.local' };
    const bare = WeightedAddr.fromPartial({ addr });
    const read = (fields: Partial<WeightedAddr>) =>
      endpointOf({ ...bare, ...fields }, { service: 'api', zone: 'set' }, () => undefined);
    const plain = read({});
    assert.deepEqual(
      [plain?.ip, plain?.port, plain?.identity, plain?.inboundPort],
      ['10.1.2.3', 8080, undefined, undefined],
    );
    // A DNS-like identity is enough; one that is a URI needs a server's name, else the endpoint is unmeshed.
    const dns = read({
      tlsIdentity: { strategy: { $case: 'dnsLikeIdentity', dnsLikeIdentity: name }, serverName: undefined },
    });
    assert.equal(dns?.identity, name.name);
    const uri = (serverName: typeof name | undefined) =>
      read({
        tlsIdentity: {
          strategy: { $case: 'uriLikeIdentity', uriLikeIdentity: { uri: 'spiffe://root/api' } },
          serverName,
        },
      });
    assert.equal(uri(undefined)?.identity, undefined);
    assert.deepEqual([uri(name)?.identity, uri(name)?.serverName], ['spiffe://root/api', name.name]);
    const h2 = { $case: 'h2' as const, h2: {} };
    assert.equal(
      read({ protocolHint: { protocol: h2, opaqueTransport: undefined } })?.http2,
      undefined,
      'only behind the header',
    );
    const hinted = read({ protocolHint: { protocol: h2, opaqueTransport: { inboundPort: 4143 } } });
    assert.deepEqual([hinted?.http2, hinted?.inboundPort], [true, 4143]);
    assert.deepEqual(read({ metricLabels: { zone: 'own' } })?.labels, { service: 'api', zone: 'own' });
    assert.equal(read({ addr: undefined }), undefined);
  });

  test('C-316 settings: units, ranges, what is refused', () => {
    for (const [text, ms] of [
      ['0', 0],
      ['300ms', 300],
      [' 10s ', 10_000],
      ['5m', 300_000],
      ['1h', 3_600_000],
      ['2d', 172_800_000],
      ['24h0m0s', 86_400_000],
      ['1m30s', 90_000],
    ] as const) {
      assert.equal(asDurationMs(text), ms);
    }
    for (const text of ['', '10', '1.5s', '-1s', '1 s', '1w', 's']) {
      assert.throws(() => asDurationMs(text), { name: 'Error' }, text);
    }
    assert.equal(asInteger(1, 65_535)('4143'), 4143);
    for (const text of ['', '0', '65536', '1e3', '4143 ', 'x']) {
      assert.throws(() => asInteger(1, 65_535)(text), { name: 'Error' }, text);
    }
    assert.deepEqual(asList(' a, ,b '), ['a', 'b']);
    assert.deepEqual(asListen('[::]:8080'), { host: '::', port: 8080 });
    for (const text of ['8080', ':8080', '1.2.3.4', '1.2.3.4:65536']) {
      assert.throws(() => asListen(text), { name: 'Error' }, text);
    }
  });
});
