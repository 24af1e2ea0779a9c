// SPDX-License-Identifier: Apache-2.0
// The way of a user: mesh install --crds, mesh install, upgrade, prune and uninstall, each through kubectl, on a
// cluster that has the image of the control plane.

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { definitions, nameOf } from '../../install/crds/definitions.ts';
import type { CommandResult } from '../../local/command.ts';
import { type Cluster, type KubernetesObject, openCluster } from './cluster.ts';
import { type Installation, installationOn } from './installation.ts';

const NS = 'nodemesh';
const SHOP = 'install-shop';

interface SecretObject extends KubernetesObject {
  readonly data?: Readonly<Record<string, string>>;
}
interface ConfigurationObject extends KubernetesObject {
  readonly webhooks: readonly { readonly clientConfig: { readonly caBundle?: string } }[];
}

const profile = (name: string, timeout: string): object => ({
  apiVersion: 'linkerd.io/v1alpha2',
  kind: 'ServiceProfile',
  metadata: { name: `${name}.${SHOP}.svc.cluster.local`, namespace: SHOP },
  spec: { routes: [{ name: 'a', timeout, condition: { method: 'GET' } }] },
});

describe('mesh install on a cluster', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;

  /** What is let through is not kept: applied once more, it would not be asked about again. */
  const tryApply = (object: object): Promise<CommandResult> =>
    cluster.tryKubectl(['apply', '--dry-run=server', '--filename=-'], { input: JSON.stringify(object) });
  const remove = (input: string): Promise<string> =>
    cluster.kubectl(['delete', '--ignore-not-found', '--wait', '--filename=-'], { input });

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    await mesh.removeAll();
    await cluster.makeNamespace(SHOP);
  });
  after(async () => {
    if (cluster === undefined) return;
    await mesh.removeAll();
    await cluster.close();
  });

  it('asks for the CRDs first, prints them, and then everything becomes ready', async () => {
    const early = await mesh.run('install');
    assert.equal(early.code, 1);
    assert.match(early.stderr, /CRDs must be installed first\. Run mesh install with the --crds flag/);
    await mesh.apply('install', '--crds');
    await mesh.apply('install');
    await mesh.controlPlaneReady();
  });

  it('refuses to install a second time', async () => {
    for (const installation of [mesh, installationOn(cluster, 'other')]) {
      const again = await installation.run('install');
      assert.deepEqual([again.code, again.stdout], [1, '']);
      assert.match(again.stderr, /mesh upgrade/);
    }
  });

  it('has control-plane pods that fit the pod security standard "restricted"', async () => {
    const label = 'pod-security.kubernetes.io/enforce';
    const fits = async (level: string): Promise<string> =>
      (
        await cluster.tryKubectl([
          'label',
          '--dry-run=server',
          '--overwrite',
          'namespace',
          NS,
          `${label}=${level}`,
        ])
      ).stderr;
    assert.doesNotMatch(await fits('restricted'), /violate/);
  });

  it('refuses a wrong ServiceProfile with its field, and not where webhooks are kept out', async () => {
    // The API server learns of the webhook's certificate in its own time; until then it lets everything through.
    const wrong = await cluster.waitFor('a refusal', async () => {
      const answer = await tryApply(profile('wrong', 'fast'));
      return answer.code !== 0 && answer;
    });
    assert.match(wrong.stderr, /spec\.routes\[0\]\.timeout: expected a duration such as/);
    const right = await tryApply(profile('right', '5s'));
    assert.equal(right.code, 0, right.stderr);
    assert.match(right.stderr, /Warning: only pods with Linkerd's proxy act on spec\.routes/);
    const label = 'config.linkerd.io/admission-webhooks';
    await cluster.kubectl(['label', 'namespace', SHOP, `${label}=disabled`]);
    await cluster.waitFor('the namespace to be left alone', async () => {
      return (await tryApply(profile('wrong', 'fast'))).code === 0;
    });
    await cluster.kubectl(['label', 'namespace', SHOP, `${label}-`]);
  });

  it('makes the certificate of the webhook anew when it is lost, and the API server follows', async () => {
    const secretOf = () =>
      cluster.get<SecretObject>(['secret', 'linkerd-policy-validator-k8s-tls', `--namespace=${NS}`]);
    const old = (await secretOf()).data?.['tls.crt'];
    assert.ok(old !== undefined);
    const patch = [
      'patch',
      'secret',
      'linkerd-policy-validator-k8s-tls',
      `--namespace=${NS}`,
      '--type=merge',
    ];
    await cluster.kubectl([...patch, '--patch={"data":null}']);
    await cluster.waitFor('a new certificate', async () => {
      const { data } = await secretOf();
      const certificate = data?.['tls.crt'];
      if (certificate === undefined || certificate === old) return false;
      const configuration = await cluster.get<ConfigurationObject>([
        'validatingwebhookconfiguration',
        'nodemesh-policy-validator',
      ]);
      return configuration.webhooks.every(({ clientConfig }) => clientConfig.caBundle === data?.['ca.crt']);
    });
    await cluster.waitFor('a refusal by the webhook', async () => {
      return /expected a duration such as/.test((await tryApply(profile('other', 'fast'))).stderr);
    });
  });

  it('upgrades with the issuer that is in the cluster, and takes new values', async () => {
    const issuerOf = async () =>
      (await cluster.get<SecretObject>(['secret', 'linkerd-identity-issuer', `--namespace=${NS}`])).data;
    const before = await issuerOf();
    await mesh.apply('upgrade', '--set', 'controllerReplicas=2');
    await mesh.controlPlaneReady(2);
    assert.deepEqual(await issuerOf(), before);
    assert.match(await mesh.printed('upgrade'), /controllerReplicas: 2/);
  });

  it('renews the certificate of the webhook before it ends, and the API server is never without it', async () => {
    const secret = ['secret', 'linkerd-policy-validator-k8s-tls', `--namespace=${NS}`];
    const deployment = ['deployment/linkerd-policy-validator', `--namespace=${NS}`];
    const lifetime = 'NODEMESH_WEBHOOK_CERTIFICATE_LIFETIME=30s';
    const assertRefused = async (): Promise<void> => {
      const { code, stdout, stderr } = await tryApply(profile('other', 'fast'));
      assert.match(stderr, /expected a duration such as/, `a wrong profile, ${code}: ${stdout}${stderr}`);
    };
    await cluster.kubectl(['set', 'env', ...deployment, lifetime]);
    const rolled = new AbortController();
    const rollout = cluster.kubectl(['rollout', 'status', ...deployment]).finally(() => rolled.abort());
    while (!rolled.signal.aborted) await assertRefused();
    await rollout;
    // A replica of before, while it ends, would make one of its own, longer lifetime.
    await mesh.ready('policy-validator', 2);
    await cluster.kubectl(['patch', ...secret, '--type=merge', '--patch={"data":null}']);
    const presentOne = async (): Promise<X509Certificate | undefined> => {
      const text = (await cluster.get<SecretObject>(secret)).data?.['tls.crt'];
      return text === undefined ? undefined : new X509Certificate(Buffer.from(text, 'base64'));
    };
    const first = await cluster.waitFor('a certificate that ends soon', async () => {
      const found = await presentOne();
      const endsSoon = found !== undefined && found.validToDate.getTime() - Date.now() < 40_000;
      return endsSoon && found;
    });
    await assertRefused();
    // Well beyond its end.
    const untilMs = first.validToDate.getTime() + 5000;
    while (Date.now() < untilMs) await assertRefused();
    assert.notEqual((await presentOne())?.fingerprint256, first.fingerprint256);
  });

  it('prunes only what is ours and no longer part of it', async () => {
    assert.equal(await mesh.printed('prune'), '');
    const labels = { 'nodemesh.io/control-plane-ns': NS };
    await cluster.apply([
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'left-over', namespace: NS, labels } },
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'theirs', namespace: SHOP, labels } },
    ]);
    const pruned = await mesh.printed('prune');
    assert.match(pruned, /name: left-over/);
    assert.doesNotMatch(pruned, /theirs/);
    await remove(pruned);
    assert.equal(await mesh.printed('prune'), '');
  });

  it('uninstalls everything but the CRDs, and those when asked', async () => {
    await remove(await mesh.printed('uninstall'));
    for (const kind of ['clusterrole', 'clusterrolebinding', 'validatingwebhookconfiguration', 'namespace']) {
      const left = await cluster.list([kind, '--selector=nodemesh.io/control-plane-ns']);
      assert.deepEqual(
        left.map(({ metadata }) => metadata.name),
        [],
        kind,
      );
    }
    const kept = await cluster.list(['crd', '--selector=nodemesh.io/control-plane-ns']);
    assert.deepEqual(kept.map(({ metadata }) => metadata.name).sort(), definitions.map(nameOf).sort());
    await remove(await mesh.printed('uninstall', '--crds'));
    assert.deepEqual(await cluster.list(['crd', '--selector=nodemesh.io/control-plane-ns']), []);
  });
});
