// SPDX-License-Identifier: Apache-2.0
// Least privilege: every right of the control plane is taken away once, and the feature that the table names for it
// stops; with the right given back it works again. Rights of which only agents see the effect are leader.test.ts's. Of
// identity's Events only the right itself is looked at.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type AccountRule, accountRules } from '../../install/objects/rbac.ts';
import { accountComponents, takeAway } from './rights.ts';
import { type Cluster, isEnding, isReady, type KubernetesObject, openCluster } from './cluster.ts';
import { type Installation, installationOn, MESH_NAMESPACE as NS } from './installation.ts';

/** Rights without which a part that starts anew never becomes ready. */
const untilReady = (rule: AccountRule): boolean =>
  rule.verbs.includes('watch') || rule.account === 'linkerd-policy-validator';

/** Rights that show only with agents: leader.test.ts. */
const withAgents = ({ account, resources, verbs }: AccountRule): boolean =>
  account === 'linkerd-destination' &&
  (['tokenreviews', 'pods/status', 'events'].some((resource) => resources.includes(resource)) ||
    verbs.join() === 'patch');

/** As far as needed to be watched; the mesh never installs the Gateway API. */
const gatewayKinds = ['HTTPRoute', 'GRPCRoute'].map((kind) => {
  const singular = kind.toLowerCase();
  const schema = { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } };
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: {
      name: `${singular}s.gateway.networking.k8s.io`,
      annotations: { 'api-approved.kubernetes.io': 'unapproved, only for a test' },
    },
    spec: {
      group: 'gateway.networking.k8s.io',
      scope: 'Namespaced',
      names: { kind, plural: `${singular}s`, singular },
      versions: [{ name: 'v1', served: true, storage: true, schema }],
    },
  };
});

const route = {
  apiVersion: 'gateway.networking.k8s.io/v1',
  kind: 'HTTPRoute',
  metadata: { name: 'rights', namespace: 'default' },
  spec: { parentRefs: [] },
};

describe('rights of the control plane', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;

  const selector = (account: string): string =>
    `nodemesh.io/control-plane-component=${accountComponents[account] ?? account}`;

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    await mesh.removeAll();
    await cluster.apply(gatewayKinds);
    await mesh.installControlPlane();
    await mesh.controlPlaneReady();
  });
  after(async () => {
    if (cluster === undefined) return;
    await mesh.removeAll();
    await cluster.kubectl([
      'delete',
      'crd',
      '--ignore-not-found',
      ...gatewayKinds.map((kind) => kind.metadata.name),
    ]);
    await cluster.close();
  });

  /** Resolves when what ran is gone; that it may end in order is other tests' business. */
  const restart = (account: string): Promise<string> =>
    cluster.kubectl([
      'delete',
      'pod',
      `--namespace=${NS}`,
      `--selector=${selector(account)}`,
      '--grace-period=1',
      '--wait',
    ]);

  async function podOf(account: string): Promise<KubernetesObject | undefined> {
    const pods = await cluster.list(['pods', `--namespace=${NS}`, `--selector=${selector(account)}`]);
    return pods.find((pod) => !isEnding(pod));
  }
  /** Nothing while its container is being made. */
  async function logsOf(account: string): Promise<string> {
    const at = [`--namespace=${NS}`, (await podOf(account))?.metadata.name ?? ''];
    return (await cluster.tryKubectl(['logs', ...at])).stdout;
  }

  /** The part runs, has been refused, and says so; it is not ready. */
  async function stuck(account: string): Promise<void> {
    await cluster.waitFor(`${account} to be refused`, async () =>
      /forbidden: User/.test(await logsOf(account)),
    );
    const pod = await podOf(account);
    assert.ok(pod !== undefined && !isReady(pod), `${account} is ready`);
  }

  for (const rule of accountRules) {
    const title = `${rule.account}: ${rule.verbs.join(', ')} ${rule.resources.join(', ')}`;
    if (withAgents(rule)) continue;
    it(`${title}: ${rule.feature}`, async () => {
      const giveBack = await takeAway(cluster, rule);
      if (untilReady(rule)) {
        await restart(rule.account);
        await stuck(rule.account);
      } else if (rule.resources.includes('customresourcedefinitions')) {
        await cluster.waitFor('destination to lose a route without knowing why', async () => {
          await cluster.apply([route]);
          await cluster.kubectl(['delete', 'httproutes.gateway.networking.k8s.io', route.metadata.name]);
          return /not known whether a definition is being deleted/.test(await logsOf(rule.account));
        });
      } else if (rule.resources.includes('leases')) {
        await restart(rule.account);
        await cluster.waitFor('destination to be refused its lease', async () =>
          /leases.*forbidden/.test(await logsOf(rule.account)),
        );
      } else if (rule.resources.includes('tokenreviews')) {
        // destination starts with a certificate.
        await restart('linkerd-destination');
        await cluster.waitFor('identity to refuse', async () =>
          /tokenreviews.*forbidden|forbidden.*tokenreviews/.test(await logsOf('linkerd-identity')),
        );
        const pod = await podOf('linkerd-destination');
        assert.ok(pod !== undefined && !isReady(pod), 'destination has no certificate');
      }
      await giveBack();
      await mesh.controlPlaneReady();
    });
  }
});
