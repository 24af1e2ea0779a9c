// SPDX-License-Identifier: Apache-2.0
// Identity and destination as pods, with no more rights than they need: they read the cluster, get their
// certificates, take over a rotated issuer from a Secret of cert-manager's shape, and tell so.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { imageTag } from '../../scripts/images/layout.ts';
import { type Cluster, type KubernetesObject, openCluster } from './cluster.ts';
import { withoutMesh } from './installation.ts';

const stamp = Date.now().toString(36);
const namespace = `programs-${stamp}`;
const clusterRole = `nodemesh-programs-${stamp}`;
const ISSUER = '/var/run/linkerd/identity/issuer';
const ANCHORS = '/var/run/linkerd/identity/trust-roots';
const TOKENS = '/var/run/secrets/tokens';

interface Event extends KubernetesObject {
  readonly reason: string;
  readonly message: string;
  readonly count: number;
}

const env = (values: Readonly<Record<string, string>>) =>
  Object.entries(values).map(([name, value]) => ({ name, value }));

const rules = [
  { apiGroups: [''], resources: ['namespaces', 'nodes', 'pods', 'services'], verbs: ['list', 'watch'] },
  { apiGroups: ['apps'], resources: ['replicasets'], verbs: ['list', 'watch'] },
  { apiGroups: ['batch'], resources: ['jobs'], verbs: ['list', 'watch'] },
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
  {
    apiGroups: ['gateway.networking.k8s.io', 'policy.linkerd.io'],
    resources: ['httproutes', 'grpcroutes'],
    verbs: ['list', 'watch'],
  },
  { apiGroups: ['linkerd.io'], resources: ['serviceprofiles'], verbs: ['list', 'watch'] },
  { apiGroups: ['workload.linkerd.io'], resources: ['externalworkloads'], verbs: ['list', 'watch'] },
  { apiGroups: ['apiextensions.k8s.io'], resources: ['customresourcedefinitions'], verbs: ['get'] },
  { apiGroups: ['authentication.k8s.io'], resources: ['tokenreviews'], verbs: ['create'] },
  { apiGroups: [''], resources: ['pods/status'], verbs: ['patch'] },
  { apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['get', 'update'] },
  { apiGroups: [''], resources: ['events'], verbs: ['create', 'get', 'patch'] },
];

interface Program {
  readonly name: string;
  readonly file: string;
  readonly port: number;
  readonly adminPort: number;
  readonly settings: Readonly<Record<string, string>>;
  readonly volumes: readonly { readonly name: string; readonly mountPath: string; readonly source: object }[];
}

const anchorsVolume = {
  name: 'anchors',
  mountPath: ANCHORS,
  source: { configMap: { name: 'linkerd-identity-trust-roots' } },
};

const programs: readonly Program[] = [
  {
    name: 'linkerd-identity',
    file: 'identity/main.ts',
    port: 8080,
    adminPort: 9990,
    settings: {
      NODEMESH_ISSUER_CERT_FILE: `${ISSUER}/tls.crt`,
      NODEMESH_ISSUER_KEY_FILE: `${ISSUER}/tls.key`,
    },
    volumes: [
      anchorsVolume,
      { name: 'issuer', mountPath: ISSUER, source: { secret: { secretName: 'linkerd-identity-issuer' } } },
    ],
  },
  {
    name: 'linkerd-destination',
    file: 'destination/main.ts',
    port: 8086,
    adminPort: 9996,
    settings: {
      NODEMESH_IDENTITY_ADDRESS: `linkerd-identity.${namespace}.svc.cluster.local:8080`,
      NODEMESH_IDENTITY_NAME: `linkerd-identity.${namespace}.serviceaccount.identity.${namespace}.cluster.local`,
      NODEMESH_IDENTITY_TOKEN_FILE: `${TOKENS}/linkerd-identity-token`,
    },
    volumes: [
      anchorsVolume,
      {
        name: 'token',
        mountPath: TOKENS,
        source: {
          projected: {
            sources: [
              { serviceAccountToken: { path: 'linkerd-identity-token', audience: 'identity.l5d.io' } },
            ],
          },
        },
      },
    ],
  },
];

function objectsOf({ name, file, port, adminPort, settings, volumes }: Program): object[] {
  const labels = { 'linkerd.io/control-plane-component': name };
  const metadata = { name, namespace };
  const common = {
    NODEMESH_NAMESPACE: namespace,
    NODEMESH_IDENTITY_NAMESPACE: namespace,
    NODEMESH_LISTEN: `0.0.0.0:${port}`,
    NODEMESH_POLICY_LISTEN: '0.0.0.0:0',
    NODEMESH_ADMIN_LISTEN: `0.0.0.0:${adminPort}`,
    NODEMESH_TRUST_ANCHORS_FILE: `${ANCHORS}/ca-bundle.crt`,
  };
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata },
    { apiVersion: 'v1', kind: 'Service', metadata, spec: { selector: labels, ports: [{ port }] } },
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata,
      spec: {
        selector: { matchLabels: labels },
        template: {
          metadata: { labels },
          spec: {
            serviceAccountName: name,
            containers: [
              {
                name: 'main',
                image: imageTag('controller'),
                imagePullPolicy: 'Never',
                command: ['node', file],
                env: env({ ...common, ...settings }),
                readinessProbe: { httpGet: { path: '/ready', port: adminPort }, periodSeconds: 1 },
                volumeMounts: volumes.map(({ name: volume, mountPath }) => ({ name: volume, mountPath })),
              },
            ],
            volumes: volumes.map(({ name: volume, source }) => ({ name: volume, ...source })),
          },
        },
      },
    },
  ];
}

describe('identity and destination as pods', () => {
  let cluster: Cluster;
  let authority: TestAuthority;
  before(async () => {
    await withoutMesh();
    cluster = await openCluster();
    authority = await makeTestAuthority();
    await cluster.makeNamespace(namespace);
    const subjects = programs.map(({ name }) => ({ kind: 'ServiceAccount', namespace, name }));
    const roleRef = { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: clusterRole };
    const apiVersion = 'rbac.authorization.k8s.io/v1';
    await cluster.apply([
      {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: { namespace, name: 'linkerd-destination' },
      },
      { apiVersion, kind: 'ClusterRole', metadata: { name: clusterRole }, rules },
      { apiVersion, kind: 'ClusterRoleBinding', metadata: { name: clusterRole }, roleRef, subjects },
      ...trust(authority, authority.anchorPem),
      ...programs.flatMap(objectsOf),
    ]);
  });
  after(async () => {
    await cluster.tryKubectl(['delete', 'clusterrole,clusterrolebinding', clusterRole]);
    await cluster.close();
  });

  const trust = (issuer: Pick<TestAuthority, 'issuerPem' | 'issuerKeyPem'>, anchorsPem: string): object[] => [
    {
      apiVersion: 'v1',
      kind: 'Secret',
      type: 'kubernetes.io/tls',
      metadata: { name: 'linkerd-identity-issuer', namespace },
      stringData: { 'tls.crt': issuer.issuerPem, 'tls.key': issuer.issuerKeyPem, 'ca.crt': anchorsPem },
    },
    {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'linkerd-identity-trust-roots', namespace },
      data: { 'ca-bundle.crt': anchorsPem },
    },
  ];
  const selector = (name: string): string => `linkerd.io/control-plane-component=${name}`;
  const logs = (name: string): Promise<string> =>
    cluster.kubectl(['logs', '-n', namespace, '-l', selector(name), '--tail=-1']);
  const eventsOf = async (reason: string): Promise<readonly Event[]> =>
    (await cluster.list<Event>(['events', '-n', namespace])).filter((event) => event.reason === reason);
  const timesTold = (events: readonly Event[]): number => events.reduce((sum, { count }) => sum + count, 0);
  /** Once more than so often. */
  const eventSeen = (reason: string, before = 0): Promise<Event> =>
    cluster.waitFor(`Event ${reason}`, async () => {
      // The kubelet brings mounted files up to date at once when something of the pod changes.
      const mark = `test/at=${Date.now()}`;
      // A pod may end meanwhile.
      await cluster.tryKubectl(['annotate', 'pod', '--overwrite', '-n', namespace, '--all', mark]);
      const events = await eventsOf(reason);
      return timesTold(events) > before && events.at(-1);
    });

  it('become ready, by no more than the rights that they need', async () => {
    for (const { name } of programs) await cluster.podsReady(namespace, selector(name), 1);
    // That a namespace of an earlier test takes nothing new while it is being removed is no want of rights.
    for (const { name } of programs)
      assert.doesNotMatch(await logs(name), /forbidden: User|"status":403|"level":50/);
  });

  it('take over new trust anchors and a new issuer, and tell so', async () => {
    const next = await makeTestAuthority();
    await cluster.apply(trust(next, authority.anchorPem + next.anchorPem));
    const updated = await eventSeen('IssuerUpdated');
    assert.match(updated.message, /The issuer is .* now, valid until/);
    await eventSeen('TrustAnchorsUpdated');
    authority = next;
  });

  it('refuse an issuer that leads nowhere, tell so, and stay as they are', async () => {
    const stranger = await makeTestAuthority();
    // The issuer of before may have come to the pod sooner than its anchors.
    const before = timesTold(await eventsOf('IssuerUpdateSkipped'));
    await cluster.apply(trust(stranger, authority.anchorPem));
    const skipped = await eventSeen('IssuerUpdateSkipped', before);
    assert.match(skipped.message, /does not lead to a trust anchor/);
    for (const { name } of programs) await cluster.podsReady(namespace, selector(name), 1);
    // Identity does not start with it.
    await cluster.apply(trust(authority, authority.anchorPem));
  });

  it('end by themselves when their pods are deleted', async () => {
    for (const { name } of programs) {
      const [pod] = await cluster.podsReady(namespace, selector(name), 1);
      const began = performance.now();
      await cluster.kubectl([
        'delete',
        'pod',
        '-n',
        namespace,
        pod?.metadata.name ?? '',
        '--grace-period=60',
      ]);
      assert.ok(performance.now() - began < 50_000, name);
      await cluster.podsReady(namespace, selector(name), 1);
    }
  });
});
