// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { type Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { socketToWire } from '#lib/proto/addresses.ts';
import { CLIENT_POLICY_HEADER } from '#lib/proto/client-policy.ts';
import { DestinationClient } from '#lib/proto/gen/linkerd/destination.ts';
import {
  type HttpRoute,
  OutboundPoliciesClient,
  type OutboundPolicy,
  type TrafficSpec,
} from '#lib/proto/gen/linkerd/outbound.ts';
import type { ObjectMeta } from '#lib/registry/model.ts';
import type { RouteFilterSpec } from '#lib/registry/route-schema.ts';
import { grpcRouteMessage } from './route-message.ts';
import { Inbox, TestCluster, testNamespace, testPod, testService } from './test-cluster.ts';

type Json = Readonly<Record<string, unknown>>;

const proxy = 'web.shop.serviceaccount.identity.linkerd.cluster.local';
const WEB = 'web.shop.svc.cluster.local:80';
const V2 = 'web-v2.shop.svc.cluster.local:80';

const route = (name: string, rules: readonly Json[], more: Json = {}, metadata: Json = {}): Json => ({
  apiVersion: 'gateway.networking.k8s.io/v1',
  kind: 'HTTPRoute',
  metadata: { name, namespace: 'shop', ...metadata },
  spec: { parentRefs: [{ group: 'core', kind: 'Service', name: 'web' }], rules, ...more },
});
const to = (name: string, port: number | undefined = 80, weight = 1): Json => ({ name, port, weight });

const httpRoutes = (policy: OutboundPolicy): HttpRoute[] => {
  const kind = policy.protocol?.kind;
  assert.equal(kind?.$case, 'detect');
  assert.deepEqual(kind.detect.http1, kind.detect.http2);
  return kind.detect.http1?.routes ?? [];
};
const nameOf = ({ metadata }: Pick<HttpRoute, 'metadata'>): string =>
  metadata?.kind?.$case === 'resource' ? metadata.kind.resource.name : (metadata?.kind?.default ?? '');
const names = (policy: OutboundPolicy): string[] => httpRoutes(policy).map(nameOf);

/** `authority*weight`, or the failure that a backend answers with. */
function backends(found: HttpRoute | undefined, rule = 0): string[] {
  const kind = found?.rules[rule]?.backends?.kind;
  const all =
    kind?.$case === 'randomAvailable'
      ? kind.randomAvailable.backends
      : kind?.$case === 'firstAvailable'
        ? kind.firstAvailable.backends.map((backend) => ({ backend, weight: Number.NaN }))
        : [];
  return all.map(({ backend, weight }) => {
    const failure = backend?.filters[0]?.kind;
    const kind = backend?.backend?.kind;
    const path = kind?.$case === 'balancer' ? kind.balancer.discovery?.kind?.dst.path : undefined;
    return `${failure?.$case === 'failureInjector' ? `${failure.failureInjector.status} ${failure.failureInjector.message}` : path}*${weight}`;
  });
}

it('agents are told of all filters of a GRPCRoute', () => {
  const filter: RouteFilterSpec = {
    type: 'ResponseHeaderModifier',
    responseHeaderModifier: { add: [], set: [{ name: 'a', value: 'b' }], remove: [] },
  };
  const rule = { matches: [], filters: [filter], backendRefs: [] };
  const metadata: ObjectMeta = {
    name: 'r',
    namespace: 'shop',
    uid: 'r',
    labels: {},
    annotations: {},
    creationTimestamp: '',
    deletionTimestamp: '',
    ownerReferences: [],
  };
  const spec = { parentRefs: [], hostnames: [], rules: [rule] };
  const message = grpcRouteMessage(
    { kind: 'GRPCRoute', cluster: 'local', metadata, spec },
    {
      asker: 'agent',
      resolve: () => assert.fail('no backend'),
      parent: { authority: WEB, reference: { kind: undefined } },
      policy: {},
    },
  );
  assert.equal(message.rules[0]?.filters[0]?.kind?.$case, 'responseHeaderModifier');
});

describe('outbound policies', () => {
  let cluster: TestCluster;
  let client: OutboundPoliciesClient;
  let lookups: DestinationClient;
  let closing: (() => void)[] = [];

  const start = async (objects: readonly Json[] = []): Promise<void> => {
    cluster = await TestCluster.start([
      testNamespace('other'),
      testService('web', { clusterIP: '10.96.0.1', ports: [{ port: 80 }, { port: 81 }] }),
      testService('web-v2', { clusterIP: '10.96.0.2' }),
      testPod('web-1', { ips: ['10.1.0.1'] }),
      ...objects,
    ]);
    const channel = await cluster.channel(proxy);
    client = new OutboundPoliciesClient(cluster.address, channel.credentials, channel.options);
    lookups = new DestinationClient(cluster.address, channel.credentials, channel.options);
  };
  const watch = (
    target: TrafficSpec['target'] | string = WEB,
    ns = 'shop',
    policies = client,
  ): Inbox<OutboundPolicy> => {
    const call = policies.watch({
      sourceWorkload: JSON.stringify({ ns, nodeName: 'n1' }),
      target: typeof target === 'string' ? { $case: 'authority', authority: target } : target,
    });
    closing.push(() => call.cancel());
    return new Inbox<OutboundPolicy>(call);
  };

  beforeEach(() => {
    closing = [];
  });
  afterEach(async () => {
    for (const close of closing) close();
    client.close();
    lookups.close();
    await cluster.close();
  });

  it('a service without routes has the default one, by name and by address', async () => {
    await start();
    const named = await watch().next();
    assert.deepEqual(names(named), ['http']);
    assert.deepEqual(backends(httpRoutes(named)[0]), [`${WEB}*NaN`]);
    const byAddress = watch({ $case: 'addr', addr: socketToWire('10.96.0.1', 80) });
    assert.deepEqual(await byAddress.next(), named);
  });

  it('what is no service is not found', async () => {
    await start();
    for (const target of [
      'web',
      'example.org:80',
      'a.web.shop.svc.cluster.local:80',
      '10.9.9.9:80',
      { $case: 'addr', addr: socketToWire('10.9.9.9', 80) },
    ] as const) {
      await assert.rejects(watch(target).next(), (error: ServiceError) => error.code === status.NOT_FOUND);
    }
    await assert.rejects(
      watch('web:x').next(),
      (error: ServiceError) => error.code === status.INVALID_ARGUMENT,
    );
  });

  it('routes come, change and go, and the endpoints’ stream says that there are some', async () => {
    await start();
    const policies = watch();
    assert.deepEqual(names(await policies.next()), ['http']);
    await cluster.apply(route('a', [{ backendRefs: [to('web-v2')] }]));
    assert.deepEqual(names(await policies.next()), ['a']);
    const call = lookups.get({
      scheme: '',
      path: WEB,
      contextToken: JSON.stringify({ ns: 'shop', nodeName: 'n1' }),
    });
    const ended = new Promise<ServiceError>((resolve) => call.once('error', resolve));
    const headers = await new Promise<Metadata>((resolve) => call.once('metadata', resolve));
    assert.deepEqual(headers.get(CLIENT_POLICY_HEADER), ['{"routed":true}']);
    call.resume();
    await cluster.apply(route('a', [{ backendRefs: [to('web-v2'), to('web', 80, 3)] }]));
    assert.deepEqual(backends(httpRoutes(await policies.next())[0]), [`${V2}*1`, `${WEB}*3`]);
    await cluster.delete(route('a', []));
    assert.deepEqual(names(await policies.next()), ['http']);
    assert.equal((await ended).code, status.UNAVAILABLE);
  });

  it('backends: what is missing answers 500 for its share, and is found when it comes', async () => {
    await start([
      route('a', [
        {
          backendRefs: [
            to('web-v2', 80, 2),
            to('web-v3'),
            { name: 'web', weight: 1 },
            { group: 'x.io', kind: 'Bucket', name: 'b', port: 1 },
            { name: 'cart', namespace: 'other', port: 80 },
          ],
        },
        {},
      ]),
    ]);
    const policies = watch();
    const [first] = httpRoutes(await policies.next());
    assert.deepEqual(backends(first), [
      `${V2}*2`,
      '500 Service not found web-v3*1',
      '500 missing port for backend Service web*1',
      '500 unsupported backend type x.io Bucket*1',
      '500 Service not found cart*1',
    ]);
    assert.deepEqual(
      backends(first, 1),
      [`${WEB}*NaN`],
      'a rule without backends leads to the service itself',
    );
    await cluster.apply(testService('web-v3', { clusterIP: '10.96.0.3' }));
    const [second] = httpRoutes(await policies.next());
    assert.equal(backends(second)[1], 'web-v3.shop.svc.cluster.local:80*1');
  });

  it('routes of the service’s namespace hold for all clients, others for those of their namespace', async () => {
    const consumer = {
      parentRefs: [{ group: '', kind: 'Service', name: 'web', namespace: 'shop' }],
    };
    await start([
      route('producer', [{}]),
      route('consumer', [{ backendRefs: [to('web-v2')] }], consumer, { namespace: 'other' }),
    ]);
    assert.deepEqual(names(await watch(WEB, 'shop').next()), ['producer']);
    const channel = await cluster.channel(proxy.replace('.shop.', '.other.'));
    const others = new OutboundPoliciesClient(cluster.address, channel.credentials, channel.options);
    const [own, theirs] = httpRoutes(await watch(WEB, 'other', others).next());
    others.close();
    assert.deepEqual(
      [own, theirs].map((one) => one && nameOf(one)),
      ['consumer', 'producer'],
    );
    assert.deepEqual(backends(own), ['500 Service not found web-v2*1'], 'in the namespace of the route');
  });

  it('a port of the parent is that port alone; the oldest route comes first', async () => {
    const parentRefs = [{ group: 'core', kind: 'Service', name: 'web', port: 81 }];
    const born = (creationTimestamp: string): Json => ({ creationTimestamp });
    await start([
      route('b', [{}], {}, born('2024-01-01T00:00:00Z')),
      route('a', [{}], {}, born('2024-01-02T00:00:00Z')),
      route('c', [{}], {}, born('2024-01-01T00:00:00Z')),
      route('port', [{}], { parentRefs }, born('2023-01-01T00:00:00Z')),
    ]);
    assert.deepEqual(names(await watch().next()), ['b', 'c', 'a']);
    assert.deepEqual(names(await watch('web.shop.svc.cluster.local:81').next()), ['port', 'b', 'c', 'a']);
  });

  it('HTTPRoutes of both groups may have one name; GRPCRoutes hide both', async () => {
    await start([route('a', [{}])]);
    const policies = watch();
    assert.deepEqual(names(await policies.next()), ['a']);
    await cluster.apply({
      ...route('a', [{ matches: [{ path: { value: '/x' } }] }]),
      apiVersion: 'policy.linkerd.io/v1beta3',
      metadata: { name: 'a', namespace: 'shop', annotations: {} },
    });
    // One file a kind and name in the test's folder: it has taken the other's place.
    const [policyRoute] = httpRoutes(await policies.next());
    const kind = policyRoute?.metadata?.kind;
    assert.equal(kind?.$case === 'resource' && kind.resource.group, 'policy.linkerd.io');
    await cluster.apply({
      ...route('g', [{ matches: [{ method: { service: 'shop.Web', method: 'Get' } }] }]),
      kind: 'GRPCRoute',
    });
    const protocol = (await policies.next()).protocol?.kind;
    assert.equal(protocol?.$case, 'grpc');
    assert.deepEqual(
      protocol.grpc.routes.map(({ rules }) => rules[0]?.matches),
      [[{ rpc: { service: 'shop.Web', method: 'Get' }, headers: [] }]],
    );
  });

  it('a route with something that cannot be done is left out as a whole', async () => {
    const bad: Readonly<Record<string, Json>> = {
      mirror: { filters: [{ type: 'RequestMirror' }] },
      regex: { matches: [{ path: { type: 'RegularExpression', value: '(' } }] },
      slow: { matches: [{ headers: [{ type: 'RegularExpression', name: 'a', value: '(b)\\1' }] }] },
      relative: { matches: [{ path: { value: 'x' } }] },
      redirect: {
        filters: [{ type: 'RequestRedirect', requestRedirect: { path: { type: 'ReplaceFullPath' } } }],
      },
      time: { timeouts: { request: 'soon' } },
      times: { timeouts: { request: '1s', backendRequest: '2s' } },
      backend: { backendRefs: [{ ...to('web'), filters: [{ type: 'URLRewrite' }] }] },
    };
    await start([
      ...Object.entries(bad).map(([name, rule]) => route(name, [{}, rule])),
      route('host', [{}], { hostnames: ['a..b'] }),
      route('good', [{}]),
    ]);
    assert.deepEqual(names(await watch().next()), ['good']);
    const told = cluster.log.lines.filter(({ message }) => message.includes('a route cannot be used'));
    assert.equal(told.length, Object.keys(bad).length + 1);
  });

  it('limits of time and retries: the route’s annotations, then its rule, then the service', async () => {
    await start([
      testService(
        'limited',
        { clusterIP: '10.96.0.9' },
        {
          'timeout.linkerd.io/request': '9s',
          'timeout.linkerd.io/idle': '3s',
          'retry.linkerd.io/http': '5xx',
        },
      ),
      route('a', [{ timeouts: { request: '1s500ms' } }, {}], {
        parentRefs: [{ group: 'core', kind: 'Service', name: 'limited' }],
      }),
      route(
        'b',
        [{ timeouts: { request: '1s' } }],
        { parentRefs: [{ group: 'core', kind: 'Service', name: 'limited' }] },
        { annotations: { 'timeout.linkerd.io/response': '2s', 'retry.linkerd.io/limit': '4' } },
      ),
    ]);
    const [a, b] = httpRoutes(await watch('limited.shop.svc.cluster.local:80').next());
    const seconds = (of: number, nanos = 0) => ({ seconds: BigInt(of), nanos });
    assert.deepEqual(a?.rules[0]?.timeouts, {
      request: seconds(1, 500_000_000),
      response: undefined,
      idle: undefined,
    });
    assert.deepEqual(a?.rules[1]?.timeouts, { request: seconds(9), response: undefined, idle: seconds(3) });
    assert.deepEqual(a?.rules[0]?.retry?.conditions?.statusRanges, [{ start: 500, end: 599 }]);
    assert.deepEqual(b?.rules[0]?.timeouts, { request: seconds(1), response: seconds(2), idle: undefined });
    assert.deepEqual(b?.rules[0]?.retry?.maxRetries, 4);
    assert.deepEqual(b?.rules[0]?.retry?.conditions?.statusRanges, []);
  });
});
