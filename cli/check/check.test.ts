// SPDX-License-Identifier: Apache-2.0
// Each check passes on a whole installation and finds what it is for.

import 'reflect-metadata';
import assert from 'node:assert/strict';
import { KeyObject, webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { beforeEach, describe, it } from 'node:test';
import { BasicConstraintsExtension, X509CertificateGenerator } from '@peculiar/x509';
import { parseAllDocuments } from 'yaml';
import { makeAuthority } from '#lib/x509-authority/make-authority.ts';
import { definitionGroups } from '../../install/crds/definitions.ts';
import { renderObjects } from '../../install/render-objects.ts';
import { checkValues } from '../../install/values.ts';
import { makeServerCertificate } from '../../webhook/make-certificate.ts';
import type { Cluster, ClusterObject } from '../install/cluster.ts';
import { install } from '../install/install.ts';
import { installCni } from '../install/install-cni.ts';
import { memoryCluster, type MemoryCluster } from '../install/memory-cluster.ts';
import { allCategories, categoriesOf, type CheckSet } from './categories.ts';
import { type CheckResult, runChecks, type Scene } from './check.ts';
import { meansNothing } from './data-plane-checks.ts';
import { createPrinter } from './print.ts';
import { rememberAnswers } from './remember-answers.ts';

const version = '1.2.3';
const namespace = 'nodemesh';
const DAY_MS = 86_400_000;
const nowMs = Date.now();
const ISSUER_MS = 365 * DAY_MS;
const ANCHOR_MS = 3650 * DAY_MS;
const newAuthority = () =>
  makeAuthority({
    trustDomain: 'cluster.local',
    notBeforeMs: nowMs - DAY_MS,
    anchorLifetimeMs: ANCHOR_MS,
    issuerLifetimeMs: ISSUER_MS,
  });
const authority = await newAuthority();
const otherAuthority = await newAuthority();
/** Of a kind that no proxy takes. */
const weak = await (async () => {
  const algorithm = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(
    { ...algorithm, modulusLength: 1024, publicExponent: Uint8Array.of(1, 0, 1) },
    true,
    ['sign', 'verify'],
  );
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: 'CN=weak',
    keys,
    notBefore: new Date(nowMs - DAY_MS),
    notAfter: new Date(nowMs + ANCHOR_MS),
    signingAlgorithm: algorithm,
    extensions: [new BasicConstraintsExtension(true, undefined, true)],
  });
  const keyPem = KeyObject.from(keys.privateKey).export({ type: 'pkcs8', format: 'pem' }) as string;
  return { pem: certificate.toString('pem'), keyPem };
})();
const webhookName = `linkerd-policy-validator.${namespace}.svc`;
const webhookCertificate = await makeServerCertificate([webhookName], nowMs, DAY_MS);
const otherCertificate = await makeServerCertificate([webhookName], nowMs, DAY_MS);

const base64 = (text: string): string => Buffer.from(text).toString('base64');
const objectsOf = (text: string): ClusterObject[] =>
  parseAllDocuments(text).map((document) => document.toJS() as ClusterObject);

const pod = (ns: string, name: string, more: object = {}): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name,
    namespace: ns,
    uid: `uid-${name}`,
    labels: ns === namespace ? { 'nodemesh.io/control-plane-ns': namespace } : {},
    annotations: {},
  },
  spec: {
    nodeName: 'n1',
    serviceAccountName: 'default',
    containers: [{ name: 'main', image: `registry.example/nodemesh/controller:${version}` }],
  },
  status: {
    phase: 'Running',
    podIP: '10.1.0.7',
    podIPs: [{ ip: '10.1.0.7' }],
    conditions: [
      { type: 'PodScheduled', status: 'True' },
      { type: 'Ready', status: 'True' },
    ],
    containerStatuses: [{ name: 'main', ready: true }],
  },
  ...more,
});

const meshedPod = (conditionStatus: string, annotations: object = {}, labels: object = {}): object => {
  const made = pod('shop', 'web') as { metadata: object; status: { conditions: object[] } };
  return {
    ...made,
    metadata: { ...made.metadata, annotations: { 'linkerd.io/inject': 'enabled', ...annotations }, labels },
    status: {
      ...made.status,
      conditions: [
        {
          type: 'nodemesh.io/Enrolled',
          status: conditionStatus,
          reason: 'x',
          message: 'no room in the table',
        },
      ],
    },
  };
};

const goodMetrics = [
  `proxy_build_info{version="${version}"} 1`,
  'nodemesh_keeper_connected 1',
  'nodemesh_self_check_failures 0',
  'nodemesh_state_write_failures_total 0',
  `control_identity_cert_expiration_timestamp_seconds{namespace="shop",pod="web"} ${nowMs / 1000 + 3600}`,
].join('\n');

const node = (more: object = {}, beatMs = nowMs): object => ({
  apiVersion: 'v1',
  kind: 'Node',
  metadata: { name: 'n1' },
  spec: { podCIDRs: ['10.1.0.0/24'] },
  status: {
    nodeInfo: { operatingSystem: 'linux', architecture: 'amd64', kernelVersion: '6.1.0-13' },
    conditions: [{ type: 'Ready', status: 'True', lastHeartbeatTime: new Date(beatMs).toISOString() }],
    ...more,
  },
});

/** As the commands print it. */
const installation: readonly object[] = await (async () => {
  const at = memoryCluster();
  const definitions = renderObjects(definitionGroups, {
    values: checkValues({}).values,
    namespace,
    creator: 'x',
  });
  at.add(definitions);
  const values = {
    identityTrustAnchorsPEM: authority.anchorPem,
    identity: { issuer: { tls: { crtPEM: authority.issuerPem, keyPEM: authority.issuerKeyPem } } },
    controllerReplicas: 3,
  };
  const common = { namespace, output: 'yaml', version, cluster: at, note: () => undefined } as const;
  const controlPlane = objectsOf(await install({ ...common, crds: false, values, wallMs: nowMs }));
  at.add(controlPlane);
  const onNodes = objectsOf(await installCni({ ...common, change: (base) => Promise.resolve(base) }));
  return [...definitions, ...controlPlane, ...onNodes];
})();

let memory: MemoryCluster;
let cluster: Cluster;
let metrics: () => string;
let allowed: (resource: string, verb: string) => boolean;
let scene: Scene;

/** An installation where everything is as it should be. */
async function makeWhole(): Promise<void> {
  memory = memoryCluster();
  metrics = () => goodMetrics;
  allowed = () => true;
  cluster = {
    ...memory,
    ask(_path, object) {
      const { resource, verb } = (
        object as { spec: { resourceAttributes: { resource: string; verb: string } } }
      ).spec.resourceAttributes;
      return Promise.resolve({ metadata: { name: '' }, status: { allowed: allowed(resource, verb) } });
    },
    text: () => Promise.resolve(metrics()),
  };
  scene = { cluster, namespace, only: '', version, expectedVersion: version, wallMs: () => nowMs };
  await memory.apply('/version', { metadata: { name: '' }, gitVersion: 'v1.34.4' });
  memory.add(installation);
  for (const kind of ['deployments', 'daemonsets']) {
    for (const object of (await memory.list(`/apis/apps/v1/${kind}`)) ?? []) {
      const path = `/apis/apps/v1/namespaces/${namespace}/${kind}/${object.metadata.name}`;
      const status = { availableReplicas: 3, desiredNumberScheduled: 1, numberReady: 1 };
      await memory.apply(path, { ...object, status });
      memory.add([pod(namespace, `${object.metadata.name}-${kind === 'deployments' ? '5d9c-' : ''}x7k2p`)]);
    }
  }
  await setWebhook(webhookCertificate.certificatePem, webhookCertificate.authorityPem);
  memory.add([
    node(),
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
    meshedPod('True'),
  ]);
}

async function setWebhook(certificatePem: string, authorityPem: string): Promise<void> {
  const path =
    '/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/nodemesh-policy-validator';
  await change(path, (object) => ({
    ...object,
    webhooks: (object['webhooks'] as readonly object[]).map((one) => ({
      ...one,
      clientConfig: { caBundle: base64(authorityPem) },
    })),
  }));
  const secret = `/api/v1/namespaces/${namespace}/secrets/linkerd-policy-validator-k8s-tls`;
  await change(secret, (object) => ({ ...object, data: { 'tls.crt': base64(certificatePem) } }));
}

async function change(path: string, how: (object: ClusterObject) => object): Promise<void> {
  const object = await memory.get(path);
  assert.ok(object !== undefined, path);
  await memory.apply(path, how(object));
}

async function check(set: CheckSet): Promise<readonly CheckResult[]> {
  const results: CheckResult[] = [];
  await runChecks(categoriesOf(set), scene, {
    waitMs: 0,
    nowMs: () => 0,
    sleep: () => Promise.resolve(),
    tell: (result) => void results.push(result),
  });
  return results;
}

const objects = `/api/v1/namespaces/${namespace}`;
const rbac = '/apis/rbac.authorization.k8s.io/v1';
const apps = `/apis/apps/v1/namespaces/${namespace}`;
const issuerSecret = `${objects}/secrets/linkerd-identity-issuer`;
const anchorsMap = `${objects}/configmaps/linkerd-identity-trust-roots`;
const setIssuer = (certificate: string, key: string): Promise<void> =>
  change(issuerSecret, (object) => ({
    ...object,
    data: { 'crt.pem': base64(certificate), 'key.pem': base64(key) },
  }));
const setAnchors = (pem: string): Promise<void> =>
  change(anchorsMap, (object) => ({ ...object, data: { 'ca-bundle.crt': pem } }));
const setMetric = (name: string, line: string): void => {
  metrics = () => goodMetrics.replace(new RegExp(`^${name}.*$`, 'm'), line);
};
const later = (ms: number): void => {
  scene = { ...scene, wallMs: () => nowMs + ms };
};
const setStatus = (path: string, status: object): Promise<void> =>
  change(path, (object) => ({ ...object, status }));

/** By a check's text: how to break what it looks at, and what it must say then. */
const breaks: Readonly<
  Record<string, readonly [set: CheckSet, breakIt: () => void | Promise<void>, says: RegExp]>
> = {
  'can query the Kubernetes API': ['default', () => memory.remove('/version'), /does not say its version/],
  'is running the minimum Kubernetes API version': [
    'default',
    () => memory.apply('/version', { metadata: { name: '' }, gitVersion: 'v1.29.9' }),
    /version \[v1\.29\.9\], but version \[1\.30\]/,
  ],
  'control plane namespace does not already exist': ['pre', () => undefined, /"nodemesh" namespace already/],
  ...Object.fromEntries(
    [
      'Namespace',
      'ClusterRole',
      'ClusterRoleBinding',
      'CustomResourceDefinition',
      'ValidatingWebhookConfiguration',
      'ServiceAccount',
      'Service',
      'Deployment',
      'DaemonSet',
      'ConfigMap',
      'Secret',
    ].map((kind) => [
      `can create ${kind}s`,
      [
        'pre' as const,
        () => void (allowed = (resource, verb) => resource !== `${kind.toLowerCase()}s` || verb !== 'create'),
        new RegExp(`not authorized to create ${kind.toLowerCase()}s`),
      ] as const,
    ]),
  ),
  'can read Secrets': [
    'pre',
    () => void (allowed = (_resource, verb) => verb !== 'get'),
    /not authorized to get secrets/,
  ],
  'nodes run a kernel that the agent can use': [
    'pre',
    () =>
      memory.add([
        node({ nodeInfo: { operatingSystem: 'linux', architecture: 'amd64', kernelVersion: '5.10.0' } }),
      ]),
    /n1: Linux 5\.10\.0/,
  ],
  'no clock skew detected': ['pre', () => memory.add([node({}, nowMs - 600_000)]), /clock skew detected.*n1/],
  'control plane CustomResourceDefinitions exist': [
    'crds',
    () => memory.remove('/apis/apiextensions.k8s.io/v1/customresourcedefinitions/servers.policy.linkerd.io'),
    /missing servers\.policy\.linkerd\.io/,
  ],
  'control plane Namespace exists': [
    'default',
    () => memory.remove(`/api/v1/namespaces/${namespace}`),
    /does not exist/,
  ],
  "'linkerd-config' config map exists": [
    'default',
    () => memory.remove(`${objects}/configmaps/linkerd-config`),
    /not found/,
  ],
  'control plane ClusterRoles exist': [
    'default',
    () => memory.remove(`${rbac}/clusterroles/nodemesh-identity`),
    /missing ClusterRoles: nodemesh-identity/,
  ],
  'control plane ClusterRoleBindings exist': [
    'default',
    () => memory.remove(`${rbac}/clusterrolebindings/nodemesh-identity`),
    /missing ClusterRoleBindings: nodemesh-identity/,
  ],
  'control plane Roles exist': [
    'default',
    () => memory.remove(`${rbac}/namespaces/${namespace}/roles/linkerd-policy-validator`),
    /missing Roles: linkerd-policy-validator/,
  ],
  'control plane RoleBindings exist': [
    'default',
    () => memory.remove(`${rbac}/namespaces/${namespace}/rolebindings/linkerd-policy-validator`),
    /missing RoleBindings: linkerd-policy-validator/,
  ],
  'control plane ServiceAccounts exist': [
    'default',
    () => memory.remove(`${objects}/serviceaccounts/linkerd-identity`),
    /missing ServiceAccounts: linkerd-identity/,
  ],
  'control plane Services exist': [
    'default',
    () => memory.remove(`${objects}/services/linkerd-dst`),
    /missing Services: linkerd-dst/,
  ],
  'control plane ValidatingWebhookConfigurations exist': [
    'default',
    () =>
      memory.remove(
        '/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/nodemesh-policy-validator',
      ),
    /missing ValidatingWebhookConfigurations/,
  ],
  'control plane Deployments exist': [
    'default',
    () => memory.remove(`${apps}/deployments/linkerd-identity`),
    /missing Deployments: linkerd-identity/,
  ],
  'control plane replica sets are ready': [
    'default',
    () =>
      setStatus(`${apps}/deployments/linkerd-identity`, {
        conditions: [{ type: 'ReplicaFailure', status: 'True', message: 'quota exceeded' }],
      }),
    /linkerd-identity: quota exceeded/,
  ],
  'no unschedulable pods': [
    'default',
    () =>
      memory.add([
        pod(namespace, 'waiting', {
          status: {
            phase: 'Pending',
            conditions: [
              { type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: 'no room' },
            ],
          },
        }),
      ]),
    /waiting: no room/,
  ],
  'control plane pods are ready': [
    'default',
    () =>
      memory.add([
        pod(namespace, 'linkerd-identity-5d9c-x7k2p', {
          status: { phase: 'Running', containerStatuses: [{ name: 'identity', ready: false }] },
        }),
      ]),
    /pod\/linkerd-identity-5d9c-x7k2p container identity is not ready/,
  ],
  'cluster networks contains all node podCIDRs': [
    'default',
    () => memory.add([{ ...node(), spec: { podCIDRs: ['203.0.113.0/24'] } }]),
    /n1 \(203\.0\.113\.0\)/,
  ],
  'cluster networks contains all pods': [
    'default',
    () => memory.add([pod('shop', 'far', { status: { phase: 'Running', podIP: '203.0.113.9' } })]),
    /shop\/far \(203\.0\.113\.9\)/,
  ],
  'cluster networks contains all services': [
    'default',
    () =>
      memory.add([
        {
          apiVersion: 'v1',
          kind: 'Service',
          metadata: { name: 's', namespace: 'shop' },
          spec: { clusterIP: '203.0.113.8' },
        },
      ]),
    /shop\/s \(203\.0\.113\.8\)/,
  ],
  'certificate config is valid': [
    'default',
    () => setIssuer(authority.issuerPem, otherAuthority.issuerKeyPem),
    /key does not belong/,
  ],
  'trust anchors are using supported crypto algorithm': [
    'default',
    () => setAnchors(`${authority.anchorPem}${weak.pem}\n`),
    /uses rsa 1024, not ec prime256v1/,
  ],
  'trust anchors are within their validity period': [
    'default',
    () => later(ANCHOR_MS),
    /Invalid anchors:[^]*not valid anymore/,
  ],
  'trust anchors are valid for at least 60 days': [
    'default',
    () => later(ANCHOR_MS - 10 * DAY_MS),
    /Anchors expiring soon:[^]*will expire on/,
  ],
  'issuer cert is using supported crypto algorithm': [
    'default',
    () => setIssuer(weak.pem, weak.keyPem),
    /uses rsa 1024/,
  ],
  'issuer cert is within its validity period': [
    'default',
    () => later(ISSUER_MS),
    /Invalid issuer:[^]*not valid anymore/,
  ],
  'issuer cert is valid for at least 60 days': [
    'default',
    () => later(ISSUER_MS - 10 * DAY_MS),
    /Issuer expiring soon:[^]*will expire on/,
  ],
  'issuer cert is issued by the trust anchor': [
    'default',
    () => setAnchors(otherAuthority.anchorPem),
    /does not lead to a trust anchor/,
  ],
  'policy-validator webhook has valid cert': [
    'default',
    () => setWebhook(otherCertificate.certificatePem, webhookCertificate.authorityPem),
    /linkerd-sp-validator\.linkerd\.io: .*does not lead to a trust anchor/,
  ],
  'cni plugin ConfigMap exists': [
    'default',
    () => memory.remove(`${objects}/configmaps/linkerd-cni-config`),
    /missing ConfigMaps: linkerd-cni-config/,
  ],
  'cni plugin ServiceAccount exists': [
    'default',
    () => memory.remove(`${objects}/serviceaccounts/nodemesh-agent`),
    /missing ServiceAccounts: nodemesh-agent/,
  ],
  'cni plugin DaemonSet exists': [
    'default',
    () => memory.remove(`${apps}/daemonsets/nodemesh-keeper`),
    /missing DaemonSets: nodemesh-keeper/,
  ],
  'keeper is running on all nodes': [
    'default',
    () => setStatus(`${apps}/daemonsets/nodemesh-keeper`, { desiredNumberScheduled: 2, numberReady: 1 }),
    /number ready: 1, number scheduled: 2/,
  ],
  'cni plugin pod is running on all nodes': [
    'default',
    async () => {
      await setStatus(`${apps}/daemonsets/nodemesh-agent`, { desiredNumberScheduled: 2, numberReady: 1 });
      const fallen = (name: string, message: string): object =>
        pod(namespace, name, {
          status: {
            phase: 'Running',
            containerStatuses: [
              {
                name: 'agent',
                ready: false,
                state: { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 10s' } },
                lastState: { terminated: { message } },
              },
            ],
          },
        });
      const json = JSON.stringify({ level: 'error', msg: 'the agent ended', error: 'no room' });
      memory.add([
        fallen('nodemesh-agent-x', 'loading\nagent: /sys/fs/cgroup shows no cgroup of version 2'),
        fallen('nodemesh-agent-y', json),
        pod(namespace, 'nodemesh-agent-z', {
          status: { conditions: [{ type: 'PodScheduled', status: 'False', message: 'no memory' }] },
        }),
      ]);
    },
    new RegExp(
      [
        'number ready: 1, number scheduled: 2',
        'n1: agent: CrashLoopBackOff: agent: /sys/fs/cgroup shows no cgroup of version 2',
        'n1: agent: CrashLoopBackOff: the agent ended: no room',
        'n1: no memory',
      ].join('\n\t[*] '),
    ),
  ],
  'agents answer through the API server': [
    'default',
    () => {
      metrics = () => {
        throw new Error('connection refused');
      };
    },
    /n1: connection refused/,
  ],
  'agents and cli versions match': [
    'default',
    () => setMetric('proxy_build_info', 'proxy_build_info{version="1.0.0"} 1'),
    /n1: 1\.0\.0/,
  ],
  'agents are connected to the keeper of their node': [
    'default',
    () => setMetric('nodemesh_keeper_connected', 'nodemesh_keeper_connected 0'),
    /n1: not connected/,
  ],
  'agents find the kernel as it should be': [
    'default',
    () => setMetric('nodemesh_self_check_failures', 'nodemesh_self_check_failures 2'),
    /n1: 2/,
  ],
  'agents can write their state to the disk of their node': [
    'default',
    () => setMetric('nodemesh_state_write_failures_total', 'nodemesh_state_write_failures_total 7'),
    /n1: 7 times/,
  ],
  'certificates of pods are renewed in time': [
    'default',
    () =>
      setMetric(
        'control_identity_cert_expiration',
        `control_identity_cert_expiration_timestamp_seconds{namespace="shop",pod="web"} ${nowMs / 1000 - 1}`,
      ),
    /n1: shop\/web/,
  ],
  'nodes are ready': [
    'default',
    () =>
      memory.add([
        node({ conditions: [{ type: 'Ready', status: 'Unknown', message: 'kubelet is silent' }] }),
      ]),
    /n1: kubelet is silent/,
  ],
  'cli is up-to-date': [
    'default',
    () => void (scene = { ...scene, expectedVersion: '1.3.0' }),
    /is running version 1\.2\.3 but the latest version is 1\.3\.0/,
  ],
  'control plane is up-to-date': [
    'default',
    () => void (scene = { ...scene, expectedVersion: '1.3.0' }),
    /some pods do not run 1\.3\.0/,
  ],
  'control plane and cli versions match': [
    'default',
    () =>
      memory.add([
        pod(namespace, 'linkerd-identity-5d9c-x7k2p', {
          spec: { containers: [{ name: 'main', image: 'nodemesh/controller:1.0.0' }] },
        }),
      ]),
    /linkerd-identity-5d9c-x7k2p \(1\.0\.0\)/,
  ],
  'data plane namespace exists': [
    'proxy',
    () => void (scene = { ...scene, only: 'nowhere' }),
    /"nowhere" namespace does not exist/,
  ],
  'data plane pods are enrolled': ['proxy', () => memory.add([meshedPod('False')]), /shop\/web: no room/],
  'pods that asked for the mesh can be in it': [
    'proxy',
    () => {
      const asked = meshedPod('False') as { spec: object };
      memory.add([{ ...asked, spec: { ...asked.spec, hostNetwork: true } }]);
    },
    /shop\/web: .*hostNetwork/,
  ],
  'annotations of data plane pods mean something here': [
    'proxy',
    () => memory.add([meshedPod('True', { 'config.linkerd.io/proxy-cpu-limit': '1' })]),
    /shop\/web: config\.linkerd\.io\/proxy-cpu-limit/,
  ],
  'annotations of data plane pods can be read': [
    'proxy',
    () => memory.add([meshedPod('True', { 'config.linkerd.io/skip-inbound-ports': 'many' })]),
    /shop\/web: .*many/,
  ],
  'data plane pod labels are configured correctly': [
    'proxy',
    () => memory.add([meshedPod('True', {}, { 'config.linkerd.io/opaque-ports': '80' })]),
    /shop\/web\n\t\tconfig\.linkerd\.io\/opaque-ports/,
  ],
  'data plane service labels are configured correctly': [
    'proxy',
    () =>
      memory.add([
        {
          apiVersion: 'v1',
          kind: 'Service',
          metadata: { name: 's', namespace: 'shop', labels: { 'linkerd.io/inject': 'enabled' } },
        },
      ]),
    /shop\/s\n\t\tlinkerd\.io\/inject/,
  ],
  'multiple replicas of control plane pods': [
    'default',
    () => setStatus(`${apps}/deployments/linkerd-identity`, { availableReplicas: 1 }),
    /not enough replicas available for \[linkerd-identity\]/,
  ],
};

const checksOf = (set: CheckSet): readonly string[] =>
  categoriesOf(set).flatMap(({ checks }) => checks.map(({ text }) => text));

describe('mesh check', () => {
  beforeEach(makeWhole);

  for (const set of ['default', 'crds', 'proxy'] as const) {
    it(`${set}: everything is found to be good in a whole installation`, async () => {
      const results = await check(set);
      assert.deepEqual(
        results
          .filter(({ result }) => result !== 'success')
          .map(({ check: { text }, error }) => [text, error]),
        [],
      );
      assert.deepEqual(
        results.map(({ check: { text } }) => text),
        checksOf(set),
      );
    });
  }

  it('pre: everything is good where there is no installation', async () => {
    await memory.remove(`/api/v1/namespaces/${namespace}`);
    const results = await check('pre');
    assert.deepEqual(
      results.filter(({ result }) => result !== 'success'),
      [],
    );
    assert.deepEqual(
      results.map(({ check: { text } }) => text),
      checksOf('pre'),
    );
  });

  for (const [text, [set, breakIt, says]] of Object.entries(breaks)) {
    it(`finds: ${text}`, async () => {
      await breakIt();
      const found = (await check(set)).find((one) => one.check.text === text);
      assert.ok(found?.error !== undefined, 'nothing was found');
      assert.match(found.error, says);
      assert.equal(found.result, kindOf(text));
    });
  }

  it('each check has a test that breaks what it looks at, and a heading in the docs', () => {
    const docs = readFileSync('docs/checks.md', 'utf8');
    for (const [{ checks }] of allCategories) {
      for (const { text, anchor } of checks) {
        assert.ok(text in breaks, `no test of: ${text}`);
        assert.match(docs, new RegExp(`^### ${anchor}$`, 'm'));
      }
    }
  });

  it('ends with what is fatal, goes on after what is not', async () => {
    await memory.remove(`${apps}/daemonsets/nodemesh-agent`);
    const fatal = await check('default');
    assert.equal(fatal.at(-1)?.check.text, 'cni plugin DaemonSet exists');
    await makeWhole();
    setMetric('nodemesh_keeper_connected', 'nodemesh_keeper_connected 0');
    assert.equal((await check('default')).at(-1)?.category, 'linkerd-ha-checks');
  });

  it('asks again while there is time, each five seconds', async () => {
    const path = `${apps}/daemonsets/nodemesh-agent`;
    await setStatus(path, { desiredNumberScheduled: 2, numberReady: 1 });
    let waitedMs = 0;
    const good = await runChecks(categoriesOf('default'), scene, {
      waitMs: 60_000,
      nowMs: () => waitedMs,
      async sleep(ms) {
        waitedMs += ms;
        if (waitedMs === 15_000) await setStatus(path, { desiredNumberScheduled: 2, numberReady: 2 });
      },
      tell: () => undefined,
    });
    assert.ok(good);
    assert.equal(waitedMs, 15_000);
  });

  it('asks for nothing twice while nothing is looked at again', async () => {
    const asked: string[] = [];
    const noting = (what: 'get' | 'list' | 'text') => (path: string, labelSelector?: string) => {
      asked.push(`${what} ${path} ${labelSelector ?? ''}`);
      return what === 'list' ? scene.cluster.list(path, labelSelector) : scene.cluster[what](path);
    };
    const cluster = {
      ...scene.cluster,
      get: noting('get'),
      list: noting('list'),
      text: noting('text'),
    } as Cluster;
    await runChecks(
      categoriesOf('default'),
      { ...scene, cluster },
      { waitMs: 0, nowMs: () => 0, sleep: () => Promise.resolve(), tell: () => undefined },
    );
    assert.ok(asked.length > 10);
    assert.deepEqual(
      asked.filter((question, index) => asked.indexOf(question) !== index),
      [],
    );
  });

  it('takes other parameters for another question', async () => {
    const cluster = rememberAnswers({
      ...scene.cluster,
      text: (path, query) => Promise.resolve(`${path} ${JSON.stringify(query)}`),
    });
    const answers = [await cluster.text('/a', { query: 'x' }), await cluster.text('/a', { query: 'y' })];
    assert.deepEqual(answers, ['/a {"query":"x"}', '/a {"query":"y"}']);
  });

  it('prints as Linkerd does', async () => {
    setMetric('nodemesh_state_write_failures_total', 'nodemesh_state_write_failures_total 7');
    const results = (await check('default')).filter(({ category }) => category === 'nodemesh-nodes');
    const print = (output: 'table' | 'short' | 'json'): string => {
      let text = '';
      const printer = createPrinter(output, false, (more) => void (text += more));
      for (const result of results) printer.tell(result);
      printer.end(true);
      return text;
    };
    const problem = [
      '‼ agents can write their state to the disk of their node',
      '    lists that could not be written:',
      '\t* n1: 7 times',
      '    see docs/checks.md#node-state-written for hints',
    ];
    assert.equal(
      print('short'),
      ['nodemesh-nodes', '--------------', ...problem, '', 'Status check results are √', ''].join('\n'),
    );
    assert.ok(print('table').includes('√ agents answer through the API server\n'));
    const json = JSON.parse(print('json')) as { success: boolean; categories: { checks: object[] }[] };
    assert.equal(json.success, true);
    assert.deepEqual(json.categories[0]?.checks[4], {
      description: 'agents can write their state to the disk of their node',
      hint: 'docs/checks.md#node-state-written',
      error: 'lists that could not be written:\n\t* n1: 7 times',
      result: 'warning',
    });
  });

  it('annotations of the documents mean something, those of sidecars do not', () => {
    const docs = readFileSync('docs/reference/annotations.md', 'utf8');
    const [honoured = '', ...without] = docs.split('## Without meaning here');
    const names = (text: string): string[] => text.match(/config\.linkerd\.io\/[a-z-]+[a-z]\b/g) ?? [];
    const onPods = names(honoured).filter((name) => !name.endsWith('/admission-webhooks'));
    assert.ok(onPods.length >= 10);
    assert.deepEqual(onPods.filter(meansNothing), []);
    assert.ok(names(without.join('')).every(meansNothing));
    assert.ok(meansNothing('config.alpha.linkerd.io/proxy-wait-before-exit-seconds'));
  });
});

const kindOf = (text: string): string =>
  allCategories.flatMap(([{ checks }]) => checks).some((one) => one.text === text && one.kind === 'warning')
    ? 'warning'
    : 'error';
