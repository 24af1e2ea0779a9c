// SPDX-License-Identifier: Apache-2.0
// The commands of docs/getting-started.md do what the page says, in its order and as they stand there. Only the image is
// another one: the nodes get none from outside.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { runCommand } from '../../local/command.ts';
import { TEST_IMAGE } from '../../scripts/images/layout.ts';
import { type Cluster, openCluster } from './cluster.ts';
import { type Installation, installationOn, MESH_COMMAND } from './installation.ts';
import { type ClusterPrometheus, exposePrometheus, startPrometheus } from './prometheus.ts';

const PAGE = resolve(import.meta.dirname, '../../docs/getting-started.md');
const KUBECTL = resolve(import.meta.dirname, '../kind/kubectl');
const NS = 'shop';
const MONITORING = 'monitoring';

/** The blocks that are marked as commands, in their order. */
const blocks = [...readFileSync(PAGE, 'utf8').matchAll(/^```shell\n(.*?)^```$/gms)].map(([, text = '']) =>
  text.replaceAll('image: node:26', `image: ${TEST_IMAGE}`),
);

describe('docs/getting-started.md', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let prometheus: ClusterPrometheus | undefined;
  let programs: string;
  let next = 0;

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    programs = mkdtempSync(join(tmpdir(), 'nodemesh-started-'));
    symlinkSync(MESH_COMMAND, join(programs, 'mesh'));
    symlinkSync(KUBECTL, join(programs, 'kubectl'));
    await mesh.removeAll();
    // The page makes and deletes it; here also if it fails in between.
    await cluster.makeNamespace(NS);
    await cluster.makeNamespace(MONITORING);
  });
  after(async () => {
    rmSync(programs, { recursive: true });
    await prometheus?.close();
    if (cluster === undefined) return;
    await mesh.removeAll();
    await cluster.close();
  });

  /** Runs the next block, which must begin so. Its output. */
  async function follow(begin: string): Promise<string> {
    const block = blocks[next++] ?? '';
    assert.ok(block.startsWith(begin), block);
    const env = {
      ...process.env,
      PATH: `${programs}:${process.env['PATH'] ?? ''}`,
      KUBECONFIG: cluster.kubeconfig,
      CLUSTER: cluster.layout.name,
    };
    const argv = ['timeout', '200', 'bash', '-c', `set -xeuo pipefail\n${block}`];
    const result = await runCommand(argv, { env });
    assert.equal(result.code, 0, `${block}\n${result.stdout}\n${result.stderr}`);
    return result.stdout;
  }

  it('installs the mesh on a cluster that fits', async () => {
    assert.match(await follow('mesh check --pre'), /Status check results are √/);
    await follow('mesh install --crds');
    assert.match(await follow('mesh check'), /Status check results are √/);
  });

  it('meshes an application that runs', async () => {
    await follow('kubectl apply -f -');
    const pods = await cluster.kubectl(['get', 'pods', '-n', NS, '-o', 'name']);
    assert.match(await follow('kubectl annotate namespace shop linkerd.io/inject=enabled'), /Status .* √/);
    assert.equal(
      await cluster.kubectl(['get', 'pods', '-n', NS, '-o', 'name']),
      pods,
      'no pod is another one',
    );
  });

  it('shows its requests', async () => {
    prometheus = await startPrometheus(cluster);
    await exposePrometheus(cluster, MONITORING);
    const asked = prometheus;
    const counted = `sum(increase(response_total{direction="inbound", deployment="web"}[1m])) > 30`;
    await cluster.waitFor('requests are scraped', async () => (await asked.query(counted)).length > 0);
    const shown = await follow('mesh stat deploy -n shop');
    assert.match(shown, /^client +1\/1( +-){6}$/m);
    assert.match(shown, /^web +2\/2 +(?:100|[5-9]\d)\.\d\d% +[\d.]+rps( +\d+ms){3} +\d+$/m);
    assert.match(shown, /^client +web +shop +shop +√/m);
  });

  it('takes the application and then the mesh out again', async () => {
    await follow('kubectl annotate namespace shop linkerd.io/inject-');
    await follow('kubectl delete namespace shop\nmesh uninstall-cni\n');
    assert.equal(next, blocks.length, 'every block was run');
    assert.deepEqual(await cluster.list(['namespace,crd', '--selector=nodemesh.io/control-plane-ns']), []);
  });
});
