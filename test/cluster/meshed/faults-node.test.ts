// SPDX-License-Identifier: Apache-2.0
// What happens to nodes, under load: kubelet and containerd are killed, a node loses power and boots, a node is added
// and another one drained. Only what is killed is missed, nothing starts outside the mesh, and all comes back by itself.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { capture } from '../../e2e/capture.ts';
import { addNode, rebootNode, removeLastNode } from '../../kind/nodes.ts';
import { requireCluster } from '../../kind/notes.ts';
import { type Cluster, type KubernetesObject, openCluster } from '../cluster.ts';
import { spread, starter, witness } from '../fault-pods.ts';
import { ALL_WAYS, type FaultScene, openFaultScene, RATE, stopped } from '../fault-scene.ts';
import { type Installation, installationOn } from '../installation.ts';
import { untilReason } from '../mesh.ts';
import { sharedMesh } from '../shared-mesh.ts';

const NS = 'node-faults';
const IMAGES = [resolve(import.meta.dirname, '../../../build/images/nodemesh.tar')];
/** Several rounds of the kubelet, of probes and of CNI STATUS. */
const AWAY_MS = 15_000;
/** Of a request of the load. */
const TIMEOUT_MS = 5_000;

interface Pod extends KubernetesObject {
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP?: string;
    readonly containerStatuses?: readonly { readonly restartCount: number }[];
  };
}

describe('a node of a cluster with the mesh', { timeout: 800_000 }, () => {
  const shared = sharedMesh();
  let scene: FaultScene;
  let cluster: Cluster;
  let mesh: Installation;
  /** With the node that is added. */
  let wider: Cluster | undefined;
  let [first, second] = ['', ''];

  const nodeReady = (name: string): Promise<string> =>
    cluster.kubectl(['wait', '--for=condition=Ready', 'node', name, '--timeout=240s']);
  const podNamed = (name: string): Promise<Pod> => cluster.get<Pod>(['pod', name, `--namespace=${NS}`]);
  const restarts = ({ status }: Pod): number => status.containerStatuses?.[0]?.restartCount ?? 0;

  before(async () => {
    const opened = await shared.open();
    ({ cluster, mesh } = opened);
    [first = '', second = ''] = cluster.nodes.map(({ name }) => name);
    scene = await openFaultScene(opened, NS);
  });
  after(async () => {
    if (cluster === undefined) return shared.close();
    try {
      await cluster.kubectl(['uncordon', second]);
      await wider?.close();
    } finally {
      const now = requireCluster(cluster.layout.name);
      if (now.nodes.length > cluster.nodes.length) await removeLastNode(now);
      await shared.close();
    }
  });

  for (const part of ['kubelet', 'containerd'] as const) {
    it(`loses its ${part}, and nobody's requests fail`, async (t) => {
      const node = cluster.nodes[1] ?? assert.fail('two nodes');
      const running = await scene.loads(ALL_WAYS);
      await node.kill(part);
      await sleep(AWAY_MS);
      assert.equal(await node.runs(part), false);
      await node.start(part);
      await nodeReady(second);
      await scene.startsMeshed(`after-${part}`, second);
      await stopped(t, running);
      await scene.untilMtls(second);
    });
  }

  it('loses power and boots: its pods start in the mesh again, and nothing of theirs is sent in plain text', async (t) => {
    const layout = cluster.layout.nodes[1] ?? assert.fail('two nodes');
    await cluster.apply(witness(NS, 'witness', first));
    await cluster.podsReady(NS, 'app=witness', 1);
    // The starter asks once, and what it is told shall come from the mesh.
    await untilReason(cluster, NS, ['witness'], 'Enrolled');
    await scene.untilServed('caller', 'witness');
    await cluster.apply([starter(NS, 'starter', second, await scene.addressOf('witness'))]);
    await cluster.podsReady(NS, 'app=starter', 1);
    const known = `${scene.identity}\n`;
    const place = { namespace: NS, pod: 'starter' };
    await cluster.waitFor(
      'the first start tells who it is',
      async () => (await cluster.logs(place)) === known,
    );
    const was = await podNamed('starter');
    const folder = mkdtempSync(join(tmpdir(), 'nodemesh-boot-'));
    const file = join(folder, 'wire.pcap');
    const tape = await capture(cluster.layout.nodes[0]?.netns ?? '', 'eth0', file);
    const [stays = assert.fail()] = await scene.loads([['caller', 'near']]);
    const [returns = assert.fail()] = await scene.loads([['caller', 'far']], ['http-new', 'http-kept']);
    try {
      returns.mark('off');
      await rebootNode(cluster.layout, layout);
      await cluster.waitFor('the pods are started again', async () => {
        for (const name of ['far', 'peer', 'starter']) if (restarts(await podNamed(name)) === 0) return false;
        return true;
      });
      await mesh.nodePodsReady('agent');
      await mesh.nodePodsReady('keeper');
      await cluster.podsReady(NS, 'app=far', 1);
      await untilReason(cluster, NS, ['far', 'peer', 'starter'], 'Enrolled');
      await cluster.waitFor('the second start tells', async () => (await cluster.logs(place)) !== '');
      assert.equal(await cluster.logs(place), known);
      assert.equal((await podNamed('starter')).metadata.uid, was.metadata.uid);
      await scene.untilServed('caller', 'far');
      await scene.untilServed('peer', 'near');
      returns.mark('back');
      await scene.untilMtls(second);
      await sleep(2 * TIMEOUT_MS);
    } finally {
      await tape.stop();
    }
    await stopped(t, [stays]);
    const report = await returns.stop();
    const at = (name: string): number => report.marks.find((mark) => mark.name === name)?.atMs ?? 0;
    // What was asked while it was off is given up so much later, or more where the client is given no turn.
    assert.deepEqual(
      report.failures.filter(
        ({ atMs, dueMs }) => atMs < at('off') || (dueMs > at('back') && atMs > at('back') + TIMEOUT_MS),
      ),
      [],
    );
    t.diagnostic(`whole again ${((at('back') - at('off')) / 1000).toFixed(0)} s after the power went`);
    const wire = readFileSync(file);
    rmSync(folder, { recursive: true });
    assert.ok(wire.includes('transport.l5d.io/v1'), 'the capture has seen the mesh');
    const inPlain = ['x-nonce', ' far\n', known].filter((text) => wire.includes(text));
    assert.deepEqual(inPlain, []);
  });

  it('is added, takes in the mesh what a drained one gives up, and no request fails', async (t) => {
    // On the first two nodes: what the second one gives up can go to the new one only.
    const others = cluster.nodes.slice(2).map(({ name }) => name);
    await cluster.apply(spread(NS, 'web', 2, others));
    await cluster.podsReady(NS, 'app=web', 2);
    await scene.untilServed('caller', 'web');
    const running = await scene.loads([['caller', 'web']], ['http-new', 'http-kept', 'tcp-new']);
    running[0]?.mark('a node is added');
    await addNode(cluster.layout, IMAGES);
    wider = await openCluster(cluster.layout.name);
    const added = wider.nodes.at(-1)?.name ?? '';
    const onAll = installationOn(wider);
    await onAll.nodePodsReady('keeper');
    await onAll.nodePodsReady('agent');
    running[0]?.mark('another one is drained');
    await cluster.kubectl(
      ['drain', second, '--ignore-daemonsets', '--delete-emptydir-data', '--force', '--timeout=240s'],
      { timeoutMs: 260_000 },
    );
    const pods = (await wider.podsReady(NS, 'app=web', 2)) as readonly Pod[];
    assert.deepEqual(pods.map(({ spec }) => spec.nodeName).sort(), [first, added].sort());
    const moved = pods.find(({ spec }) => spec.nodeName === added)?.metadata.name ?? '';
    await untilReason(wider, NS, [moved], 'Enrolled');
    await scene.untilMtls(added, wider);
    const [report] = await stopped(t, running);
    assert.ok((report?.byServer[moved] ?? 0) > 0, `${moved} has served`);
    assert.ok(report !== undefined && report.succeeded > RATE);
  });
});
