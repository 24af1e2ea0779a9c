// SPDX-License-Identifier: Apache-2.0
// Destination as a proxy of Linkerd sees it: every rule of Get and GetProfile, over gRPC and read by the public field
// numbers.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { optedIn, testNamespace, testPod, testService } from '../../destination/test-cluster.ts';
import { until } from '../faults/until.ts';
import { type Answers, Asker, identityIn, type Json, sidecar } from './asker.ts';

const SHOP = 'shop.svc.cluster.local';
const WEB = `web.${SHOP}:80`;
const NOT_FOUND = 5;
const INVALID_ARGUMENT = 3;
const FAILED_PRECONDITION = 9;
const UNKNOWN = 2;
const PERMISSION_DENIED = 7;

const setLabels = { namespace: 'shop', service: 'web' };
/** Labels of a pod `name` that nobody owns, seen from zone-n1. */
const labelsOf = (name: string, zone = 'n1', more: Json = {}): Json => ({
  pod: name,
  serviceaccount: 'default',
  zone: `zone-${zone}`,
  zone_locality: zone === 'n1' ? 'local' : 'remote',
  ...more,
});
const plain = (name: string, at: string, zone = 'n1'): Json => ({
  at,
  weight: 10_000,
  labels: labelsOf(name, zone),
});
const mesh = { control_plane_ns: 'linkerd' };
const meshed = (name: string, at: string, more: Json = {}): Json => ({
  at,
  weight: 10_000,
  labels: labelsOf(name, 'n1', mesh),
  identity: identityIn('shop'),
  serverName: identityIn('shop'),
  hint: 'h2',
  inboundPort: 4143,
  keepAlive: [10, 3, true],
  ...more,
});
const added = (...addresses: Json[]): Json => ({ add: addresses, labels: setLabels });

const slice = (name: string, endpoints: readonly Json[], more: Json = {}): Json => ({
  apiVersion: 'discovery.k8s.io/v1',
  kind: 'EndpointSlice',
  metadata: { name, namespace: 'shop', uid: `uid-${name}`, labels: { 'kubernetes.io/service-name': 'web' } },
  addressType: 'IPv4',
  ports: [{ name: '', port: 8443 }],
  endpoints,
  ...more,
});

interface Rule {
  readonly what: string;
  /** Whose proxy asks; absent: one of the service's namespace. */
  readonly identity?: string;
  readonly objects: readonly Json[];
  readonly ask: (asker: Asker) => Answers;
  /** What comes, message by message; a function is a change that is made in between. */
  readonly steps: readonly (Json | ((asker: Asker) => Promise<unknown>))[];
}

async function follow(rule: Rule): Promise<void> {
  const asker = await Asker.start(rule.objects, {}, rule.identity);
  try {
    const answers = rule.ask(asker);
    for (const step of rule.steps) {
      if (typeof step === 'function') {
        await asker.quiet(answers);
        await step(asker);
      } else assert.deepEqual(await answers.next(), step);
    }
    await asker.quiet(answers);
  } finally {
    await asker.close();
  }
}

const apply = (object: Json) => (asker: Asker) => asker.cluster.apply(object);
const remove = (object: Json) => (asker: Asker) => asker.cluster.delete(object);
const getWeb = (asker: Asker): Answers => asker.get(WEB);

const web = testService('web', { clusterIP: '10.96.0.1' });
const pod = (number: number, more: Parameters<typeof testPod>[1] = {}): Json =>
  testPod(`web-${number}`, { ips: [`10.1.0.${number}`], ...more });

const getRules: readonly Rule[] = [
  {
    what: 'the first message is one set of all that is ready; then come differences, addresses alone when they go',
    objects: [web, pod(1), pod(2), pod(3, { ready: false })],
    ask: getWeb,
    steps: [
      added(plain('web-1', '10.1.0.1/8080'), plain('web-2', '10.1.0.2/8080')),
      apply(pod(3)),
      added(plain('web-3', '10.1.0.3/8080')),
      remove(pod(1)),
      { remove: ['10.1.0.1/8080'] },
      apply(pod(2, { ready: false })),
      { remove: ['10.1.0.2/8080'] },
    ],
  },
  {
    what: 'a service without endpoints: no message, and no_endpoints never',
    objects: [web],
    ask: getWeb,
    steps: [
      apply(pod(1)),
      added(plain('web-1', '10.1.0.1/8080')),
      remove(pod(1)),
      { remove: ['10.1.0.1/8080'] },
      apply(pod(2)),
      added(plain('web-2', '10.1.0.2/8080')),
    ],
  },
  {
    what: 'an address of which something else holds now is sent again, without being removed',
    objects: [web, pod(1)],
    ask: getWeb,
    steps: [
      added(plain('web-1', '10.1.0.1/8080')),
      (asker) => asker.enrol('web-1'),
      added(meshed('web-1', '10.1.0.1/8080')),
      (asker) => asker.enrol('web-1', 'False'),
      added(plain('web-1', '10.1.0.1/8080')),
    ],
  },
  {
    what: 'what concerns no endpoint sends nothing',
    objects: [web, pod(1), testService('other', {})],
    ask: getWeb,
    steps: [
      added(plain('web-1', '10.1.0.1/8080')),
      apply(testService('other', { clusterIP: '10.96.0.7' })),
      apply(pod(1, { annotations: { note: 'x' } })),
      apply(testPod('other-1', { ips: ['10.1.0.77'] })),
    ],
  },
  {
    what: 'without a port it is 80; a port that the service does not have is the target port itself',
    objects: [web, pod(1)],
    ask: (asker) => asker.get(`web.${SHOP}:9000`),
    steps: [added(plain('web-1', '10.1.0.1/9000'))],
  },
  {
    what: 'no port in the name is port 80',
    objects: [web, pod(1)],
    ask: (asker) => asker.get(`web.${SHOP}`),
    steps: [added(plain('web-1', '10.1.0.1/8080'))],
  },
  {
    what: 'the opaque ports of the pod make the hint, and the agent’s word that HTTP/2 is beyond it',
    objects: [web, pod(1, { annotations: { 'config.linkerd.io/opaque-ports': '8080' } }), pod(2)],
    ask: getWeb,
    steps: [
      added(plain('web-1', '10.1.0.1/8080'), plain('web-2', '10.1.0.2/8080')),
      (asker) => asker.enrol('web-1'),
      added(meshed('web-1', '10.1.0.1/8080', { hint: 'opaque' })),
      (asker) => asker.enrol('web-2', 'True', 'EnrolledHttp1Only'),
      added(meshed('web-2', '10.1.0.2/8080', { hint: 'none' })),
    ],
  },
  {
    what: 'an inbound port that is skipped is advertised without mesh, and with the pod’s labels',
    objects: [web, pod(1, { annotations: { 'config.linkerd.io/skip-inbound-ports': '8080' } })],
    ask: getWeb,
    steps: [
      added(plain('web-1', '10.1.0.1/8080')),
      (asker) => asker.enrol('web-1'),
      added({ ...plain('web-1', '10.1.0.1/8080'), labels: labelsOf('web-1', 'n1', mesh) }),
    ],
  },
  {
    what: 'a pod with Linkerd’s proxy is advertised by its label, with the port that its proxy listens on',
    objects: [
      web,
      pod(1, sidecar('linkerd', { LINKERD2_PROXY_INBOUND_LISTEN_ADDR: '[::]:5143' })),
      pod(2, sidecar('elsewhere')),
    ],
    ask: getWeb,
    steps: [
      added(
        meshed('web-1', '10.1.0.1/8080', { inboundPort: 5143 }),
        // Of another control plane: it has the mesh's wire, but no identity that we could verify.
        {
          at: '10.1.0.2/8080',
          weight: 10_000,
          labels: labelsOf('web-2', 'n1', { control_plane_ns: 'elsewhere' }),
          hint: 'h2',
          inboundPort: 4143,
          keepAlive: [10, 3, true],
        },
      ),
    ],
  },
  {
    what: 'the label alone, without the proxy’s container, makes nobody a member of the mesh',
    objects: [web, pod(1, { labels: { app: 'web', 'linkerd.io/control-plane-ns': 'linkerd' } })],
    ask: getWeb,
    steps: [added(plain('web-1', '10.1.0.1/8080'))],
  },
  {
    what: 'a pod’s owner, template and zone are labels; the locality is seen from the client’s node',
    objects: [
      web,
      pod(1, {
        node: 'n2',
        labels: { app: 'web', 'pod-template-hash': 'abc12' },
        metadata: { ownerReferences: [{ kind: 'Job', name: 'j', uid: 'x', controller: true }] },
      }),
      pod(2, { node: 'n9' }),
    ],
    ask: getWeb,
    steps: [
      added(
        {
          at: '10.1.0.1/8080',
          weight: 10_000,
          labels: labelsOf('web-1', 'n2', { k8s_job: 'j', pod_template_hash: 'abc12' }),
        },
        {
          at: '10.1.0.2/8080',
          weight: 10_000,
          labels: { pod: 'web-2', serviceaccount: 'default', zone_locality: 'unknown' },
        },
      ),
    ],
  },
  {
    what: 'a client whose node is not known has no locality',
    objects: [web, pod(1)],
    ask: (asker) => asker.get(WEB, 'no JSON'),
    steps: [
      added({
        at: '10.1.0.1/8080',
        weight: 10_000,
        labels: { ...labelsOf('web-1'), zone_locality: 'unknown' },
      }),
    ],
  },
  {
    what: 'internalTrafficPolicy Local: endpoints of the client’s node alone, also none',
    objects: [testService('web', { internalTrafficPolicy: 'Local' }), pod(1, { node: 'n2' })],
    ask: getWeb,
    steps: [apply(pod(2)), added(plain('web-2', '10.1.0.2/8080'))],
  },
  {
    what: 'hints of zones choose endpoints, unless one has none or none is for the client',
    objects: [
      web,
      pod(1),
      pod(2, { node: 'n2' }),
      slice('web-1', [
        { addresses: ['10.1.0.1'], hints: { forZones: [{ name: 'zone-n1' }] } },
        { addresses: ['10.1.0.2'], hints: { forZones: [{ name: 'zone-n2' }] } },
      ]),
    ],
    ask: getWeb,
    steps: [
      added(plain('web-1', '10.1.0.1/8080')),
      apply(
        slice('web-1', [
          { addresses: ['10.1.0.1'], hints: { forZones: [{ name: 'zone-n1' }] } },
          { addresses: ['10.1.0.2'] },
        ]),
      ),
      added(plain('web-2', '10.1.0.2/8080', 'n2')),
      apply(
        slice('web-1', [
          { addresses: ['10.1.0.1'], hints: { forZones: [{ name: 'zone-n2' }] } },
          { addresses: ['10.1.0.2'], hints: { forZones: [{ name: 'zone-n2' }] } },
        ]),
      ),
    ],
  },
  {
    what: 'a name with a pod’s host name in front is that pod alone',
    objects: [
      testService('web', { clusterIP: 'None' }),
      pod(1, { spec: { hostname: 'web-1', subdomain: 'web' } }),
      pod(2, { spec: { hostname: 'web-2', subdomain: 'web' } }),
    ],
    ask: (asker) => asker.get(`web-2.web.${SHOP}:8080`),
    steps: [added(plain('web-2', '10.1.0.2/8080'))],
  },
  {
    what: 'addresses in slices that are no pods: bare, with the locality of their zone',
    objects: [
      testService('web', { selector: null }),
      slice('web-1', [{ addresses: ['192.0.2.1'], zone: 'zone-n2' }, { addresses: ['192.0.2.2'] }]),
    ],
    ask: getWeb,
    steps: [
      added(
        { at: '192.0.2.1/8443', weight: 10_000, labels: { zone_locality: 'remote' } },
        { at: '192.0.2.2/8443', weight: 10_000, labels: { zone_locality: 'unknown' } },
      ),
    ],
  },
  {
    what: 'a slice without the label belongs to the service that owns it',
    objects: [
      testService('web', { selector: null }),
      slice('web-1', [{ addresses: ['192.0.2.1'] }], {
        metadata: {
          name: 'web-1',
          namespace: 'shop',
          uid: 'x',
          ownerReferences: [{ kind: 'Service', name: 'web', uid: 'y' }],
        },
      }),
    ],
    ask: getWeb,
    steps: [added({ at: '192.0.2.1/8443', weight: 10_000, labels: { zone_locality: 'unknown' } })],
  },
  {
    what: 'a gateway of another cluster: authority, identity without a server’s name, and whose service it is',
    objects: [
      {
        ...testService(
          'web',
          { selector: null },
          { 'mirror.linkerd.io/remote-svc-fq-name': 'web.far.svc.cluster.local' },
        ),
        metadata: {
          name: 'web',
          namespace: 'shop',
          labels: { 'mirror.linkerd.io/cluster-name': 'west' },
          annotations: { 'mirror.linkerd.io/remote-svc-fq-name': 'web.far.svc.cluster.local' },
        },
      },
      slice('web-1', [{ addresses: ['192.0.2.1'] }], {
        metadata: {
          name: 'web-1',
          namespace: 'shop',
          uid: 'x',
          labels: { 'kubernetes.io/service-name': 'web' },
          annotations: {
            'mirror.linkerd.io/remote-svc-fq-name': 'web.far.svc.cluster.local',
            'mirror.linkerd.io/remote-gateway-identity': 'gateway.west',
          },
        },
      }),
    ],
    ask: getWeb,
    steps: [
      {
        add: [
          {
            at: '192.0.2.1/8443',
            weight: 10_000,
            labels: { zone_locality: 'unknown' },
            identity: 'gateway.west',
            hint: 'h2',
            authority: 'web.far.svc.cluster.local:80',
            keepAlive: [10, 3, true],
          },
        ],
        labels: {
          ...setLabels,
          target_cluster: 'west',
          target_service: 'web',
          target_service_namespace: 'far',
        },
      },
    ],
  },
];

const defaultProfile = (name: string, port: number, more: Json = {}): Json => ({
  budget: [0.2, 10, 10],
  name: `${name}.${SHOP}`,
  parent: `core Service shop/${name}:${port}`,
  profile: 'linkerd.io ServiceProfile shop/:0',
  ...more,
});
const endpointProfile = (endpoint: Json, more: Json = {}): Json => ({
  budget: [0.2, 10, 10],
  endpoint,
  ...more,
});
const inNamespace = (address: Json): Json => ({
  ...address,
  labels: { ...(address['labels'] as Json), namespace: 'shop' },
});

const profileRules: readonly Rule[] = [
  {
    what: 'by the address of a service: the default profile, with its opaque ports as they change',
    objects: [web],
    ask: (asker) => asker.getProfile('10.96.0.1:80'),
    steps: [
      defaultProfile('web', 80),
      apply(testService('web', { clusterIP: '10.96.0.1' }, { 'config.linkerd.io/opaque-ports': '80' })),
      defaultProfile('web', 80, { opaque: true }),
    ],
  },
  {
    what: 'by the name of a service the same',
    objects: [testService('web', { ports: [{ port: 3306 }] })],
    ask: (asker) => asker.getProfile(`web.${SHOP}:3306`),
    steps: [defaultProfile('web', 3306, { opaque: true })],
  },
  {
    what: 'a port that the service does not have: one empty profile, and the port’s own once it has',
    objects: [web],
    ask: (asker) => asker.getProfile('10.96.0.1:81'),
    steps: [
      {},
      apply(testService('web', { clusterIP: '10.96.0.1', ports: [{ port: 80 }, { port: 81, name: 'b' }] })),
      defaultProfile('web', 81),
    ],
  },
  {
    what: 'by a pod’s address: its endpoint, before it is ready too, and a bare one when it goes',
    objects: [pod(1, { ready: false })],
    ask: (asker) => asker.getProfile('10.1.0.1:8080'),
    steps: [
      endpointProfile(inNamespace(plain('web-1', '10.1.0.1/8080'))),
      (asker) => asker.enrol('web-1'),
      endpointProfile(inNamespace(meshed('web-1', '10.1.0.1/8080'))),
      remove(pod(1)),
      endpointProfile({ at: '10.1.0.1/8080', weight: 10_000, labels: {} }),
    ],
  },
  {
    what: 'the opaque ports of the pod are those of its profile',
    objects: [pod(1, sidecar('linkerd'))],
    ask: (asker) => asker.getProfile('10.1.0.1:3306'),
    steps: [
      endpointProfile(inNamespace(meshed('web-1', '10.1.0.1/3306', { hint: 'opaque' })), { opaque: true }),
    ],
  },
  {
    what: 'the ports of the proxy itself take no header of the mesh',
    objects: [pod(1, sidecar('linkerd', { LINKERD2_PROXY_ADMIN_LISTEN_ADDR: '0.0.0.0:5191' }))],
    ask: (asker) => asker.getProfile('10.1.0.1:5191'),
    steps: [
      endpointProfile({
        ...inNamespace(meshed('web-1', '10.1.0.1/5191')),
        hint: 'none',
        inboundPort: undefined,
      }),
    ],
  },
  {
    what: 'an address that nobody knows: itself',
    objects: [],
    ask: (asker) => asker.getProfile('192.0.2.1:80'),
    steps: [endpointProfile({ at: '192.0.2.1/80', weight: 10_000, labels: {} })],
  },
  {
    what: 'pods that end do not count, nor do those of the host’s network',
    objects: [
      pod(1, { metadata: { deletionTimestamp: '2026-01-01T00:00:00Z' } }),
      testPod('host-1', { ips: ['10.1.0.1'], spec: { hostNetwork: true } }),
    ],
    ask: (asker) => asker.getProfile('10.1.0.1:8080'),
    steps: [
      endpointProfile({ at: '10.1.0.1/8080', weight: 10_000, labels: {} }),
      apply(pod(2, { ips: ['10.1.0.1'] })),
      endpointProfile(inNamespace(plain('web-2', '10.1.0.1/8080'))),
    ],
  },
  {
    what: 'a pod of a service by its host name',
    objects: [
      testService('web', { clusterIP: 'None' }),
      pod(1, { spec: { hostname: 'web-1', subdomain: 'web' } }),
    ],
    ask: (asker) => asker.getProfile(`web-1.web.${SHOP}:8080`),
    steps: [endpointProfile(inNamespace(plain('web-1', '10.1.0.1/8080')))],
  },
  {
    what: 'a port of the node that leads to a pod is that pod, by its own address',
    objects: [
      {
        ...pod(1, {
          spec: { containers: [{ name: 'main', ports: [{ containerPort: 8080, hostPort: 7777 }] }] },
        }),
        status: {
          phase: 'Running',
          podIPs: [{ ip: '10.1.0.1' }],
          hostIP: '10.9.0.1',
          conditions: [{ type: 'Ready', status: 'True' }],
        },
      },
    ],
    ask: (asker) => asker.getProfile('10.9.0.1:7777'),
    steps: [endpointProfile(inNamespace(plain('web-1', '10.1.0.1/8080')))],
  },
];

const serviceProfile = (spec: Json, namespace = 'shop', name = `web.${SHOP}`): Json => ({
  apiVersion: 'linkerd.io/v1alpha2',
  kind: 'ServiceProfile',
  metadata: { name, namespace, uid: `uid-profile-${namespace}` },
  spec,
});
const found = (port: number, namespace: string, more: Json): Json =>
  defaultProfile('web', port, { profile: `linkerd.io ServiceProfile ${namespace}/web.${SHOP}:0`, ...more });
const overrides = (...targets: readonly (readonly [authority: string, weight: number | string])[]): Json =>
  serviceProfile({ dstOverrides: targets.map(([authority, weight]) => ({ authority, weight })) });

const serviceProfileRules: readonly Rule[] = [
  {
    what: 'targets: weights in thousandths times ten, and the port that was asked for; as they change',
    objects: [
      web,
      overrides([`a.${SHOP}`, '500m'], [`b.${SHOP}:8080`, 1], [`c.${SHOP}`, '2'], [`d.${SHOP}`, 0]),
    ],
    ask: (asker) => asker.getProfile('10.96.0.1:80'),
    steps: [
      found(80, 'shop', {
        overrides: [
          [`a.${SHOP}:80`, 5_000],
          [`b.${SHOP}:8080`, 10_000],
          [`c.${SHOP}:80`, 20_000],
          [`d.${SHOP}:80`, 0],
        ],
      }),
      apply(overrides([`a.${SHOP}`, 1])),
      found(80, 'shop', { overrides: [[`a.${SHOP}:80`, 10_000]] }),
      remove(overrides()),
      defaultProfile('web', 80),
    ],
  },
  {
    what: 'a retry budget, in place of the default one',
    objects: [
      web,
      serviceProfile({ retryBudget: { retryRatio: 0.5, minRetriesPerSecond: 3, ttl: '1m30s' } }),
    ],
    ask: (asker) => asker.getProfile(`web.${SHOP}:80`),
    steps: [found(80, 'shop', { budget: [0.5, 3, 90] }), apply(serviceProfile({})), found(80, 'shop', {})],
  },
  {
    what: 'routes with their conditions, classes of responses, retries and times',
    objects: [
      web,
      serviceProfile({
        routes: [
          {
            name: 'GET /a',
            condition: { method: 'get', pathRegex: '/a(/.*)?' },
            isRetryable: true,
            timeout: '300ms',
            responseClasses: [
              {
                condition: { any: [{ status: { min: 500, max: 599 } }, { status: { min: 429 } }] },
                isFailure: true,
              },
              { condition: { not: { status: { max: 200 } } } },
            ],
          },
          {
            name: 'other',
            condition: { not: { any: [{ method: 'PURGE' }, { all: [{ pathRegex: '/' }] }] } },
            timeout: 'x',
          },
        ],
      }),
    ],
    ask: (asker) => asker.getProfile('10.96.0.1:80'),
    steps: [
      found(80, 'shop', {
        routes: [
          {
            condition: { all: [0, '/a(/.*)?'] },
            classes: [
              [
                {
                  any: [
                    [500, 599],
                    [429, 0],
                  ],
                },
                true,
              ],
              [{ not: [0, 200] }, false],
            ],
            labels: { route: 'GET /a' },
            retryable: true,
            timeout: 0.3,
          },
          {
            condition: { not: { any: ['PURGE', { all: ['/'] }] } },
            classes: [],
            labels: { route: 'other' },
            retryable: false,
          },
        ],
      }),
    ],
  },
  {
    what: 'one of the client’s own namespace wins, and nobody else’s counts',
    objects: [
      testService('web', { clusterIP: '10.96.0.1' }),
      testNamespace('bank', optedIn),
      serviceProfile({ retryBudget: { retryRatio: 0.9, minRetriesPerSecond: 9, ttl: '9s' } }, 'bank'),
      overrides([`a.${SHOP}`, 1]),
    ],
    identity: identityIn('bank'),
    ask: (asker) => asker.getProfile('10.96.0.1:80', '{"ns":"bank"}'),
    steps: [
      found(80, 'bank', { budget: [0.9, 9, 9] }),
      (asker) => asker.cluster.delete(serviceProfile({}, 'bank')),
      found(80, 'shop', { overrides: [[`a.${SHOP}:80`, 10_000]] }),
    ],
  },
  {
    what: 'one that means nothing counts as none',
    objects: [web, serviceProfile({ routes: [{ name: 'a', condition: {} }] })],
    ask: (asker) => asker.getProfile('10.96.0.1:80'),
    steps: [
      defaultProfile('web', 80),
      apply(overrides([`a.${SHOP}`, 1])),
      found(80, 'shop', { overrides: [[`a.${SHOP}:80`, 10_000]] }),
      apply(serviceProfile({ retryBudget: { retryRatio: 1, minRetriesPerSecond: 1, ttl: 'soon' } })),
      defaultProfile('web', 80),
      apply(overrides([`a.${SHOP}`, 'much'])),
    ],
  },
];

describe('Destination, asked by a proxy of Linkerd', () => {
  describe('Get', () => {
    for (const rule of getRules) it(rule.what, () => follow(rule));
  });
  describe('GetProfile', () => {
    for (const rule of profileRules) {
      it(rule.what, () => follow({ ...rule, steps: rule.steps.map(withoutUndefined) }));
    }
  });

  describe('GetProfile with a ServiceProfile', () => {
    for (const rule of serviceProfileRules) it(rule.what, () => follow(rule));
  });

  it('C-347 and C-348 a rollout: several subscribers, early and late, end with the same new endpoints', async () => {
    const old = [1, 2, 3].map((number) => pod(number));
    const next = [4, 5, 6].map((number) => pod(number));
    const asker = await Asker.start([web, ...old]);
    try {
      const early = [getWeb(asker), getWeb(asker), getWeb(asker)];
      // One comes, one goes, as a Deployment does it.
      for (const [index, one] of next.entries()) {
        await asker.cluster.apply(one);
        await asker.cluster.delete(old[index] ?? {});
        await asker.cluster.settled();
      }
      const sets = await Promise.all([...early, getWeb(asker)].map(addressesOf));
      const expected = ['10.1.0.4/8080', '10.1.0.5/8080', '10.1.0.6/8080'];
      assert.deepEqual(sets, [expected, expected, expected, expected]);
      for (const answers of early) await asker.quiet(answers);
    } finally {
      await asker.close();
    }
  });

  for (const alpn of [undefined, ['h2'], ['transport.l5d.io/v1', 'h2']]) {
    it(`a client is served that offers ${alpn?.join(', ') ?? 'no ALPN'}`, async () => {
      const asker = await Asker.start([web], {}, undefined, alpn);
      try {
        assert.deepEqual(await asker.getProfile('10.96.0.1:80').next(), defaultProfile('web', 80));
        assert.equal((await asker.outbound('Get', WEB).next())['of'], `core Service shop/web:80`);
      } finally {
        await asker.close();
      }
    });
  }

  it('streams on which nothing happens stay open and silent; proxies that end them are told everything anew', async () => {
    const asker = await Asker.start([web]);
    const open = async (): Promise<number> => {
      const counts = (await asker.cluster.metrics.text()).matchAll(
        /^nodemesh_destination_streams\{.*\} (\d+)$/gm,
      );
      return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
    };
    try {
      const profile = asker.getProfile('10.96.0.1:80');
      assert.deepEqual(await profile.next(), defaultProfile('web', 80));
      const undeclared = asker.getProfile('10.96.0.1:81');
      assert.deepEqual(await undeclared.next(), {});
      const streams = [getWeb(asker), profile, undeclared, asker.getProfile('192.0.2.1:80')];
      await streams[3]?.next();
      // Everything that concerns somebody else.
      await asker.cluster.apply(testService('other', { clusterIP: '10.96.0.7' }));
      await asker.cluster.apply(testPod('other-1', { ips: ['10.1.0.77'] }));
      for (const answers of streams) await asker.quiet(answers);
      assert.equal(await open(), 4);
      for (const { call } of streams) call.cancel();
      await until('the end of all streams', 10_000, async () => (await open()) === 0);
      await asker.cluster.apply(pod(1));
      const again = getWeb(asker);
      assert.deepEqual(await again.next(), added(plain('web-1', '10.1.0.1/8080')));
      assert.deepEqual(await asker.getProfile('10.96.0.1:80').next(), defaultProfile('web', 80));
      // Of the streams before, nobody heard of it.
      for (const { call } of streams) assert.equal(call.pending, 0);
    } finally {
      await asker.close();
    }
  });

  describe('refusals', () => {
    let asker: Asker;
    before(async () => {
      asker = await Asker.start([
        testNamespace('bank', optedIn),
        web,
        testService('away', { type: 'ExternalName', externalName: 'x.org' }),
        testService('twin', { clusterIP: '10.96.0.2' }),
        testService('triplet', { clusterIP: '10.96.0.2' }),
        ...['one', 'two'].map((name) => ({
          ...testService(name, {}),
          metadata: {
            name,
            namespace: 'shop',
            labels: {
              'multicluster.linkerd.io/remote-discovery': 'west',
              ...(name === 'two' ? { 'multicluster.linkerd.io/remote-service': 'web' } : {}),
            },
          },
        })),
        pod(1),
        pod(2, { ips: ['10.1.0.1'] }),
      ]);
    });
    after(() => asker.close());

    const table: readonly (readonly ['get' | 'getProfile', string, number, RegExp])[] = [
      ['get', '', INVALID_ARGUMENT, /Invalid authority/],
      ['get', 'web:80', INVALID_ARGUMENT, /Invalid authority/],
      ['get', 'web.shop.svc:80', INVALID_ARGUMENT, /Invalid authority/],
      ['get', `web.${SHOP}.:80`, INVALID_ARGUMENT, /Invalid authority/],
      ['get', `a.b.web.${SHOP}:80`, INVALID_ARGUMENT, /Invalid authority/],
      ['get', `web.${SHOP}:0`, INVALID_ARGUMENT, /Invalid authority/],
      ['get', `web.${SHOP}:65536`, INVALID_ARGUMENT, /Invalid authority/],
      ['get', `web.${SHOP}:x`, INVALID_ARGUMENT, /Invalid authority/],
      ['get', 'example.org:80', INVALID_ARGUMENT, /Invalid authority/],
      ['get', '10.96.0.1:80', INVALID_ARGUMENT, /IP queries not supported/],
      ['get', `away.${SHOP}:80`, INVALID_ARGUMENT, /ExternalName/],
      ['get', `none.${SHOP}:80`, NOT_FOUND, /shop\/none/],
      ['get', `one.${SHOP}:80`, FAILED_PRECONDITION, /remote service name/],
      ['get', `two.${SHOP}:80`, NOT_FOUND, /Remote cluster not found: west/],
      ['getProfile', '', INVALID_ARGUMENT, /Invalid authority/],
      ['getProfile', 'example.org:80', INVALID_ARGUMENT, /Invalid authority/],
      ['getProfile', '10.1.0.1:0', INVALID_ARGUMENT, /Invalid authority/],
      ['getProfile', `away.${SHOP}:80`, INVALID_ARGUMENT, /ExternalName/],
      ['getProfile', `none.${SHOP}:80`, UNKNOWN, /not found/],
      ['getProfile', '10.96.0.2:80', FAILED_PRECONDITION, /2 services/],
      ['getProfile', '10.1.0.1:80', FAILED_PRECONDITION, /2 pods/],
    ];
    for (const [method, path, code, message] of table) {
      it(`${method} of "${path}" is ${code}`, async () => {
        const status = await asker[method](path).call.status();
        assert.equal(status.code, code);
        assert.match(status.message, message);
      });
    }

    it('a proxy asks for its own namespace; the older form of the token names one too', async () => {
      for (const token of ['{"ns":"bank","nodeName":"n1"}', 'ns:bank']) {
        assert.equal((await asker.get(WEB, token).call.status()).code, PERMISSION_DENIED);
      }
      assert.deepEqual((await asker.getProfile('10.96.0.1:80', 'ns:shop').next())['name'], `web.${SHOP}`);
    });

    it('the end of a service is the end of its streams', async () => {
      const answers = asker.get(WEB);
      await answers.next();
      await asker.cluster.delete(web);
      assert.equal((await answers.call.status()).code, NOT_FOUND);
      await asker.cluster.apply(web);
    });
  });
});

/** A step of which a field is taken away. */
function withoutUndefined<S>(step: S): S {
  return typeof step === 'object' ? (JSON.parse(JSON.stringify(step)) as S) : step;
}

/** What a client of the stream goes by, once there are three endpoints and none of those of before. */
async function addressesOf(answers: Answers): Promise<string[]> {
  const known = new Set<string>();
  const isOld = (at: string): boolean => /\.[123]\/8080$/.test(at);
  while (known.size < 3 || [...known].some(isOld)) {
    const update = (await answers.next()) as { add?: readonly { at: string }[]; remove?: readonly string[] };
    for (const { at } of update.add ?? []) known.add(at);
    for (const at of update.remove ?? []) known.delete(at);
  }
  return [...known].sort();
}
