// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseGoBool, parseGoDurationMs } from './annotations.ts';
import { type Eligibility, eligibility, namespaceEnrolled } from './eligibility.ts';
import { inboundServers, probesOf } from './inbound-policy.ts';
import { defaultMeshSettings as settings } from './mesh-settings.ts';
import type { Namespace, Pod, ReplicaSet } from './model.ts';
import { ownerOf } from './owner.ts';
import { parseResource } from './resource-schema.ts';
import { effectiveConfig, serviceOpaquePorts, type WorkloadConfig } from './workload-config.ts';

type Annotations = Readonly<Record<string, string>>;

function namespaceOf(annotations: Annotations, name = 'shop', labels: Annotations = {}): Namespace {
  const parsed = parseResource('Namespace', { metadata: { name, annotations, labels } }, 'local');
  assert.ok(parsed.ok && parsed.resource.kind === 'Namespace');
  return parsed.resource;
}

function podOf(
  annotations: Annotations = {},
  spec: object = {},
  metadata: object = {},
  status: object = {},
): Pod {
  const parsed = parseResource(
    'Pod',
    {
      metadata: { name: 'web-1', namespace: 'shop', annotations, ...metadata },
      spec: { containers: [{ name: 'main', ports: [{ name: 'http', containerPort: 8080 }] }], ...spec },
      status: { phase: 'Running', ...status },
    },
    'local',
  );
  assert.ok(parsed.ok, JSON.stringify(parsed));
  assert.ok(parsed.resource.kind === 'Pod');
  return parsed.resource;
}

const l5d = (name: string): string => `config.linkerd.io/${name}`;
const ports = (...numbers: number[]) => numbers.map((port) => ({ first: port, last: port }));

describe('effective configuration', () => {
  const opaque = l5d('opaque-ports');
  const defaults = ports(25, 587, 3306, 4444, 5432, 6379, 9300, 11211);
  const table: readonly {
    readonly what: string;
    readonly namespace?: Annotations;
    readonly pod?: Annotations;
    readonly expect: Partial<WorkloadConfig>;
    readonly warnings?: readonly RegExp[];
  }[] = [
    {
      what: 'defaults',
      expect: {
        skipInboundPorts: ports(4567, 4568),
        skipOutboundPorts: ports(4567, 4568),
        opaquePorts: defaults,
        skipSubnets: [],
        defaultInboundPolicy: 'all-unauthenticated',
        outboundConnectTimeoutMs: 1000,
        inboundConnectTimeoutMs: 100,
        inboundDetectTimeoutMs: 10_000,
        clientAddressOfProxy: false,
        accessLog: '',
      },
    },
    { what: 'namespace is inherited', namespace: { [opaque]: '1' }, expect: { opaquePorts: ports(1) } },
    {
      what: 'pod before namespace',
      namespace: { [opaque]: '1' },
      pod: { [opaque]: '2' },
      expect: { opaquePorts: ports(2) },
    },
    {
      what: 'an empty value on the pod blocks inheritance, and clears the list',
      namespace: { [opaque]: '1', [l5d('skip-outbound-ports')]: '9' },
      pod: { [opaque]: '', [l5d('skip-outbound-ports')]: '' },
      expect: { opaquePorts: [], skipOutboundPorts: [] },
    },
    {
      what: 'an empty policy on the pod gives the default of the cluster',
      namespace: { [l5d('default-inbound-policy')]: 'deny' },
      pod: { [l5d('default-inbound-policy')]: '' },
      expect: { defaultInboundPolicy: 'all-unauthenticated' },
    },
    {
      what: 'ranges, white space and names of container ports; bad items are left out',
      pod: { [opaque]: ' 1, 3-5 ,http,none,0,9-8,70000' },
      expect: { opaquePorts: [...ports(1), { first: 3, last: 5 }, ...ports(8080)] },
      warnings: [/"none"/, /"0"/, /"9-8"/, /"70000"/],
    },
    {
      what: 'names of ports mean nothing elsewhere',
      pod: { [l5d('skip-outbound-ports')]: 'http,7' },
      expect: { skipOutboundPorts: ports(7) },
      warnings: [/skip-outbound-ports="http,7": "http"/],
    },
    {
      what: 'skip-inbound-ports are appended, skip-outbound-ports replace',
      pod: { [l5d('skip-inbound-ports')]: '7', [l5d('skip-outbound-ports')]: '8' },
      expect: { skipInboundPorts: ports(4567, 4568, 7), skipOutboundPorts: ports(8) },
    },
    {
      what: 'an unreadable policy lets nobody in',
      pod: { [l5d('default-inbound-policy')]: 'all-authentcated' },
      expect: { defaultInboundPolicy: 'deny' },
      warnings: [/all-authentcated.*expected one of all-unauthenticated/],
    },
    {
      what: 'durations and booleans in the forms of Go',
      pod: {
        [l5d('proxy-outbound-connect-timeout')]: '1m0.5s',
        [l5d('proxy-inbound-connect-timeout')]: 'soon',
        [l5d('proxy-disable-inbound-protocol-detect-timeout')]: 'T',
        [l5d('proxy-disable-outbound-protocol-detect-timeout')]: 'yes',
      },
      expect: {
        outboundConnectTimeoutMs: 60_500,
        inboundConnectTimeoutMs: 100,
        inboundDetectTimeoutMs: 0x7fff_ffff,
        outboundDetectTimeoutMs: 10_000,
      },
      warnings: [/"soon": expected a duration/, /"yes": expected true or false/],
    },
    {
      what: 'no pod is a gateway, and one that is to be is told so',
      pod: { [l5d('enable-gateway')]: 'true' },
      expect: {},
      warnings: [/enable-gateway="true": no pod is a gateway/],
    },
    {
      what: 'of gateways namespaces say nothing',
      namespace: { [l5d('enable-gateway')]: 'true' },
      pod: { [l5d('enable-gateway')]: 'false' },
      expect: {},
    },
    {
      what: 'words and networks',
      pod: {
        [l5d('access-log')]: 'xml',
        [l5d('skip-subnets')]: '10.0.0.0/8, fd00::/8, 10.0.0.0/33, 10.0.0.0/',
        'nodemesh.io/client-address': 'proxy',
        'viz.linkerd.io/disable-tap': 'true',
      },
      expect: {
        accessLog: '',
        skipSubnets: ['10.0.0.0/8', 'fd00::/8'],
        clientAddressOfProxy: true,
        tapDisabled: true,
      },
      warnings: [
        /"10\.0\.0\.0\/33" is no network/,
        /"10\.0\.0\.0\/" is no network/,
        /"xml": expected "apache"/,
      ],
    },
  ];
  for (const row of table) {
    it(row.what, () => {
      const { config, warnings } = effectiveConfig(
        podOf(row.pod),
        namespaceOf(row.namespace ?? {}),
        settings,
      );
      for (const [key, value] of Object.entries(row.expect)) {
        assert.deepEqual(config[key as keyof WorkloadConfig], value, key);
      }
      const expected = row.warnings ?? [];
      assert.equal(warnings.length, expected.length, warnings.join('\n'));
      for (const pattern of expected)
        assert.ok(
          warnings.some((text) => pattern.test(text)),
          warnings.join('\n'),
        );
    });
  }

  it('of a pod whose namespace is not known is its own annotations', () => {
    const { config } = effectiveConfig(podOf({ [opaque]: '1' }), undefined, settings);
    assert.deepEqual(config.opaquePorts, ports(1));
  });

  it('opaque ports of a service: annotation (also an empty one), then namespace, then the default list', () => {
    const meta = (annotations: Annotations) => podOf(annotations).metadata;
    assert.deepEqual(
      serviceOpaquePorts(meta({ [opaque]: '1' }), namespaceOf({ [opaque]: '2' }), settings),
      ports(1),
    );
    assert.deepEqual(
      serviceOpaquePorts(meta({ [opaque]: '' }), namespaceOf({ [opaque]: '2' }), settings),
      [],
    );
    assert.deepEqual(serviceOpaquePorts(meta({}), namespaceOf({ [opaque]: '2' }), settings), ports(2));
    assert.deepEqual(serviceOpaquePorts(meta({}), undefined, settings), defaults);
  });

  it('Go durations and booleans', () => {
    const durations: readonly (readonly [string, number | undefined])[] = [
      ['300ms', 300],
      ['1.5h', 5_400_000],
      ['1h2m3s', 3_723_000],
      ['.5s', 500],
      ['2us', 0.002],
      ['0', 0],
      ['1', undefined],
      ['', undefined],
      ['-1s', undefined],
      ['1 s', undefined],
      ['1d', undefined],
      ['10000h', 0x7fff_ffff],
    ];
    for (const [text, ms] of durations) assert.equal(parseGoDurationMs(text), ms, text);
    assert.deepEqual(['1', 't', 'TRUE', 'F', '0', 'yes', 'tRUE', 'toString'].map(parseGoBool), [
      true,
      true,
      true,
      false,
      false,
      undefined,
      undefined,
      undefined,
    ]);
  });
});

describe('eligibility', () => {
  const inject = (value: string | undefined): Annotations =>
    value === undefined ? {} : { 'linkerd.io/inject': value };
  const says = (answer: Eligibility): string => {
    if (answer.enrol) return answer.ingress ? 'ingress' : 'enrol';
    return `${answer.asked ? 'cannot' : 'no'}: ${answer.reason}`;
  };

  const truth: readonly (readonly [string | undefined, string | undefined, RegExp])[] = [
    [undefined, undefined, /^no: neither/],
    ['enabled', undefined, /^enrol$/],
    ['ingress', undefined, /^ingress$/],
    ['disabled', undefined, /^no: neither/],
    ['', undefined, /^no: neither/],
    ['enabled', 'disabled', /^no: the pod has .*=disabled/],
    ['enabled', '', /^no: the pod has .*=""/],
    ['enabled', 'true', /^no: the pod has .*="true"/],
    ['enabled', 'ingress', /^ingress$/],
    ['ingress', 'enabled', /^enrol$/],
    ['disabled', 'enabled', /^enrol$/],
    [undefined, 'enabled', /^enrol$/],
    ['yes', 'enabled', /^no: the namespace has .*="yes"/],
  ];
  for (const [namespace, pod, expected] of truth) {
    it(`namespace ${namespace ?? 'says nothing'}, pod ${pod ?? 'says nothing'}`, () => {
      assert.match(says(eligibility(podOf(inject(pod)), namespaceOf(inject(namespace)), settings)), expected);
    });
  }

  const cannot: readonly (readonly [string, Pod, RegExp, Partial<typeof settings>?])[] = [
    ['host network', podOf(inject('enabled'), { hostNetwork: true }), /hostNetwork/],
    ['a sidecar', podOf(inject('enabled'), { containers: [{ name: 'linkerd-proxy' }] }), /linkerd-proxy/],
    [
      'a native sidecar',
      podOf(inject('enabled'), { initContainers: [{ name: 'istio-proxy' }] }),
      /istio-proxy/,
    ],
    ['gVisor', podOf(inject('enabled'), { runtimeClassName: 'gvisor' }), /gvisor/],
    ['a virtual machine', podOf(inject('enabled'), { runtimeClassName: 'kata-qemu' }), /kata-qemu/],
    ['an ended pod', podOf(inject('enabled'), {}, {}, { phase: 'Failed' }), /has ended \(Failed\)/],
    ['a static pod', podOf({ ...inject('enabled'), 'kubernetes.io/config.mirror': 'x' }), /static/],
    ['kube-system', podOf(inject('enabled'), {}, { namespace: 'kube-system' }), /kube-system/],
    ["the mesh's own namespace", podOf(inject('enabled'), {}, { namespace: 'nodemesh' }), /the mesh itself/],
    [
      "beside Linkerd, a namespace of Linkerd's",
      podOf(inject('enabled')),
      /admission-webhooks=disabled/,
      { besideLinkerd: true },
    ],
  ];
  for (const [what, pod, expected, change] of cannot) {
    it(`never: ${what}, with a reason`, () => {
      const answer = eligibility(pod, namespaceOf({}, pod.metadata.namespace), { ...settings, ...change });
      assert.match(says(answer), /^cannot: /);
      assert.match(answer.reason, expected);
    });
  }

  it('not asked for, no Event: the reason is the opt-in', () => {
    assert.match(says(eligibility(podOf({}, { hostNetwork: true }), undefined, settings)), /^no: /);
  });

  it('a terminating pod stays in the mesh to its end', () => {
    const pod = podOf(inject('enabled'), {}, { deletionTimestamp: '2026-01-01T00:00:00Z' });
    assert.equal(says(eligibility(pod, undefined, settings)), 'enrol');
  });

  it('namespaces whose pods start in the mesh', () => {
    const beside = { ...settings, besideLinkerd: true };
    const free = namespaceOf(inject('enabled'), 'shop', { [l5d('admission-webhooks')]: 'disabled' });
    assert.equal(namespaceEnrolled(namespaceOf(inject('enabled')), settings), true);
    assert.equal(namespaceEnrolled(namespaceOf(inject('disabled')), settings), false);
    assert.equal(namespaceEnrolled(namespaceOf(inject('enabled'), 'kube-system'), settings), false);
    assert.equal(namespaceEnrolled(namespaceOf(inject('enabled')), beside), false);
    assert.equal(namespaceEnrolled(free, beside), true);
  });
});

describe('owner', () => {
  const owned = (kind: string, name: string, labels: object = {}) =>
    podOf({}, {}, { labels, ownerReferences: [{ kind, name, uid: 'u', controller: true }] });
  const set = (name: string, deployment?: string): ReplicaSet => {
    const ownerReferences =
      deployment === undefined ? [] : [{ kind: 'Deployment', name: deployment, uid: 'd', controller: true }];
    const parsed = parseResource(
      'ReplicaSet',
      { metadata: { name, namespace: 'shop', ownerReferences } },
      'local',
    );
    assert.ok(parsed.ok && parsed.resource.kind === 'ReplicaSet');
    return parsed.resource;
  };
  const job = (name: string, cronJob?: string) => {
    const ownerReferences =
      cronJob === undefined ? [] : [{ kind: 'CronJob', name: cronJob, uid: 'c', controller: true }];
    const parsed = parseResource('Job', { metadata: { name, namespace: 'shop', ownerReferences } }, 'local');
    assert.ok(parsed.ok && parsed.resource.kind === 'Job');
    return parsed.resource;
  };
  const none = (): undefined => undefined;
  const table: readonly (readonly [string, Pod, Parameters<typeof ownerOf>[1], string])[] = [
    ['none', podOf(), none, '/'],
    [
      'a Deployment through its ReplicaSet',
      owned('ReplicaSet', 'web-1'),
      (kind, name) => (kind === 'ReplicaSet' ? set(name, 'web') : undefined),
      'deployment/web',
    ],
    [
      'a Deployment by the names',
      owned('ReplicaSet', 'web-app-5d9', { 'pod-template-hash': '5d9' }),
      none,
      'deployment/web-app',
    ],
    ['a bare ReplicaSet', owned('ReplicaSet', 'web'), (_kind, name) => set(name), 'replicaset/web'],
    ['a ReplicaSet that is not known', owned('ReplicaSet', 'web-5d9'), none, 'replicaset/web-5d9'],
    ['a StatefulSet', owned('StatefulSet', 'db'), none, 'statefulset/db'],
    ['a DaemonSet', owned('DaemonSet', 'log'), none, 'daemonset/log'],
    ['a Job that is not known', owned('Job', 'batch'), none, 'k8s_job/batch'],
    ['a bare Job', owned('Job', 'batch'), (_kind, name) => job(name), 'k8s_job/batch'],
    [
      'a CronJob through its Job',
      owned('Job', 'report-29'),
      (kind, name) => (kind === 'Job' ? job(name, 'report') : undefined),
      'cronjob/report',
    ],
    ['a Deployment itself', owned('Deployment', 'web'), none, 'deployment/web'],
    ['a kind without a label', owned('Rollout', 'web'), none, '/'],
  ];
  for (const [what, pod, find, expected] of table) {
    it(what, () => {
      const { kind, name } = ownerOf(pod, find);
      assert.equal(`${kind}/${name}`, expected);
    });
  }
});

describe('default policies', () => {
  const serversOf = (policy: string, more: Annotations = {}) => {
    const { config } = effectiveConfig(
      podOf({ [l5d('default-inbound-policy')]: policy, ...more }),
      undefined,
      settings,
    );
    return inboundServers(config, settings);
  };
  const table: readonly (readonly [string, number | undefined, string])[] = [
    ['all-unauthenticated', 2, 'unauthenticated'],
    ['all-authenticated', 2, 'meshTls'],
    ['cluster-unauthenticated', 5, 'unauthenticated'],
    ['cluster-authenticated', 5, 'meshTls'],
    ['audit', 2, 'unauthenticated'],
    ['deny', undefined, ''],
  ];
  for (const [policy, networks, permit] of table) {
    it(policy, () => {
      const { fallback } = serversOf(policy);
      const [authz, ...more] = fallback.authorizations;
      assert.equal(more.length, 0);
      assert.equal(authz?.networks.length, networks);
      assert.equal(authz?.authentication?.permit?.$case ?? '', permit);
      assert.deepEqual(fallback.labels, { group: '', kind: 'default', name: policy });
      if (authz !== undefined)
        assert.deepEqual(authz.metadata, { kind: { $case: 'default', default: policy } });
      assert.deepEqual(fallback.protocol?.kind, {
        $case: 'detect',
        detect: { timeout: { seconds: 10n, nanos: 0 }, httpRoutes: [] },
      });
    });
  }

  it('opaque ports are opaque, and listed ports need an identity', () => {
    const { byPort, fallback } = serversOf('cluster-unauthenticated', {
      [l5d('opaque-ports')]: '1-2',
      [l5d('proxy-require-identity-inbound-ports')]: '2,3',
    });
    const seen = [...byPort].map(
      ([port, server]) => `${port} ${server.protocol?.kind?.$case} ${server.labels['name']}`,
    );
    assert.deepEqual(seen.sort(), [
      '1 opaque cluster-unauthenticated',
      '2 opaque cluster-authenticated',
      '3 detect cluster-authenticated',
    ]);
    assert.equal(fallback.labels['name'], 'cluster-unauthenticated');
  });

  it('more ports than can be listed fail closed, with a warning', () => {
    const { byPort, fallback, warnings } = serversOf('all-unauthenticated', {
      [l5d('proxy-require-identity-inbound-ports')]: '1-65535',
    });
    assert.equal(byPort.size, 4096);
    assert.equal(fallback.labels['name'], 'all-authenticated');
    assert.equal(warnings.length, 1);
  });

  it('probes of all containers, once each; named ports; no query', () => {
    const httpGet = { port: 'http', path: '/ready?verbose' };
    const pod = podOf(
      {},
      {
        initContainers: [{ name: 'side', startupProbe: { httpGet: { port: 1, path: 'up' } } }],
        containers: [
          {
            name: 'main',
            ports: [{ name: 'http', containerPort: 8080 }],
            livenessProbe: { httpGet },
            readinessProbe: { httpGet },
            startupProbe: { httpGet: { port: 'none', path: '/' } },
          },
          { name: 'rpc', livenessProbe: { grpc: { port: 2 } }, readinessProbe: { tcpSocket: { port: 3 } } },
        ],
      },
    );
    assert.deepEqual(probesOf(pod), [
      { port: 1, method: 'GET', path: '/up' },
      { port: 8080, method: 'GET', path: '/ready' },
      { port: 2, method: 'POST', path: '/grpc.health.v1.Health/Check' },
    ]);
  });
});
