// SPDX-License-Identifier: Apache-2.0
// The rules of Certify and of the node stream on tokens that the kubelet mounted into real pods.

import assert from 'node:assert/strict';
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { Registry as MetricRegistry } from 'prom-client';
import { systemClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import { defaultMeshSettings, identityOf } from '#lib/registry/mesh-settings.ts';
import type { Registry } from '#lib/registry/registry.ts';
import { tokenAudiences } from '#lib/registry/token-review.ts';
import type { KubernetesApi } from '#lib/registry-kubernetes/api-client.ts';
import { createKubernetesCounts } from '#lib/registry-kubernetes/counts.ts';
import { createTokenReviewer } from '#lib/registry-kubernetes/token-review.ts';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { createCertificateRequest } from '#lib/x509/csr.ts';
import { Callers } from '../../destination/callers.ts';
import { createClusterIndex } from '../../destination/cluster-index.ts';
import { authenticateNode } from '../../destination/node-authentication.ts';
import { CallError } from '#lib/grpc/status.ts';
import { createAccounts } from '../../identity/accounts.ts';
import { whyNotMeshed } from '../../identity/identity.ts';
import { Refusal } from '../../identity/rules.ts';
import { type Certify, createCertify } from '../../identity/service.ts';
import { PAUSE_IMAGE } from '../kind/machine-files.ts';
import { checkedInMachine } from '../kind/machine.ts';
import {
  clusterApi,
  makeNamespace,
  type OpenedRegistry,
  openRegistry,
  testCluster,
  unless,
  until,
} from './cluster-api.ts';
import { withoutMesh } from './installation.ts';

const stamp = Date.now().toString(36);
const mesh = `identity-mesh-${stamp}`;
const shop = `identity-shop-${stamp}`;
const CLUSTER = 'test';
const settings = { ...defaultMeshSettings, namespace: mesh };

interface MadePod {
  readonly uid: string;
  readonly node: string;
  /** By audience; '' is that of the API server. */
  readonly token: (audience: string) => Promise<string>;
}

const audiences = ['', tokenAudiences.identity, tokenAudiences.agent, tokenAudiences.nodeStream];

describe('identity on real tokens', () => {
  let api: KubernetesApi;
  let registry: Registry;
  let opened: OpenedRegistry;
  let certify: Certify;
  let reviewer: ReturnType<typeof createTokenReviewer>;
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const pods = new Map<string, MadePod>();

  const podNamed = (name: string): MadePod => {
    const pod = pods.get(name);
    assert.ok(pod, name);
    return pod;
  };
  const tokenOf = (name: string, audience: string): Promise<string> => podNamed(name).token(audience);

  async function makePod(
    namespace: string,
    name: string,
    account: string,
    node: string,
    annotations: Readonly<Record<string, string>> = {},
  ): Promise<void> {
    const base = `/api/v1/namespaces/${namespace}`;
    const body = { metadata: { name: account } };
    await unless(409, api.call({ method: 'POST', path: `${base}/serviceaccounts`, body }));
    const made = (await api.call({
      method: 'POST',
      path: `${base}/pods`,
      body: {
        metadata: { name, annotations },
        spec: {
          nodeName: node,
          serviceAccountName: account,
          terminationGracePeriodSeconds: 0,
          containers: [
            {
              name: 'pause',
              image: PAUSE_IMAGE,
              imagePullPolicy: 'Never',
              // The kubelet prepares only what a container mounts.
              volumeMounts: audiences.map((_, index) => ({
                name: `token-${index}`,
                mountPath: `/tokens/${index}`,
              })),
            },
          ],
          volumes: audiences.map((audience, index) => ({
            name: `token-${index}`,
            projected: {
              sources: [{ serviceAccountToken: { path: 'token', ...(audience === '' ? {} : { audience }) } }],
            },
          })),
        },
      },
    })) as { metadata: { uid: string } };
    const { uid } = made.metadata;
    const machine = testCluster().nodes.find((one) => one.name === node);
    assert.ok(machine, node);
    pods.set(name, {
      uid,
      node,
      async token(audience) {
        const volume = `token-${audiences.indexOf(audience)}`;
        const path = `/var/lib/kubelet/pods/${uid}/volumes/kubernetes.io~projected/${volume}/token`;
        return await checkedInMachine(machine, ['cat', path]);
      },
    });
  }

  before(async () => {
    await withoutMesh();
    api = await clusterApi();
    for (const namespace of [mesh, shop]) await makeNamespace(api, namespace);
    await api.call({
      method: 'PATCH',
      path: `/api/v1/namespaces/${shop}`,
      contentType: 'application/merge-patch+json',
      body: { metadata: { annotations: { 'linkerd.io/inject': 'enabled' } } },
    });
    const [node1 = '', node2 = ''] = testCluster().nodes.map(({ name }) => name);
    await makePod(mesh, 'agent-1', 'nodemesh-agent', node1);
    await makePod(mesh, 'agent-doomed', 'nodemesh-agent', node1);
    await makePod(shop, 'impostor', 'nodemesh-agent', node1);
    await makePod(shop, 'web-1', 'web', node1);
    await makePod(shop, 'cart-2', 'cart', node2);
    await makePod(shop, 'out-1', 'out', node1, { 'linkerd.io/inject': 'disabled' });
    opened = await openRegistry(['Namespace', 'Node', 'ReplicaSet', 'Pod', 'Service', 'EndpointSlice']);
    ({ registry } = opened);
    await registry.synced();
    await until('all pods run', () =>
      [...pods.keys()].every((name) =>
        registry.list('Pod').some((pod) => pod.metadata.name === name && pod.status.phase === 'Running'),
      ),
    );
    const authority = await makeTestAuthority();
    reviewer = createTokenReviewer({ api, counts: createKubernetesCounts(new MetricRegistry()) });
    const accounts = createAccounts({
      registry,
      cluster: CLUSTER,
      whyNotMeshed: (pod) => whyNotMeshed(pod, { registry, namespace: mesh }),
    });
    await registry.synced();
    certify = createCertify({
      domain: settings,
      agent: { namespace: mesh, name: 'nodemesh-agent' },
      accounts,
      issuer: () => authority.issuer,
      reviewer,
      leafLifetimeMs: 3_600_000,
      clockSkewMs: 20_000,
      clock: systemClock,
      log: silentLog,
      onResult: () => undefined,
    });
  });
  after(async () => {
    for (const namespace of [mesh, shop]) {
      const options = { gracePeriodSeconds: 0 };
      await api.call({ method: 'DELETE', path: `/api/v1/namespaces/${namespace}/pods`, body: options });
      await api.call({ method: 'DELETE', path: `/api/v1/namespaces/${namespace}` });
    }
    opened.close();
    api.close();
  });

  const idOf = (account: string, namespace = shop): string => identityOf(account, namespace, settings);
  const ask = async (identity: string, token: string): Promise<string> => {
    try {
      const { leafCertificate } = await certify({
        identity,
        token: Buffer.from(token),
        certificateSigningRequest: createCertificateRequest(identity, keys),
      });
      return new X509Certificate(leafCertificate).subjectAltName ?? '';
    } catch (error) {
      if (error instanceof Refusal) return error.rule;
      throw error;
    }
  };

  it('gives a pod its own account by a token of identity’s audience, and no other', async () => {
    const token = await tokenOf('web-1', tokenAudiences.identity);
    assert.equal(await ask(idOf('web'), token), `DNS:${idOf('web')}`);
    assert.equal(await ask(idOf('cart'), token), 'own-account-only');
    assert.equal(await ask(idOf('web'), await tokenOf('web-1', '')), 'token-invalid');
    assert.equal(await ask(idOf('web'), await tokenOf('web-1', tokenAudiences.nodeStream)), 'token-invalid');
    assert.equal(await ask(idOf('web'), await tokenOf('web-1', tokenAudiences.agent)), 'token-audience');
    assert.equal(await ask(idOf('web'), `${token}x`), 'token-invalid');
  });

  it('gives an agent the accounts of its own node’s meshed pods only', async () => {
    const token = await tokenOf('agent-1', tokenAudiences.agent);
    assert.equal(await ask(idOf('web'), token), `DNS:${idOf('web')}`);
    assert.equal(await ask(idOf('cart'), token), 'account-unseen');
    assert.equal(await ask(idOf('out'), token), 'account-not-meshed');
    // By the node on which it happens to run.
    assert.match(await ask(idOf('coredns', 'kube-system'), token), /^account-(unseen|not-meshed)$/);
    assert.equal(await ask('web.elsewhere', token), 'foreign-identity');
    assert.equal(
      await ask(idOf('web'), await tokenOf('agent-1', tokenAudiences.identity)),
      'own-account-only',
    );
    assert.equal(
      await ask(idOf('web'), await tokenOf('agent-1', tokenAudiences.nodeStream)),
      'token-invalid',
    );
    assert.equal(await ask(idOf('web'), await tokenOf('impostor', tokenAudiences.agent)), 'token-audience');
  });

  it('gives nothing for a token of the agents’ account that is bound to no pod', async () => {
    const requested = (await api.call({
      method: 'POST',
      path: `/api/v1/namespaces/${mesh}/serviceaccounts/nodemesh-agent/token`,
      body: { spec: { audiences: [tokenAudiences.agent] } },
    })) as { readonly status: { readonly token: string } };
    assert.equal(await ask(idOf('web'), requested.status.token), 'agent-not-bound');
  });

  it('opens a node stream to the agent of that node only', async () => {
    const index = createClusterIndex({ registry, settings });
    await index.synced();
    const callers = new Callers({
      index,
      settings,
      cluster: CLUSTER,
      agentServiceAccount: 'nodemesh-agent',
      clock: systemClock,
    });
    const open = async (pod: string, audience: string, nodeName: string): Promise<string> => {
      const hello = {
        nodeName,
        cluster: '',
        instanceId: 'i',
        version: '',
        features: [],
        token: Buffer.from(await tokenOf(pod, audience)),
      };
      const caller = { identity: callers.agentIdentity, connection: 'test' };
      try {
        const agent = await authenticateNode(
          { index, reviewer, callers, settings, cluster: CLUSTER, agentServiceAccount: 'nodemesh-agent' },
          caller,
          hello,
        );
        return agent.name;
      } catch (error) {
        if (error instanceof CallError) return error.details;
        throw error;
      }
    };
    const { node } = podNamed('agent-1');
    assert.equal(await open('agent-1', tokenAudiences.nodeStream, node), 'agent-1');
    const other = podNamed('cart-2').node;
    assert.match(await open('agent-1', tokenAudiences.nodeStream, other), /bound to node "node1"/);
    assert.match(await open('agent-1', tokenAudiences.agent, node), /refused/);
    assert.match(await open('impostor', tokenAudiences.nodeStream, node), /token is system:serviceaccount:/);
    index.close();
  });

  it('gives nothing any more for the token of a pod that is gone', async () => {
    const token = await tokenOf('agent-doomed', tokenAudiences.agent);
    assert.equal(await ask(idOf('web'), token), `DNS:${idOf('web')}`);
    const options = { gracePeriodSeconds: 0 };
    await api.call({ method: 'DELETE', path: `/api/v1/namespaces/${mesh}/pods/agent-doomed`, body: options });
    await until('the pod is gone', () =>
      registry.list('Pod').every((pod) => pod.metadata.name !== 'agent-doomed'),
    );
    // Cached for seconds: but the pod is looked up every time.
    assert.match(await ask(idOf('web'), token), /^(agent-unseen|token-invalid)$/);
    // It sees the end of the pod by a watch of its own.
    await until('the API server refuses the token', async () => {
      return !(await reviewer.review(token, [tokenAudiences.agent])).authenticated;
    });
  });
});
