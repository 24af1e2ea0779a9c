// SPDX-License-Identifier: Apache-2.0
// Leaf, issuer and trust anchors are replaced in the order of docs/install.md while nodes renew, dial each other and
// follow their pods: nobody loses anybody, and connections that are open stay open.

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { type Cluster, type KubernetesObject, openCluster } from './cluster.ts';
import { type Installation, installationOn } from './installation.ts';
import { openShop, type Shop } from './shop.ts';

const LEAF_MS = 30_000;
/** Programs look at their files every five seconds; the rest is for a busy machine. */
const FILES_READ_MS = 8000;
const REPLICAS = 2;

describe('rotation', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let shop: Shop;

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    await mesh.removeAll();
    const values = [
      `identity.issuer.issuanceLifetime=${LEAF_MS / 1000}s`,
      'identity.issuer.clockSkewAllowance=1s',
      `controllerReplicas=${REPLICAS}`,
    ];
    await mesh.installControlPlane(...values.flatMap((value) => ['--set', value]));
    shop = await openShop(cluster, mesh, 'rotation-shop');
    await mesh.controlPlaneReady(REPLICAS);
    await shop.beginAgain();
  });
  after(async () => {
    shop?.close();
    if (cluster === undefined) return;
    await mesh.removeAll();
    await cluster.close();
  });

  /** Puts it in force, and waits until the kubelets have brought it to everybody. */
  async function rotate(
    file: 'ca-bundle.crt' | 'crt.pem',
    text: string,
    ...args: readonly string[]
  ): Promise<void> {
    await mesh.apply('upgrade', ...args);
    const volume = file === 'crt.pem' ? 'secret/issuer' : 'configmap/trust-roots';
    await cluster.waitFor(`everybody to have ${file}`, async () => {
      // The kubelet brings mounted files up to date at once when something of the pod changes.
      const mark = `test/at=${Date.now()}`;
      // A pod may end meanwhile.
      await cluster.tryKubectl([
        'annotate',
        'pod',
        '--overwrite',
        `--namespace=${mesh.namespace}`,
        '--all',
        mark,
      ]);
      await sleep(500);
      return (await shop.podsOf(mesh.namespace, '')).every(({ metadata, spec }) => {
        const pid = cluster.nodes.find(({ name }) => name === spec.nodeName)?.pid;
        const volumes = `/proc/${pid}/root/var/lib/kubelet/pods/${metadata.uid}/volumes`;
        const path = `${volumes}/kubernetes.io~${volume}/${file}`;
        return !existsSync(path) || readFileSync(path, 'utf8').trim() === text.trim();
      });
    });
  }

  it('issuer and trust anchors are replaced under load, nobody loses anybody', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nodemesh-rotation-'));
    const write = (name: string, text: string): string => {
      writeFileSync(join(folder, name), text, { mode: 0o600 });
      return join(folder, name);
    };
    try {
      const began = shop.standIns.map(({ beat }) => beat);
      const { data } = await cluster.get<KubernetesObject & { data: Record<string, string> }>([
        'configmap',
        'linkerd-identity-trust-roots',
        `--namespace=${mesh.namespace}`,
      ]);
      const next = await makeTestAuthority();
      const both = `${data['ca-bundle.crt']?.trim()}\n${next.anchorPem}`;
      await rotate('ca-bundle.crt', both, '--identity-trust-anchors-file', write('both.pem', both));
      await sleep(FILES_READ_MS);
      const issuer = ['--identity-issuer-certificate-file', write('issuer.pem', next.issuerPem)];
      const key = ['--identity-issuer-key-file', write('key.pem', next.issuerKeyPem)];
      await rotate('crt.pem', next.issuerPem, ...issuer, ...key);
      // What identity gave before it had read them ends by then, the control plane's own, too.
      const noneOfBeforeMs = performance.now() + FILES_READ_MS + LEAF_MS;
      const fingerprint = new X509Certificate(next.issuerPem).fingerprint256;
      await cluster.waitFor('every certificate to be of the new issuer', async () =>
        shop.standIns.every(({ beat }) => beat.issuers.join() === fingerprint),
      );
      await sleep(Math.max(0, noneOfBeforeMs - performance.now()));
      const only = write('new.pem', next.anchorPem);
      await rotate('ca-bundle.crt', next.anchorPem, '--identity-trust-anchors-file', only);
      await sleep(FILES_READ_MS);
      // Whoever connects anew meets the new anchors on both sides.
      await cluster.kubectl([
        'rollout',
        'restart',
        'deployment/linkerd-destination',
        `--namespace=${mesh.namespace}`,
      ]);
      await cluster.kubectl([
        'rollout',
        'status',
        'deployment/linkerd-destination',
        `--namespace=${mesh.namespace}`,
      ]);
      await shop.rollOut();
      await shop.inOrder();
      shop.unharmed();
      for (const [index, { beat, node }] of shop.standIns.entries()) {
        const since = began[index];
        assert.ok(since);
        assert.ok(beat.dials > since.dials && beat.echoes > since.echoes, node);
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
