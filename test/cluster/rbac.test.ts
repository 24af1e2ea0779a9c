// SPDX-License-Identifier: Apache-2.0
// Least privilege: every right of the control plane is taken away once, and the feature that the table names for it
// stops; with the right given back it works again. Rights of which only agents see the effect are leader.test.ts's. Of
// identity's Events only the right itself is looked at.

import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type CommandResult, runCommand } from '../../local/command.ts';
import { type AccountRule, accountRules } from '../../install/objects/rbac.ts';
import { accountComponents, takeAway } from './rights.ts';
import { type Cluster, isReady, type KubernetesObject, openCluster } from './cluster.ts';

const MESH = resolve(import.meta.dirname, '../../bin/mesh');
const NS = 'nodemesh';

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

  const mesh = (...args: readonly string[]): Promise<CommandResult> =>
    runCommand([MESH, ...args, '--kubeconfig', cluster.kubeconfig], { timeoutMs: 60_000 });
  async function pipe(verb: readonly string[], ...args: readonly string[]): Promise<void> {
    const { code, stdout, stderr } = await mesh(...args);
    assert.equal(code, 0, stderr);
    if (stdout !== '') await cluster.kubectl([...verb, '--filename=-'], { input: stdout });
  }
  const removeAll = () => pipe(['delete', '--ignore-not-found', '--wait'], 'uninstall', '--crds', '--force');
  const selector = (account: string): string =>
    `nodemesh.io/control-plane-component=${accountComponents[account] ?? account}`;

  before(async () => {
    cluster = await openCluster();
    await removeAll();
    await cluster.apply(gatewayKinds);
    await pipe(['apply'], 'install', '--crds');
    await pipe(['apply'], 'install');
    for (const account of Object.keys(accountComponents)) await cluster.podsReady(NS, selector(account), 1);
  });
  after(async () => {
    if (cluster === undefined) return;
    await removeAll();
    await cluster.kubectl([
      'delete',
      'crd',
      '--ignore-not-found',
      ...gatewayKinds.map((kind) => kind.metadata.name),
    ]);
    await cluster.close();
  });

  const restart = (account: string): Promise<string> =>
    cluster.kubectl(['delete', 'pod', `--namespace=${NS}`, `--selector=${selector(account)}`, '--wait']);

  async function podOf(account: string): Promise<KubernetesObject | undefined> {
    const pods = await cluster.list(['pods', `--namespace=${NS}`, `--selector=${selector(account)}`]);
    return pods[0];
  }

  /** The part runs, has been refused, and says so; it is not ready. */
  async function stuck(account: string): Promise<void> {
    await cluster.waitFor(`${account} to be refused`, async () => {
      const pod = await podOf(account);
      if (pod === undefined) return false;
      const logs = await cluster.tryKubectl(['logs', `--namespace=${NS}`, pod.metadata.name]);
      return /forbidden/.test(logs.stdout);
    });
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
          const pod = await podOf(rule.account);
          const logs = await cluster.logs({ namespace: NS, pod: pod?.metadata.name ?? '' });
          return /not known whether a definition is being deleted/.test(logs);
        });
      } else if (rule.resources.includes('leases')) {
        await restart(rule.account);
        await cluster.waitFor('destination to be refused its lease', async () => {
          const pod = await podOf(rule.account);
          const at = [`--namespace=${NS}`, pod?.metadata.name ?? ''];
          return /leases.*forbidden/.test((await cluster.tryKubectl(['logs', ...at])).stdout);
        });
      } else if (rule.resources.includes('tokenreviews')) {
        // destination starts with a certificate.
        await restart('linkerd-destination');
        await cluster.waitFor('identity to refuse', async () => {
          const pod = await podOf('linkerd-identity');
          const logs = await cluster.logs({ namespace: NS, pod: pod?.metadata.name ?? '' });
          return /tokenreviews.*forbidden|forbidden.*tokenreviews/.test(logs);
        });
        const pod = await podOf('linkerd-destination');
        assert.ok(pod !== undefined && !isReady(pod), 'destination has no certificate');
      }
      await giveBack();
      for (const account of Object.keys(accountComponents)) await cluster.podsReady(NS, selector(account), 1);
    });
  }
});
