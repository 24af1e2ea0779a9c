// SPDX-License-Identifier: Apache-2.0
// The policy services as a proxy of Linkerd sees them, over gRPC and read by the public field numbers.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { optedIn, testNamespace, testPod, testService } from '../../destination/test-cluster.ts';
import { type Answers, Asker, identityIn, type Json, sidecar } from './asker.ts';

const SHOP = 'shop.svc.cluster.local';
const NOT_FOUND = 5;
const INVALID_ARGUMENT = 3;
const PERMISSION_DENIED = 7;

const of = (port: number, name = 'web'): string => `core Service shop/${name}:${port}`;
const balance = (port = 80, name = 'web'): Json => ({
  of: of(port, name),
  balance: `${name}.${SHOP}:${port}`,
  ewma: [0.03, 10],
  queue: [100, 3],
});
const forward = (at: string): Json => ({ of: 'default egress-fallback', forward: at, queue: [100, 3] });
const opaque = (backend: Json, name = 'opaq'): Json[] => [
  { of: `default ${name}`, rules: [{ backends: [backend] }] },
];
const http = (backend: Json, rule: Json = {}, more: Json = {}, name = 'http'): Json => ({
  routes: [{ of: `default ${name}`, rules: [{ matches: 1, backends: [backend], ...rule }] }],
  ...more,
});
const detected = (backend: Json, rule: Json = {}, more: Json = {}): Json => ({
  detect: 10,
  opaque: opaque(backend),
  http1: http(backend, rule, more),
  http2: http(backend, rule, more),
});
const web = (port = 80): Json => ({ of: of(port), ...detected(balance(port)) });

async function withAsker(
  objects: readonly Json[],
  run: (asker: Asker) => Promise<void>,
  settings: Parameters<typeof Asker.start>[1] = {},
  identity?: string,
): Promise<void> {
  const asker = await Asker.start(objects, settings, identity);
  try {
    await run(asker);
  } finally {
    await asker.close();
  }
}

const service = (spec: Json = {}, annotations: Json = {}): Json =>
  testService('web', { clusterIP: '10.96.0.1', ...spec }, annotations);

describe('OutboundPolicies, asked by a proxy of Linkerd', () => {
  const appProtocol = (name: string): Json => service({ ports: [{ port: 80, appProtocol: name }] });
  const ofRoute = 'gateway.networking.k8s.io HTTPRoute shop/r:0';
  const route: Json = {
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'HTTPRoute',
    metadata: { name: 'r', namespace: 'shop' },
    spec: {
      parentRefs: [{ group: 'core', kind: 'Service', name: 'web' }],
      rules: [{ backendRefs: [{ name: 'web', port: 80 }] }],
    },
  };
  const routed = { routes: [{ of: ofRoute, rules: [{ backends: [[1, balance()]] }] }] };

  const table: readonly (readonly [what: string, object: Json, target: string, answer: Json])[] = [
    ['a service by name', service(), `web.${SHOP}:80`, web()],
    ['without a port it is 80', service(), `web.${SHOP}`, web()],
    ['a final dot is allowed', service(), `web.${SHOP}.:80`, web()],
    ['a service by address', service(), '10.96.0.1/80', web()],
    ['a name of no service: its policy all the same', testNamespace('x'), `web.${SHOP}:81`, web(81)],
    [
      'a port that the service does not have, by address: forbidden',
      service(),
      '10.96.0.1/81',
      {
        of: of(81),
        opaque: [{ of: 'default undefined-port', rules: [{ backends: 'empty', forbidden: true }] }],
      },
    ],
    [
      'an address outside the cluster: as it was dialled',
      service(),
      '192.0.2.7/443',
      {
        of: 'default egress-fallback',
        detect: 10,
        opaque: opaque(forward('192.0.2.7/443'), 'egress-fallback'),
        http1: http(forward('192.0.2.7/443'), {}, {}, 'egress-fallback'),
        http2: http(forward('192.0.2.7/443'), {}, {}, 'egress-fallback'),
      },
    ],
    [
      'an opaque port by annotation',
      service({}, { 'config.linkerd.io/opaque-ports': '80' }),
      '10.96.0.1/80',
      { of: of(80), opaque: opaque(balance()) },
    ],
    [
      'an opaque port by the default list',
      service({ ports: [{ port: 3306 }] }),
      '10.96.0.1/3306',
      { of: of(3306), opaque: opaque(balance(3306)) },
    ],
    ['appProtocol http', appProtocol('http'), '10.96.0.1/80', { of: of(80), http1: http(balance()) }],
    [
      'appProtocol kubernetes.io/h2c',
      appProtocol('kubernetes.io/h2c'),
      '10.96.0.1/80',
      { of: of(80), http2: http(balance()) },
    ],
    ...['linkerd.io/opaque', 'linkerd.io/tcp', 'mysql'].map(
      (name) =>
        [
          `appProtocol ${name}`,
          appProtocol(name),
          '10.96.0.1/80',
          { of: of(80), opaque: opaque(balance()) },
        ] as const,
    ),
    [
      'limits, retries and breaker by annotations',
      service(
        {},
        {
          'timeout.linkerd.io/request': '2s',
          'timeout.linkerd.io/response': '500ms',
          'retry.linkerd.io/http': '5xx',
          'retry.linkerd.io/limit': '3',
          'balancer.linkerd.io/failure-accrual': 'consecutive',
        },
      ),
      '10.96.0.1/80',
      {
        of: of(80),
        ...detected(
          balance(),
          {
            requestTimeout: 2,
            timeouts: [0.5, 2, undefined],
            retry: [3, 65_536, undefined],
            conditions: [[500, 599]],
            backoff: [0.025, 0.25, 1],
          },
          { accrual: [7, 1, 60, 0.5] },
        ),
      },
    ],
  ];
  for (const [what, object, target, answer] of table) {
    it(what, () =>
      withAsker([object], async (asker) => {
        assert.deepEqual(await asker.outbound('Get', target).next(), answer);
        const watch = asker.outbound('Watch', target);
        assert.deepEqual(await watch.next(), answer);
        await asker.quiet(watch);
      }),
    );
  }

  it('routes take the place of the default one, for what the port speaks', () =>
    withAsker([service(), route], async (asker) => {
      const watch = asker.outbound('Watch', `web.${SHOP}:80`);
      assert.deepEqual(await watch.next(), {
        of: of(80),
        detect: 10,
        opaque: opaque(balance()),
        http1: routed,
        http2: routed,
      });
      await asker.cluster.apply(appProtocol('http'));
      assert.deepEqual(await watch.next(), { of: of(80), http1: routed });
      await asker.cluster.delete(route);
      assert.deepEqual(await watch.next(), { of: of(80), http1: http(balance()) });
    }));

  it('of a GRPCRoute no filter that proxies have no message for: they refuse a policy with an unknown one', () => {
    const answer = {
      type: 'ResponseHeaderModifier',
      responseHeaderModifier: { set: [{ name: 'a', value: 'b' }] },
    };
    const ask = {
      type: 'RequestHeaderModifier',
      requestHeaderModifier: { set: [{ name: 'a', value: 'b' }] },
    };
    const grpcRoute = {
      ...route,
      kind: 'GRPCRoute',
      spec: {
        parentRefs: [{ group: 'core', kind: 'Service', name: 'web' }],
        rules: [{ filters: [answer, ask], backendRefs: [{ name: 'web', port: 80, filters: [answer] }] }],
      },
    };
    return withAsker([service(), grpcRoute], async (asker) => {
      const policy = await asker.outbound('Watch', `web.${SHOP}:80`).call.next();
      const rule = policy.message(1)?.message(5)?.messages(1)[0]?.messages(3)[0];
      const backend = rule?.message(3)?.message(3)?.messages(1)[0]?.message(1);
      assert.deepEqual(
        rule?.messages(2).map(({ numbers }) => numbers),
        [[2]],
      );
      assert.deepEqual([backend?.has(1), backend?.messages(3)], [true, []]);
    });
  });

  it('an address that becomes a service’s is told, and one that ceases to be', () =>
    withAsker([service({ clusterIP: '192.0.2.7' })], async (asker) => {
      const watch = asker.outbound('Watch', '192.0.2.7/80');
      assert.deepEqual(await watch.next(), web());
      await asker.cluster.delete(service());
      assert.equal((await watch.next())['of'], 'default egress-fallback');
      await asker.cluster.apply(service({ clusterIP: '192.0.2.7' }));
      assert.deepEqual(await watch.next(), web());
    }));

  const refusals: readonly (readonly [string, string, number])[] = [
    ['', '{"ns":"shop"}', INVALID_ARGUMENT],
    ['10.96.0.1/0', '{"ns":"shop"}', INVALID_ARGUMENT],
    ['10.96.0.1/65536', '{"ns":"shop"}', INVALID_ARGUMENT],
    [`web.${SHOP}:x`, '{"ns":"shop"}', INVALID_ARGUMENT],
    [`web.${SHOP}:80`, '', INVALID_ARGUMENT],
    [`web.${SHOP}:80`, 'shop', INVALID_ARGUMENT],
    [`web.${SHOP}:80`, '{"pod":"web-1"}', INVALID_ARGUMENT],
    ['example.org:80', '{"ns":"shop"}', NOT_FOUND],
    ['web.shop.svc:80', '{"ns":"shop"}', NOT_FOUND],
    [`a.web.${SHOP}:80`, '{"ns":"shop"}', NOT_FOUND],
    ['10.1.0.1/80', '{"ns":"shop"}', NOT_FOUND],
    [`web.${SHOP}:80`, '{"ns":"bank","pod":"x-1"}', PERMISSION_DENIED],
    [`web.${SHOP}:80`, 'bank:x-1', PERMISSION_DENIED],
  ];
  it('refusals, by both calls', () =>
    withAsker(
      [service(), testNamespace('bank', optedIn), testPod('web-1', { ips: ['10.1.0.1'] })],
      async (asker) => {
        for (const method of ['Get', 'Watch'] as const) {
          for (const [target, workload, code] of refusals) {
            const status = await asker.outbound(method, target, workload).call.status();
            assert.equal(status.code, code, `${method} ${target} for ${workload}: ${status.message}`);
          }
          const older = asker.outbound(method, `web.${SHOP}:80`, 'shop:web-1');
          assert.deepEqual(await older.next(), web());
          older.call.cancel();
        }
      },
    ));
});

describe('InboundServerPolicies, asked by a proxy of Linkerd', () => {
  const everywhere = ['0.0.0.0/0', '0:0:0:0:0:0:0:0/0'];
  const inCluster = [
    '10.0.0.0/8',
    '100.64.0.0/10',
    '172.16.0.0/12',
    '192.168.0.0/16',
    'fd00:0:0:0:0:0:0:0/8',
  ];
  const labels = (name: string): Json => ({ group: '', kind: 'default', name });
  const allows = (name: string, networks: readonly string[], clients: unknown): Json[] => [
    { of: `default ${name}`, labels: labels(name), networks, clients },
  ];
  /** A suffix without parts. */
  const any = [[]];
  const defaultRoute = { of: 'default default', authorizations: [], matches: [['/*']] };
  const server = (name: string, authorizations: readonly Json[], more: Json = {}): Json => ({
    protocol: 'detect 10',
    routes: [defaultRoute],
    authorizations,
    labels: labels(name),
    ...more,
  });
  const open = server('all-unauthenticated', allows('all-unauthenticated', everywhere, 'all'));
  const pod = (annotations: Record<string, string> = {}, containers?: readonly Json[]): Json =>
    testPod('web-1', { ips: ['10.1.0.1'], annotations, ...sidecar('linkerd', {}, containers) });
  const ME = '{"ns":"shop","pod":"web-1"}';
  const me = identityIn('shop');
  const asPod = (objects: readonly Json[], run: (asker: Asker) => Promise<void>, settings = {}) =>
    withAsker(objects, run, settings, me);
  const annotated = (name: string, value: string): Json => pod({ [`config.linkerd.io/${name}`]: value });

  const policies: readonly (readonly [string, readonly Json[]])[] = [
    ['all-unauthenticated', allows('all-unauthenticated', everywhere, 'all')],
    ['all-authenticated', allows('all-authenticated', everywhere, any)],
    ['cluster-unauthenticated', allows('cluster-unauthenticated', inCluster, 'all')],
    ['cluster-authenticated', allows('cluster-authenticated', inCluster, any)],
    ['audit', allows('audit', everywhere, 'all')],
    ['deny', []],
  ];
  for (const [policy, authorizations] of policies) {
    it(`the default policy ${policy}, of the pod or of the installation`, async () => {
      await asPod([annotated('default-inbound-policy', policy)], async (asker) => {
        assert.deepEqual(await asker.inbound('GetPort', ME, 8080).next(), server(policy, authorizations));
      });
      await asPod(
        [pod()],
        async (asker) => {
          assert.deepEqual(await asker.inbound('GetPort', ME, 8080).next(), server(policy, authorizations));
        },
        { defaultInboundPolicy: policy },
      );
    });
  }

  it('opaque ports, and ports that need an identity', () =>
    asPod(
      [
        pod({
          'config.linkerd.io/opaque-ports': '7000',
          'config.linkerd.io/proxy-require-identity-inbound-ports': '7001',
        }),
      ],
      async (asker) => {
        const { routes: _, ...rest } = open;
        assert.deepEqual(await asker.inbound('GetPort', ME, 7000).next(), { ...rest, protocol: 2 });
        assert.deepEqual(
          await asker.inbound('GetPort', ME, 7001).next(),
          server('all-authenticated', allows('all-authenticated', everywhere, any)),
        );
        // The annotation takes the default list's place.
        assert.deepEqual(await asker.inbound('GetPort', ME, 3306).next(), open);
      },
    ));

  it('probes have a route of their own that lets everybody in, by exact path and without what follows it', () => {
    const probe = (path: string, port: number | string): Json => ({ httpGet: { path, port } });
    const containers = [
      {
        name: 'main',
        ports: [{ name: 'http', containerPort: 8080 }],
        livenessProbe: probe('/live?x=1', 'http'),
        readinessProbe: probe('/ready', 8080),
        startupProbe: probe('/started', 9090),
      },
    ];
    const route = (...paths: string[]): Json => ({
      of: 'default probe',
      authorizations: [
        { of: 'default probe', labels: labels('probe'), networks: everywhere, clients: 'all' },
      ],
      matches: paths.map((path) => [`=${path}`, 0]),
    });
    return asPod([pod({ 'config.linkerd.io/default-inbound-policy': 'deny' }, containers)], async (asker) => {
      const asked = async (port: number): Promise<unknown> =>
        (await asker.inbound('GetPort', ME, port).next())['routes'];
      assert.deepEqual(await asked(8080), [defaultRoute, route('/live', '/ready')]);
      assert.deepEqual(await asked(9090), [defaultRoute, route('/started')]);
      assert.deepEqual(await asked(1), [defaultRoute]);
    });
  });

  it('a stream tells what changes, of pod and namespace, nothing else, and ends with the pod', () =>
    asPod([pod()], async (asker) => {
      const watch: Answers = asker.inbound('WatchPort', ME, 8080);
      assert.deepEqual(await watch.next(), open);
      await asker.cluster.apply(annotated('opaque-ports', '1'));
      await asker.quiet(watch);
      await asker.cluster.apply(
        testNamespace('shop', { ...optedIn, 'config.linkerd.io/default-inbound-policy': 'deny' }),
      );
      assert.deepEqual(await watch.next(), server('deny', []));
      await asker.cluster.apply(annotated('default-inbound-policy', 'all-unauthenticated'));
      assert.deepEqual(await watch.next(), open);
      await asker.cluster.delete(pod());
      assert.deepEqual(await watch.call.status(), { code: 0, message: 'OK' });
    }));

  it('a pod under an agent is answered too; one outside the mesh is not known', () =>
    asPod(
      [
        testPod('web-1', { ips: ['10.1.0.1'] }),
        testPod('out-1', { ips: ['10.1.0.2'], annotations: { 'linkerd.io/inject': 'disabled' } }),
        testPod('other-1', { ips: ['10.1.0.3'], serviceAccount: 'other' }),
      ],
      async (asker) => {
        assert.deepEqual(await asker.inbound('GetPort', 'shop:web-1', 8080).next(), open);
        const refusals: readonly (readonly [string, number, number])[] = [
          ['{"ns":"shop","pod":"out-1"}', 8080, NOT_FOUND],
          ['{"ns":"shop","pod":"none-1"}', 8080, NOT_FOUND],
          ['{"ns":"shop","pod":"other-1"}', 8080, PERMISSION_DENIED],
          ['{"ns":"bank","pod":"web-1"}', 8080, PERMISSION_DENIED],
          [ME, 0, INVALID_ARGUMENT],
          [ME, 65_536, INVALID_ARGUMENT],
          ['', 8080, INVALID_ARGUMENT],
          ['{"ns":', 8080, INVALID_ARGUMENT],
        ];
        for (const method of ['GetPort', 'WatchPort'] as const) {
          for (const [workload, port, code] of refusals) {
            const status = await asker.inbound(method, workload, port).call.status();
            assert.equal(status.code, code, `${method} ${workload} ${port}: ${status.message}`);
          }
        }
      },
    ));
});
