// SPDX-License-Identifier: Apache-2.0
// `mesh stat` and `mesh edges` as a user runs them, against an API server and a Prometheus that tests fill.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { fixed } from './fixed.ts';
import type { StatFlags } from './flags.ts';
import { DEPLOYMENTS, NAMESPACES, TestSources } from './test-sources.ts';

const ID = 'shop.serviceaccount.identity.linkerd.cluster.local';

let sources: TestSources;
beforeEach(async () => {
  sources = await TestSources.start();
});
afterEach(() => sources.close());

/** A pod of Deployment `web`, if its name says so. */
function putPod(name: string, options: { meshed?: boolean; phase?: string; waiting?: string } = {}): void {
  const { meshed = true, phase = 'Running', waiting } = options;
  const [owner = ''] = name.split('-');
  sources.put('pods', name, {
    metadata: {
      name,
      namespace: 'shop',
      creationTimestamp: '2026-01-01T00:00:00Z',
      labels: { 'pod-template-hash': 'abc' },
      annotations: {},
      ownerReferences: [
        { apiVersion: 'apps/v1', kind: 'ReplicaSet', name: `${owner}-abc`, uid: 'u', controller: true },
      ],
    },
    spec: { nodeName: 'n1', serviceAccountName: owner, containers: [{ name: 'main', image: 'main:1' }] },
    status: {
      phase,
      podIP: '10.1.0.7',
      podIPs: [{ ip: '10.1.0.7' }],
      conditions: meshed ? [{ type: 'nodemesh.io/Enrolled', status: 'True', reason: 'Enrolled' }] : [],
      containerStatuses: [
        { name: 'main', ready: true, state: waiting ? { waiting: { reason: waiting } } : {} },
      ],
    },
  });
}

/** 963 good and 37 failed requests of 1,000, in labels of the row. */
function putTraffic(row: Readonly<Record<string, string>>): void {
  sources.prometheus.on(
    /response_total/,
    [{ ...row, classification: 'success', tls: 'true' }, 962.6],
    [{ ...row, classification: 'failure', tls: 'true' }, 37.2],
  );
  sources.prometheus.on(/quantile\(0.5,/, [row, 4.4]);
  sources.prometheus.on(/quantile\(0.95,/, [row, 12.5]);
  sources.prometheus.on(/quantile\(0.99,/, [row, 'NaN']);
  sources.prometheus.on(/tcp_open_connections/, [row, 7]);
  sources.prometheus.on(/tcp_read_bytes_total/, [row, 6000]);
  sources.prometheus.on(/tcp_write_bytes_total/, [row, 123]);
}

describe('pods of a CronJob', () => {
  const job = (name: string, cronJob?: string) =>
    sources.put('jobs', name, {
      metadata: {
        name,
        namespace: 'shop',
        ...(cronJob === undefined
          ? {}
          : {
              ownerReferences: [
                { apiVersion: 'batch/v1', kind: 'CronJob', name: cronJob, uid: 'c', controller: true },
              ],
            }),
      },
    });

  it('count for it, not for the Jobs that it makes', async () => {
    sources.put('cronjobs', 'report');
    job('report-29', 'report');
    job('once');
    for (const name of ['report-29', 'once']) {
      sources.put('pods', `${name}-x`, {
        metadata: {
          name: `${name}-x`,
          namespace: 'shop',
          ownerReferences: [{ apiVersion: 'batch/v1', kind: 'Job', name, uid: 'j', controller: true }],
        },
        spec: { nodeName: 'n1', containers: [{ name: 'main', image: 'main:1' }] },
        status: { phase: 'Running', conditions: [{ type: 'nodemesh.io/Enrolled', status: 'True' }] },
      });
    }
    putTraffic({ namespace: 'shop', cronjob: 'report' });
    const { out } = await sources.stat('cj/report');
    assert.match(out, /^NAME +MESHED .*\nreport +1\/1 /);
    putTraffic({ namespace: 'shop', k8s_job: 'once' });
    const jobs = await sources.stat('job');
    assert.match(jobs.out, /\nonce +1\/1 /);
    assert.doesNotMatch(jobs.out, /report/);
  });
});

describe('mesh stat', () => {
  beforeEach(() => {
    sources.put('deployments', 'web');
    sources.put('deployments', 'batch');
    putPod('web-abc-1');
    putPod('web-abc-2', { meshed: false });
    putPod('web-abc-3', { phase: 'Failed' });
    putPod('batch-abc-1', { meshed: false });
    putTraffic({ namespace: 'shop', deployment: 'web' });
  });

  it('prints what Prometheus knows of the workloads of the context namespace that are in the mesh', async () => {
    const { out, notes } = await sources.stat('deploy');
    assert.equal(
      out,
      [
        'NAME   MESHED   SUCCESS       RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN',
        'web       1/2    96.30%   16.7rps           4ms          13ms           0ms          7',
        '',
      ].join('\n'),
    );
    assert.equal(notes, '');
    assert.ok(sources.prometheus.queries.every((query) => /namespace="shop"/.test(query)));
    assert.ok(!sources.prometheus.queries.some((query) => /bytes/.test(query)), 'bytes are not shown');
  });

  it('shows unmeshed workloads and bytes when they are asked for, and dashes where nothing was counted', async () => {
    const { out } = await sources.stat('deploy', { unmeshed: true, output: 'wide' });
    const [header, batch, web] = out.split('\n');
    assert.match(header ?? '', /TCP_CONN   READ_BYTES\/SEC   WRITE_BYTES\/SEC$/);
    assert.match(batch ?? '', /^batch +0\/1( +-){8}$/);
    assert.match(web ?? '', / 7 +100\.0B\/s +2\.0B\/s$/);
  });

  it('gives JSON with ratios, and null where nothing was counted', async () => {
    const [batch, web] = JSON.parse(
      (await sources.stat('deploy', { unmeshed: true, output: 'json' })).out,
    ) as object[];
    assert.deepEqual(batch, {
      namespace: 'shop',
      kind: 'deployment',
      name: 'batch',
      success: null,
      rps: null,
      latency_ms_p50: null,
      latency_ms_p95: null,
      latency_ms_p99: null,
    });
    assert.deepEqual(web, {
      namespace: 'shop',
      kind: 'deployment',
      name: 'web',
      success: 0.963,
      rps: 1000 / 60,
      latency_ms_p50: 4,
      latency_ms_p95: 13,
      latency_ms_p99: 0,
      tcp_open_connections: 7,
      tcp_read_bytes_rate: 100,
      tcp_write_bytes_rate: 2.05,
    });
  });

  it('prints a table for each kind, with the kind before the names, and pods with their status', async () => {
    putPod('job-abc-1', { phase: 'Succeeded' });
    putPod('web-abc-4', { waiting: 'CrashLoopBackOff' });
    const { out } = await sources.stat('po/web-abc-1 po/web-abc-4 po/job-abc-1 deploy/web');
    const lines = out.split('\n').map((line) => line.split(/ {3,}/).slice(0, 3));
    assert.deepEqual(lines, [
      ['NAME', 'MESHED', 'SUCCESS'],
      ['deploy/web', '2/3', '96.30%'],
      [''],
      ['NAME', 'STATUS', 'MESHED'],
      ['po/web-abc-1', 'Running', '1/1'],
      ['po/web-abc-4', 'CrashLoopBackOff', '1/1'],
      [''],
    ]);
  });

  it('prints the namespace of each row for all namespaces, and asks for all', async () => {
    const { out } = await sources.stat('deploy', { allNamespaces: true });
    assert.match(out, /^NAMESPACE   NAME   MESHED .*\nshop        web       1\/2 /);
    assert.ok(
      sources.prometheus.queries.every((query) => !/[{ ]namespace=/.test(query)),
      sources.prometheus.queries.join('\n'),
    );
  });

  it('leaves out, with --to, what sends nothing there; keeps every target with --from', async () => {
    const to = await sources.stat('deploy', { to: 'deploy/cart', toNamespace: 'other', unmeshed: true });
    assert.match(to.out, /^NAME.*\nweb .*\n$/);
    assert.ok(
      sources.prometheus.queries.every((query) =>
        /direction="outbound", namespace="shop", deployment!="", dst_namespace="other", dst_deployment="cart"/.test(
          query,
        ),
      ),
    );
    sources.prometheus.answers.length = 0;
    const from = await sources.stat('deploy', { from: 'po' });
    assert.match(from.out, /^NAME.*\nbatch .*\nweb .*\n$/);
    assert.match(
      sources.prometheus.queries.at(-1) ?? '',
      /namespace="shop", pod!="", dst_namespace="shop", dst_deployment!=""/,
    );
  });

  it('has services, found by authority, without pods of their own', async () => {
    sources.put('services', 'web');
    putTraffic({ authority: 'web.shop.svc.cluster.local:8080' });
    assert.match((await sources.stat('svc/web')).out, /\nweb         -    96\.30% /);
  });

  it('has namespaces', async () => {
    sources.api.put(NAMESPACES, { metadata: { name: 'shop' } });
    putTraffic({ namespace: 'shop' });
    assert.match((await sources.stat('ns/shop')).out, /^NAME   MESHED .*\nshop      1\/3 /);
  });

  it('says so when there is nothing', async () => {
    sources.api.remove(DEPLOYMENTS, 'shop', 'web');
    assert.deepEqual(await sources.stat('deploy'), { out: '', notes: 'No traffic found.\n' });
    assert.deepEqual(await sources.stat('deploy', { output: 'json' }), { out: '[]\n', notes: '' });
  });

  it('says which resource does not exist', async () => {
    await assert.rejects(
      sources.stat('deploy/cart'),
      /there is no deployment cart in namespace shop; .*--namespace/,
    );
  });

  it('refuses a window shorter than the interval of the scrapes', async () => {
    sources.prometheus.scrapeInterval = '1m30s';
    await assert.rejects(
      sources.stat('deploy'),
      /\(60s\) must be .* scrape interval \(90s\); give a longer --time-window/,
    );
    assert.deepEqual(sources.prometheus.queries, []);
  });

  const refusals: readonly [string, Partial<StatFlags>, RegExp][] = [
    ['', {}, /No resource arguments provided; write one of /],
    ['foo', {}, /friendly name \[foo\]; write one of /],
    ['deploy/a/b', {}, /Invalid resource string: deploy\/a\/b; write TYPE/],
    ['deploy/a deploy/a', {}, /duplicate resources; write deployment\/a once/],
    ['all deploy', {}, /'all' can't be supplied alongside/],
    ['deploy', { output: 'yaml' }, /--output currently only supports table, json and wide/],
    ['deploy', { timeWindow: '14s' }, /at least 15s; give a longer --time-window/],
    ['deploy', { timeWindow: 'soon' }, /--time-window soon: expected a duration/],
    [
      'deploy',
      { allNamespaces: true, namespace: 'x' },
      /--all-namespaces and --namespace flags are mutually/,
    ],
    ['deploy/web', { allNamespaces: true }, /cannot be retrieved by name across all namespaces/],
    ['deploy', { to: 'po', from: 'po' }, /--to and --from flags are mutually exclusive/],
    [
      'deploy',
      { toNamespace: 'a', fromNamespace: 'b' },
      /--to-namespace and --from-namespace flags are mutually/,
    ],
    ['deploy', { toNamespace: 'a' }, /--to-namespace says where --to is; add --to/],
    ['deploy', { fromNamespace: 'a' }, /--from-namespace says where --from is; add --from/],
    ['ns', { namespace: 'a' }, /--namespace flag is incompatible with namespace resource type/],
    ['ns', { to: 'po', toNamespace: 'a' }, /--to-namespace flag is incompatible with namespace/],
    ['svc', { from: 'deploy' }, /service is not supported as a target on 'from' queries/],
    ['deploy', { from: 'svc/web' }, /service is not supported by --from/],
    ['deploy', { to: 'all' }, /'all' is not supported as a filter; give --to one type/],
  ];
  for (const [resources, flags, message] of refusals) {
    it(`refuses "${resources}" ${JSON.stringify(flags)} before it reaches anything`, async () => {
      await assert.rejects(sources.stat(resources, flags), message);
      assert.deepEqual(sources.api.requests, []);
    });
  }
});

describe('mesh edges', () => {
  const edge = (more: Readonly<Record<string, string>> = {}) => ({
    deployment: 'web',
    dst_deployment: 'cart',
    pod: 'web-abc-1',
    namespace: 'shop',
    dst_namespace: 'shop',
    server_id: `cart.${ID}`,
    ...more,
  });
  const unsecured = { server_id: '', no_tls_reason: 'not_provided_by_service_discovery' };

  beforeEach(() => {
    putPod('web-abc-1');
    putPod('web-abc-2');
    sources.prometheus.on(
      /^sum\(tcp_open_connections/,
      [edge(), 3],
      [edge({ pod: 'web-abc-2' }), 1],
      [edge({ dst_deployment: 'db', dst_namespace: 'data', ...unsecured }), 2],
      [edge({ dst_deployment: 'near', same_node: 'true' }), 2],
      [edge({ namespace: 'a', dst_namespace: 'b' }), 2],
    );
    sources.api.serve('/api/v1/namespaces/a/pods');
  });

  it('prints one line for each pair of workloads with an end in the namespace, and how it is secured', async () => {
    const { out } = await sources.edges('deploy');
    assert.deepEqual(
      out.split('\n').map((line) => line.trimEnd().split(/ {3,}/)),
      [
        ['SRC', 'DST', 'SRC_NS', 'DST_NS', 'SECURED'],
        ['web', 'db', 'shop', 'data', 'Not Provided By Service Discovery'],
        ['web', 'cart', 'shop', 'shop', '√'],
        ['web', 'near', 'shop', 'shop', '√ (same node)'],
        [''],
      ],
    );
  });

  it('knows the accounts at both ends of what is secured', async () => {
    const wide = await sources.edges('deploy', { output: 'wide' });
    const [header, unknown, known] = wide.out.split('\n').map((line) => line.trimEnd().split(/ {3,}/));
    assert.deepEqual(header, ['SRC', 'DST', 'SRC_NS', 'DST_NS', 'CLIENT_ID', 'SERVER_ID', 'SECURED']);
    assert.deepEqual(unknown, ['web', 'db', 'shop', 'data', 'Not Provided By Service Discovery']);
    assert.deepEqual(known, ['web', 'cart', 'shop', 'shop', 'web.shop', 'cart.shop', '√']);
    const json = JSON.parse((await sources.edges('deploy', { output: 'json' })).out) as object[];
    assert.deepEqual(json.slice(1), [
      {
        src: 'web',
        src_namespace: 'shop',
        dst: 'cart',
        dst_namespace: 'shop',
        client_id: `web.${ID}`,
        server_id: `cart.${ID}`,
        no_tls_reason: '',
      },
      { ...(json[2] as object), dst: 'near', same_node: true },
    ]);
  });

  it('has all namespaces, one that is named, and none', async () => {
    const clients = async (flags: Partial<StatFlags>): Promise<string[]> =>
      (
        JSON.parse((await sources.edges('deploy', { output: 'json', ...flags })).out) as {
          src_namespace: string;
        }[]
      ).map(({ src_namespace }) => src_namespace);
    assert.deepEqual(await clients({ allNamespaces: true }), ['a', 'shop', 'shop', 'shop']);
    assert.deepEqual(await clients({ namespace: 'b' }), ['a']);
    assert.deepEqual(await clients({ namespace: 'c' }), []);
    assert.deepEqual(await sources.edges('deploy', { namespace: 'c' }), {
      out: '',
      notes: 'No edges found.\n',
    });
  });

  it('takes one type of workload, without a name', async () => {
    await assert.rejects(sources.edges('deploy web'), /specific resource name; remove web from query/);
    await assert.rejects(sources.edges('svc'), /Resource type is not supported: service; name one type/);
    await assert.rejects(sources.edges('all'), /Resource type is not supported: all/);
    await assert.rejects(
      sources.edges('deploy', { allNamespaces: true, namespace: 'x' }),
      /mutually exclusive/,
    );
    assert.deepEqual(sources.api.requests, []);
  });
});

it('numbers in the middle go to the even digit, as printf has it', () => {
  assert.deepEqual(
    [
      fixed(0.25, 1),
      fixed(0.75, 1),
      fixed(2.05, 1),
      fixed(0.35, 1),
      fixed(2, 1),
      fixed(96.125, 2),
      fixed(99.996, 2),
    ],
    ['0.2', '0.8', '2.0', '0.3', '2.0', '96.12', '100.00'],
  );
});
