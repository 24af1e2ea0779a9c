// SPDX-License-Identifier: Apache-2.0
// Somebody deletes the control plane together with agents and keepers, while pods are in the mesh and before
// mesh uninstall-cni: that still takes everything off the nodes, and the pods speak to each other as without a mesh.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { HTTP_PORT } from '../faults/load.ts';
import { type Cluster, openCluster } from './cluster.ts';
import { clientPod, echoPod, loadPrograms } from './load-pods.ts';
import { type Installation, installationOn, MESH_NAMESPACE } from './installation.ts';
import { untilReason } from './mesh.ts';
import { newIn, nodeFacts, podOnEachNode } from './node-facts.ts';

const NS = 'uninstall-late';

describe('a mesh of which all is deleted but what is on the nodes', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let untouched: ReadonlyMap<string, readonly string[]>;

  const facts = async (): Promise<Map<string, readonly string[]>> =>
    new Map(
      await Promise.all(cluster.nodes.map(async (node) => [node.name, await nodeFacts(node)] as const)),
    );
  const ask = () =>
    cluster.exec({ namespace: NS, pod: 'caller' }, [
      'curl',
      '-sS',
      '--max-time',
      '5',
      '-H',
      'x-nonce: asked',
      `http://far.${NS}:${HTTP_PORT}/`,
    ]);

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    const [near = '', far = ''] = cluster.nodes.map(({ name }) => name);
    await mesh.removeAll();
    await cluster.makeNamespace(NS);
    await cluster.apply([
      loadPrograms(NS),
      ...echoPod(NS, 'far', { node: far }),
      clientPod(NS, 'caller', { node: near }),
    ]);
    for (const pod of ['far', 'caller']) await cluster.podsReady(NS, `app=${pod}`, 1);
    await podOnEachNode(cluster, NS);
    untouched = await facts();
    await mesh.installControlPlane();
    await mesh.installNodes();
    await mesh.controlPlaneReady();
    await mesh.nodePodsReady('keeper');
    await mesh.nodePodsReady('agent');
    await cluster.kubectl(['annotate', 'namespace', NS, 'linkerd.io/inject=enabled']);
    await untilReason(cluster, NS, ['far', 'caller'], 'Enrolled');
  });
  after(async () => {
    if (cluster === undefined) return;
    try {
      await mesh.removeAll();
    } finally {
      await cluster.close();
    }
  });

  it('does not let traffic round it while its agents are gone, and is then taken off the nodes', async () => {
    const objects = await mesh.printed('uninstall', '--crds', '--force');
    await cluster.kubectl(['delete', '--ignore-not-found', '--wait', '--filename=-'], { input: objects });
    const gone = await cluster.tryKubectl(['get', 'namespace', MESH_NAMESPACE]);
    assert.match(gone.stderr, /not found/);
    assert.notEqual((await ask()).code, 0);

    const refused = await mesh.run('uninstall-cni');
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, new RegExp(`${NS}/caller`));
    await mesh.printed('uninstall-cni', '--force');
    const { stdout, stderr } = await ask();
    assert.equal(stdout, 'asked far\n', stderr);
    for (const [name, now] of await facts()) {
      const was = untouched.get(name) ?? [];
      assert.deepEqual(newIn(now, was), [], `${name} has more than before`);
      assert.deepEqual(newIn(was, now), [], `${name} has less than before`);
    }
  });
});
