// SPDX-License-Identifier: Apache-2.0
// In the place of Linkerd's control plane, installed by Helm into the namespace that injected sidecars dial: they find
// it under the names, ports and identities that Linkerd's injector has written into their pods.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { inNetns, runCommand } from '../../local/command.ts';
import { PAUSE_IMAGE } from '../kind/machine-files.ts';
import { goTool } from '../tools/go-tool.ts';
import { type Cluster, type KubernetesObject, openCluster } from './cluster.ts';
import { type Installation, installationOn } from './installation.ts';
import { service } from './objects.ts';
import type { SidecarAnswers, SidecarConfig } from './sidecar.ts';

const NS = 'linkerd';
const SHOP = 'in-place-shop';
const root = resolve(import.meta.dirname, '../..');
const PROGRAM = resolve(import.meta.dirname, 'programs/sidecar.ts');
const CRDS = 'nodemesh-crds';
const CONTROL_PLANE = 'nodemesh-control-plane';
const run = promisify(execFile);

interface Placed extends KubernetesObject {
  readonly status: { readonly podIP?: string };
}

describe('in the place of Linkerd', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let folder = '';

  async function helm(...args: readonly string[]): Promise<string> {
    const env = { ...process.env, KUBECONFIG: cluster.kubeconfig, HOME: folder };
    const { stdout } = await run(await goTool('helm'), [...args], { env, timeout: 120_000 });
    return stdout;
  }
  const chart = (name: string): string => join(root, 'charts', name);

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster, NS);
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-in-place-'));
    // What an earlier run left, too: Helm finds its own by what it wrote into the namespace, and that goes.
    for (const one of [installationOn(cluster), mesh]) await one.removeAll();
    await cluster.makeNamespace(NS);
    await cluster.makeNamespace(SHOP);
    const authority = await makeTestAuthority();
    for (const [name, text] of Object.entries({
      'anchors.pem': authority.anchorPem,
      'issuer.pem': authority.issuerPem,
      'key.pem': authority.issuerKeyPem,
    }))
      writeFileSync(join(folder, name), text, { mode: 0o600 });
  });
  after(async () => {
    if (cluster === undefined) return;
    for (const name of [CONTROL_PLANE, CRDS])
      await helm('uninstall', name, '--namespace', NS, '--ignore-not-found').catch(() => undefined);
    await installationOn(cluster, NS).removeAll();
    await cluster.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it('Helm installs it, and everything becomes ready', async () => {
    await helm('install', CRDS, chart(CRDS), '--namespace', NS);
    const files = {
      identityTrustAnchorsPEM: 'anchors.pem',
      'identity.issuer.tls.crtPEM': 'issuer.pem',
      'identity.issuer.tls.keyPEM': 'key.pem',
    };
    const sets = Object.entries(files).flatMap(([key, file]) => [
      '--set-file',
      `${key}=${join(folder, file)}`,
    ]);
    await helm('install', CONTROL_PLANE, chart(CONTROL_PLANE), '--namespace', NS, ...sets);
    await mesh.controlPlaneReady();
  });

  it('serves a sidecar under the names that its injector wrote', async () => {
    const [node] = cluster.nodes;
    assert.ok(node);
    const names = ['web-1', 'web-2'];
    await cluster.apply([
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'web', namespace: SHOP } },
      service(SHOP, 'web', 8080),
      ...names.map((name) => ({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, namespace: SHOP, labels: { app: 'web', 'linkerd.io/control-plane-ns': NS } },
        spec: {
          nodeName: node.name,
          serviceAccountName: 'web',
          terminationGracePeriodSeconds: 0,
          containers: [
            {
              name: 'main',
              image: PAUSE_IMAGE,
              imagePullPolicy: 'Never',
            },
            {
              name: 'linkerd-proxy',
              image: PAUSE_IMAGE,
              imagePullPolicy: 'Never',
              ports: [
                { name: 'linkerd-proxy', containerPort: 4143 },
                { name: 'linkerd-admin', containerPort: 4191 },
              ],
              volumeMounts: [{ name: 'linkerd-identity-token', mountPath: '/var/run/secrets/tokens' }],
            },
          ],
          volumes: [
            {
              name: 'linkerd-identity-token',
              projected: {
                sources: [
                  { serviceAccountToken: { path: 'linkerd-identity-token', audience: 'identity.l5d.io' } },
                ],
              },
            },
          ],
        },
      })),
    ]);
    const pods = (await cluster.podsReady(SHOP, 'app=web', names.length)) as readonly Placed[];
    const identity = `web.${SHOP}.serviceaccount.identity.linkerd.cluster.local`;
    const tls = (account: string): string =>
      `${account}.linkerd.serviceaccount.identity.linkerd.cluster.local`;
    const host = (name: string): string => `${name}.linkerd.svc.cluster.local`;
    const uid = pods.find(({ metadata }) => metadata.name === 'web-1')?.metadata.uid ?? '';
    const volume = `/var/lib/kubelet/pods/${uid}/volumes/kubernetes.io~projected/linkerd-identity-token`;
    const config: SidecarConfig = {
      dns: '10.82.0.10',
      names: {
        identity: { host: host('linkerd-identity-headless'), tls: tls('linkerd-identity') },
        destination: { host: host('linkerd-dst-headless'), tls: tls('linkerd-destination') },
        policy: { host: host('linkerd-policy'), tls: tls('linkerd-destination') },
      },
      tokenFile: `/proc/${node.pid}/root${volume}/linkerd-identity-token`,
      anchorsFile: join(folder, 'anchors.pem'),
      identity,
      pod: { namespace: SHOP, name: 'web-1', node: node.name },
      authority: `web.${SHOP}.svc.cluster.local:8080`,
      serviceIp: `${await cluster.serviceAddress(SHOP, 'web')}:8080`,
      endpoints: names.length,
    };
    const netns = cluster.layout.nodes[0]?.netns ?? '';
    const ran = await runCommand(inNetns(netns, [process.execPath, PROGRAM, JSON.stringify(config)]), {
      timeoutMs: 150_000,
    });
    assert.equal(ran.code, 0, ran.stderr);
    const answers = JSON.parse(ran.stdout) as SidecarAnswers;
    assert.deepEqual(answers, {
      identity,
      endpoints: pods.map(({ status }) => status.podIP ?? '').sort(),
      profile: `web.${SHOP}.svc.cluster.local`,
      outbound: true,
      authorizations: answers.authorizations,
    });
    assert.ok(answers.authorizations > 0, 'the default policy lets somebody in');
  });

  it('Helm changes it, and takes all of it away', async () => {
    const args = ['--namespace', NS, '--reuse-values', '--set', 'controllerReplicas=2'];
    await helm('upgrade', CONTROL_PLANE, chart(CONTROL_PLANE), ...args);
    await mesh.controlPlaneReady(2);
    await helm('uninstall', CONTROL_PLANE, '--namespace', NS, '--wait');
    // As docs/install.md says: Kubernetes may hold back CRDs of which nobody has asked for an object.
    await mesh.printed('uninstall', '--crds');
    await helm('uninstall', CRDS, '--namespace', NS, '--wait');
    const kinds = 'clusterrole,clusterrolebinding,validatingwebhookconfiguration,crd';
    assert.deepEqual(await cluster.list([kinds, '--selector=nodemesh.io/control-plane-ns']), []);
    let left: readonly KubernetesObject[] = [];
    // Helm waits for what it has made itself, and not for the pods of that.
    await cluster
      .waitFor('nothing to be left', async () => {
        left = await cluster.list([
          'all,configmap,secret,serviceaccount,role,rolebinding,lease,poddisruptionbudget',
          `--namespace=${NS}`,
          '--selector=nodemesh.io/control-plane-ns',
        ]);
        return left.length === 0;
      })
      .catch(() => assert.fail(left.map(({ kind, metadata }) => `${kind} ${metadata.name}`).join(', ')));
  });
});
