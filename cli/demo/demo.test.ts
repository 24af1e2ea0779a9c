// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { judge } from './check.ts';
import { computeFigures, type DemoPod } from './figures.ts';
import { growth, parseMetrics, quantile } from './scrape.ts';
import { layOut, renderFigures } from './table.ts';

describe('reading metrics', () => {
  it('takes samples with and without labels, with escapes, and leaves the rest', () => {
    const text = [
      '# HELP a help',
      '# TYPE a counter',
      'a{x="1",y="q\\"\\\\\\n{}, z"} 3',
      'b 4.5 1700000000',
      'c{} 1',
      'd{le="+Inf"} +Inf',
      'broken{x="1" 3',
      'broken{x=1} 3',
      'e{x="1"} nan-ish',
      '',
      '# EOF',
    ].join('\n');
    assert.deepEqual(parseMetrics(text), [
      { name: 'a', labels: { x: '1', y: 'q"\\\n{}, z' }, value: 3 },
      { name: 'b', labels: {}, value: 4.5 },
      { name: 'c', labels: {}, value: 1 },
      { name: 'd', labels: { le: '+Inf' }, value: Number.POSITIVE_INFINITY },
    ]);
  });

  it('counts growth from nothing, on, and anew after a fall', () => {
    const of = (text: string) => parseMetrics(text);
    const grown = growth(of('a{x="1",y="2"} 5\nb 9'), of('a{y="2",x="1"} 8\nb 2\nc 4'));
    assert.deepEqual(
      grown.map(({ value }) => value),
      [3, 2, 4],
    );
  });

  it('finds quantiles within buckets', () => {
    const buckets = new Map([
      [1, 0],
      [2, 50],
      [3, 100],
      [Number.POSITIVE_INFINITY, 100],
    ]);
    assert.equal(quantile(0.5, buckets), 2);
    assert.equal(quantile(0.75, buckets), 2.5);
    assert.equal(quantile(0.5, new Map([[1, 0]])), null);
    assert.equal(
      quantile(
        0.99,
        new Map([
          [1, 1],
          [Number.POSITIVE_INFINITY, 100],
        ]),
      ),
      1,
    );
    assert.equal(quantile(0.5, new Map()), null);
  });
});

const id = (name: string) => `${name}.shop.serviceaccount.identity.linkerd.cluster.local`;
const pod = (workload: string, number: number, node: string): DemoPod => ({
  namespace: 'shop',
  name: `${workload}-${number}`,
  workload,
  node,
  identity: id(workload),
});
const pods = [
  pod('web', 1, 'node1'),
  pod('web', 2, 'node2'),
  pod('cart', 1, 'node2'),
  pod('redis', 1, 'node1'),
];
const own = (workload: string, number: number) =>
  `namespace="shop",pod="${workload}-${number}",deployment="${workload}",control_plane_ns="nodemesh"`;
const to = (workload: string, number: number, tls = `tls="true",server_id="${id(workload)}"`) =>
  `${tls},dst_deployment="${workload}",dst_namespace="shop",dst_pod="${workload}-${number}"`;

const metrics = (scale: number, secured = true) =>
  parseMetrics(`
process_start_time_seconds{${own('web', 1)}} 1
process_start_time_seconds{${own('web', 2)}} 1
process_start_time_seconds{${own('cart', 1)}} 1
process_start_time_seconds{${own('redis', 1)}} 1
request_total{direction="outbound",${secured ? to('cart', 1) : to('cart', 1, 'tls="no_identity"')},${own('web', 1)}} ${10 * scale}
request_total{direction="outbound",${to('cart', 1)},same_node="true",${own('web', 2)}} ${20 * scale}
response_total{direction="outbound",${to('cart', 1)},classification="success",${own('web', 2)}} ${30 * scale}
tcp_write_bytes_total{direction="outbound",peer="dst",${to('redis', 1)},${own('cart', 1)}} ${500 * scale}
tcp_open_total{direction="outbound",peer="dst",${to('redis', 1)},${own('cart', 1)}} 2
request_total{direction="inbound",tls="true",client_id="${id('web')}",${own('cart', 1)}} ${30 * scale}
response_total{direction="inbound",tls="true",client_id="${id('web')}",classification="success",${own('cart', 1)}} ${24 * scale}
response_total{direction="inbound",tls="true",client_id="${id('web')}",classification="failure",${own('cart', 1)}} ${6 * scale}
response_latency_ms_bucket{direction="inbound",le="1",${own('cart', 1)}} ${15 * scale}
response_latency_ms_bucket{direction="inbound",le="2",${own('cart', 1)}} ${30 * scale}
response_latency_ms_bucket{direction="inbound",le="+Inf",${own('cart', 1)}} ${30 * scale}
tcp_open_connections{direction="inbound",peer="src",${own('cart', 1)}} 7
tcp_open_total{direction="inbound",peer="src",tls="true",client_id="${id('cart')}",${own('redis', 1)}} 2
tcp_read_bytes_total{direction="inbound",peer="src",tls="true",client_id="${id('cart')}",${own('redis', 1)}} ${500 * scale}
tcp_open_connections{direction="inbound",peer="src",${own('redis', 1)}} 2
`);

const figures = (secured = true) => computeFigures(pods, metrics(1, secured), metrics(3, secured), 20);

describe('the figures of the demo', () => {
  it('are those of the time between two scrapes', () => {
    const cart = figures().workloads[0];
    assert.deepEqual(cart, {
      namespace: 'shop',
      name: 'cart',
      meshed: '1/1',
      allMeshed: true,
      successRate: 0.8,
      rps: 3,
      p50Ms: 1,
      p95Ms: 1.9,
      p99Ms: 1.98,
      tcpConnections: 7,
      measured: 'inbound',
      traffic: 60,
    });
  });

  it('are those of its own requests for a pure client, and of connections without HTTP', () => {
    const [, redis, web] = figures().workloads;
    assert.equal(redis?.measured, 'tcp');
    assert.equal(redis?.traffic, 1000);
    assert.equal(redis?.successRate, 1);
    assert.equal(redis?.p50Ms, null);
    assert.equal(web?.measured, 'outbound');
    assert.equal(web?.rps, 3);
    assert.equal(web?.meshed, '2/2');
  });

  it('tell edges between nodes from those on one node', () => {
    assert.deepEqual(figures().edges, [
      {
        src: 'cart',
        dst: 'redis',
        srcIdentity: id('cart'),
        dstIdentity: id('redis'),
        secured: true,
        sameNode: false,
        requests: 2,
      },
      {
        src: 'web',
        dst: 'cart',
        srcIdentity: id('web'),
        dstIdentity: id('cart'),
        secured: true,
        sameNode: false,
        requests: 20,
      },
      {
        src: 'web',
        dst: 'cart',
        srcIdentity: id('web'),
        dstIdentity: id('cart'),
        secured: true,
        sameNode: true,
        requests: 40,
      },
    ]);
  });

  it('count a pod that no agent knows as outside the mesh', () => {
    const more = [...pods, pod('cart', 2, 'node1')];
    assert.equal(computeFigures(more, metrics(1), metrics(2), 20).workloads[0]?.meshed, '1/2');
  });

  it('are drawn in columns', () => {
    const text = renderFigures(figures());
    assert.match(text, /^NAME +MESHED +SUCCESS/);
    assert.match(text, /^cart +1\/1 +80\.00% +3\.0rps +1\.0ms +1\.9ms +2\.0ms +7$/m);
    assert.match(text, /^web +cart +web\.shop +cart\.shop +same node: kernel +40$/m);
    assert.match(text, /^cart +redis +cart\.shop +redis\.shop +mutual TLS +2$/m);
    assert.equal(
      layOut(
        [
          ['a', '1'],
          ['bb', '22'],
        ],
        1,
      ),
      'a     1\nbb   22',
    );
  });
});

describe("the demo's verdict", () => {
  const good = {
    figures: figures(),
    pods,
    nodes: [{ name: 'node1', agentRssMiB: 80, pods: 2 }],
    failingWorkloads: ['cart'],
    markerSeen: false,
    controlSeen: true,
  };

  it('is good when all was as it should be, and its document is exactly as documented', () => {
    const { document, failures } = judge(good);
    assert.deepEqual(failures, []);
    assert.equal(document.ok, true);
    assert.deepEqual(Object.keys(document), ['ok', 'workloads', 'edges', 'nodes']);
    assert.deepEqual(Object.keys(document.workloads[0] ?? {}), [
      'namespace',
      'name',
      'meshed',
      'successRate',
      'rps',
      'p50Ms',
      'p95Ms',
      'p99Ms',
    ]);
    assert.deepEqual(Object.keys(document.edges[0] ?? {}), [
      'src',
      'dst',
      'srcIdentity',
      'dstIdentity',
      'secured',
      'sameNode',
      'requests',
    ]);
  });

  it('is bad for each thing that is not', () => {
    const idle = computeFigures(pods, metrics(2), metrics(2), 20);
    const cases: [object, RegExp][] = [
      [{ markerSeen: true }, /marker/],
      [{ controlSeen: false }, /in the clear/],
      [{ failingWorkloads: ['cart', 'redis'] }, /success rate/],
      [{ figures: figures(false) }, /web to cart between the nodes is not mutual TLS/],
      [{ figures: idle }, /web had no traffic/],
      [{ figures: idle }, /no edge crosses/],
      [{ pods: pods.map((entry) => ({ ...entry, identity: 'x' })) }, /proved to be/],
      [{ figures: computeFigures([...pods, pod('cart', 2, 'node1')], metrics(1), metrics(2), 20) }, /1\/2/],
    ];
    for (const [change, reason] of cases) {
      const { document, failures } = judge({ ...good, ...change });
      assert.equal(document.ok, false, String(reason));
      assert.match(failures.join('\n'), reason);
    }
  });
});
