// SPDX-License-Identifier: Apache-2.0
// The queries are Linkerd's. That they return what was counted is for the cluster's tests, on a real Prometheus.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  answersQuery,
  bytesQuery,
  edgesQuery,
  latencyQuery,
  openConnectionsQuery,
  rowOf,
  selectTraffic,
  windowOf,
  type Workloads,
} from './traffic-queries.ts';

const web: Workloads = { label: 'deployment', names: ['web'], namespace: 'shop' };
const clients: Workloads = { label: 'deployment', names: ['client'], namespace: 'users' };

describe('the queries of stat', () => {
  it('ask for what reaches a workload if nothing else is said', () => {
    const selection = selectTraffic(web);
    const labels = 'direction="inbound", namespace="shop", deployment="web"';
    assert.equal(
      answersQuery(selection, '1m'),
      `sum(increase(response_total{${labels}}[1m])) by (namespace, deployment, classification, tls)`,
    );
    assert.equal(
      latencyQuery(selection, '1m', 0.95),
      `histogram_quantile(0.95, sum(irate(response_latency_ms_bucket{${labels}}[1m])) by (le, namespace, deployment))`,
    );
    assert.equal(
      openConnectionsQuery(selection),
      `sum(tcp_open_connections{${labels}}) by (namespace, deployment)`,
    );
    assert.equal(
      bytesQuery(selection, '1m', 'read'),
      `sum(increase(tcp_read_bytes_total{${labels}, peer="src"}[1m])) by (namespace, deployment)`,
    );
    assert.deepEqual(rowOf(web, { namespace: 'shop', deployment: 'web' }), {
      namespace: 'shop',
      name: 'web',
    });
  });

  it('ask with --to what a workload sends, and with --from what it is sent, as its clients see it', () => {
    const sent = selectTraffic(clients, { to: web });
    assert.deepEqual(sent.matchers, [
      'direction="outbound"',
      'namespace="users"',
      'deployment="client"',
      'dst_namespace="shop"',
      'dst_deployment="web"',
    ]);
    assert.deepEqual(sent.groupBy, ['namespace', 'deployment']);
    assert.equal(sent.peer, 'dst');
    const got = selectTraffic(web, { from: clients });
    assert.deepEqual(got.matchers, sent.matchers);
    assert.deepEqual(got.groupBy, ['dst_namespace', 'dst_deployment']);
    const row = { dst_namespace: 'shop', dst_deployment: 'web' };
    assert.deepEqual(rowOf(web, row), { namespace: 'shop', name: 'web' });
  });

  it('find a service by the authority that its clients dialled, and nothing else by a name that begins alike', () => {
    const service: Workloads = { label: 'service', names: ['web'], namespace: 'shop' };
    const { matchers, groupBy } = selectTraffic(service);
    assert.equal(matchers[0], 'direction="outbound"');
    assert.deepEqual(groupBy, ['authority']);
    const found = new RegExp(`^(?:${matcherValue(matchers[1])})$`);
    assert.match('web.shop.svc.cluster.local:8080', found);
    assert.match('web.shop.svc.cluster.local', found);
    for (const other of [
      'web2.shop.svc.cluster.local:80',
      'web.shop2.svc.cluster.local:80',
      'webxshop.svc.a',
    ])
      assert.doesNotMatch(other, found);
    const row = { authority: 'web.shop.svc.cluster.local:8080' };
    assert.deepEqual(rowOf(service, row), { namespace: 'shop', name: 'web' });
    const towards = selectTraffic(clients, { to: service });
    assert.deepEqual(towards.groupBy, ['namespace', 'deployment']);
    assert.equal(towards.matchers.at(-1), matchers[1]);
  });

  it('take namespaces as what they are, and every namespace if none is named', () => {
    const namespaces: Workloads = { label: 'namespace', names: [], namespace: 'shop' };
    assert.deepEqual(selectTraffic(namespaces).matchers, ['direction="inbound"', 'namespace!=""']);
    assert.deepEqual(selectTraffic(namespaces).groupBy, ['namespace']);
    assert.deepEqual(rowOf(namespaces, { namespace: 'shop' }), { namespace: '', name: 'shop' });
    const { matchers } = selectTraffic({ label: 'k8s_job', names: [], namespace: undefined });
    assert.deepEqual(matchers, ['direction="inbound"', 'k8s_job!=""']);
  });

  it('ask for several names at once, each as it is written', () => {
    const { matchers } = selectTraffic({ label: 'pod', names: ['a.b', 'c'], namespace: 'shop' });
    assert.equal(matcherValue(matchers[2]), 'a\\.b|c');
  });
});

it('the query of edges asks for connections that are open now, with both ends', () => {
  assert.equal(
    edgesQuery('deployment'),
    'sum(tcp_open_connections{direction="outbound", deployment!="", dst_deployment!=""}) by (deployment, dst_deployment, pod, server_id, namespace, dst_namespace, no_tls_reason, same_node) > 0',
  );
  assert.match(edgesQuery('namespace'), /by \(pod, server_id, namespace, dst_namespace, /);
});

it('durations are written as PromQL reads them', () => {
  assert.deepEqual([15_000, 5_400_000, 15_500].map(windowOf), ['15s', '5400s', '15500ms']);
});

/** Of `label=~"value"`, as Prometheus reads the string. */
function matcherValue(matcher = ''): string {
  return JSON.parse(matcher.slice(matcher.indexOf('~') + 1)) as string;
}
