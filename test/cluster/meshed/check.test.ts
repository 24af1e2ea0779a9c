// SPDX-License-Identifier: Apache-2.0
// mesh check against a real API server: before an installation, after it, and with pieces of it broken. That each check
// finds what it is for is in cli/check.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Cluster } from '../cluster.ts';
import { type Installation, MESH_NAMESPACE } from '../installation.ts';
import { untilReason } from '../mesh.ts';
import { clientPod, loadPrograms } from '../load-pods.ts';
import { sharedMesh } from '../shared-mesh.ts';

const SHOP = 'check-shop';

interface Report {
  readonly success: boolean;
  readonly categories: readonly {
    readonly categoryName: string;
    readonly checks: readonly {
      readonly description: string;
      readonly result: string;
      readonly error?: string;
    }[];
  }[];
}

describe('mesh check', { timeout: 800_000 }, () => {
  const shared = sharedMesh();
  let cluster: Cluster;
  let mesh: Installation;

  /** What is not good: description and error. */
  const found = async (...flags: readonly string[]): Promise<readonly (readonly [string, string])[]> => {
    const { code, stdout, stderr } = await mesh.run('check', '-o', 'json', ...flags);
    assert.equal(stderr, '');
    const report = JSON.parse(stdout) as Report;
    assert.equal(code, report.success ? 0 : 1);
    const checks = report.categories.flatMap((category) => category.checks);
    assert.ok(checks.length > 3);
    return checks.flatMap(({ description, error }) =>
      error === undefined ? [] : [[description, error] as const],
    );
  };

  before(async () => {
    ({ cluster, mesh } = await shared.openWithout());
    await cluster.makeNamespace(SHOP);
  });
  after(() => shared.close());

  it('--pre: the cluster can take the mesh; somebody without rights is told of each that is missing', async () => {
    assert.deepEqual(await found('--pre'), []);
    const refused = await found('--pre', '--as', 'system:serviceaccount:default:default');
    assert.ok(refused.some(([check]) => check === 'can create ClusterRoles'));
    assert.ok(
      refused.every(([, error]) => /not authorized|forbidden|cannot/.test(error)),
      JSON.stringify(refused),
    );
  });

  it('without an installation says what is missing, and ends there', async () => {
    const { code, stdout } = await mesh.run('check', '-o', 'short', '--wait', '0s');
    assert.equal(code, 1);
    assert.match(stdout, /^linkerd-crd\n-+\n× control plane CustomResourceDefinitions exist\n {4}missing /);
    assert.match(stdout, /see docs\/checks\.md#l5d-existence-crd for hints\n\nStatus check results are ×\n$/);
  });

  it('waits for an installation that has just begun, and then all is good', async () => {
    await mesh.installControlPlane();
    await mesh.installNodes();
    assert.deepEqual(await found('--wait', '2m'), []);
    await mesh.controlPlaneReady();
    await mesh.nodePodsReady('agent');
    assert.deepEqual(
      (await found('--pre')).map(([check]) => check),
      ['control plane namespace does not already exist'],
    );
  });

  it('--proxy: names pods that asked for the mesh and are not in it', async () => {
    await cluster.kubectl(['annotate', 'namespace', SHOP, 'linkerd.io/inject=enabled']);
    await cluster.apply([
      loadPrograms(SHOP),
      clientPod(SHOP, 'inside', { node: cluster.nodes[0]?.name ?? '' }),
    ]);
    await cluster.podsReady(SHOP, 'app=inside', 1);
    await untilReason(cluster, SHOP, ['inside'], 'Enrolled');
    assert.deepEqual(await found('--proxy', '-n', SHOP, '--wait', '1m'), []);
    await cluster.kubectl([
      'annotate',
      'pod',
      'inside',
      `--namespace=${SHOP}`,
      'config.linkerd.io/proxy-cpu-limit=1',
      'config.linkerd.io/skip-inbound-ports=many',
    ]);
    const warnings = await found('--proxy', '-n', SHOP);
    assert.deepEqual(
      warnings.map(([check]) => check),
      ['annotations of data plane pods mean something here', 'annotations of data plane pods can be read'],
    );
    assert.match(warnings[0]?.[1] ?? '', /check-shop\/inside: config\.linkerd\.io\/proxy-cpu-limit/);
  });

  it('finds a Service and a keeper that are gone, and nothing after they are back', async () => {
    await cluster.kubectl(['delete', 'service', 'linkerd-policy', `--namespace=${MESH_NAMESPACE}`]);
    assert.deepEqual(await found('--wait', '0s'), [
      ['control plane Services exist', 'missing Services: linkerd-policy'],
    ]);
    await mesh.apply('upgrade');
    await cluster.kubectl(['delete', 'daemonset', 'nodemesh-keeper', `--namespace=${MESH_NAMESPACE}`]);
    assert.deepEqual(await found('--wait', '0s'), [
      ['cni plugin DaemonSet exists', 'missing DaemonSets: nodemesh-keeper'],
    ]);
    await mesh.installNodes();
    assert.deepEqual(await found('--wait', '2m'), []);
  });
});
