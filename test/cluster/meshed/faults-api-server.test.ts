// SPDX-License-Identifier: Apache-2.0
// The API server is away for a minute while agents serve, and one of them is killed meanwhile: it serves from what the
// keeper has, only what it held is lost, and all comes back by itself.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { scale } from '../../faults/scale.ts';
import type { Cluster } from '../cluster.ts';
import { ALL_WAYS, type FaultScene, openFaultScene, RATE, stopped } from '../fault-scene.ts';
import { clientPod } from '../load-pods.ts';
import { untilReason } from '../mesh.ts';
import { sharedMesh } from '../shared-mesh.ts';

const NS = 'api-server-faults';
const INJECT = 'linkerd.io/inject';
/** The second one, going on alone, would take its own silence for that of the nodes. */
const API_PARTS = ['kube-apiserver', 'kube-controller-manager'] as const;
const AWAY_MS = scale.clusterAwayMs;
/** From the death of an agent until its peers have given up what it held. */
const NOTICED_MS = 20_000;
/** Requests wait for the next agent, which takes a second or two, and more on a machine that runs much else. */
const PATIENCE_MS = 30_000;
const GAP_MS_MAX = 15_000;

describe('agents without the API server', { timeout: scale.soak ? 3_600_000 : 580_000 }, () => {
  const shared = sharedMesh();
  let scene: FaultScene;
  let cluster: Cluster;

  before(async () => {
    const opened = await shared.open();
    ({ cluster } = opened);
    scene = await openFaultScene(opened, NS);
  });
  after(async () => {
    if (cluster === undefined) return shared.close();
    try {
      for (const part of API_PARTS)
        if (!(await cluster.control.runs(part))) await cluster.control.start(part);
      await cluster.startWatchersAnew();
    } finally {
      await shared.close();
    }
  });

  it('go on while the API server is away, also one that is killed meanwhile', async (t) => {
    const node = cluster.nodes[1] ?? assert.fail('two nodes');
    const agent = async (): Promise<string> =>
      (await node.output(['pgrep', '-xf', 'node agent/main.ts'])).trim();
    await cluster.apply([clientPod(NS, 'late', { node: node.name, annotations: { [INJECT]: 'disabled' } })]);
    await cluster.podsReady(NS, 'app=late', 1);
    const running = await scene.loads(ALL_WAYS, undefined, PATIENCE_MS);
    const was = await agent();
    for (const part of API_PARTS) await cluster.control.kill(part);
    await sleep(AWAY_MS / 2);
    for (const load of running) load.mark('killed');
    await node.output(['kill', '-KILL', ...was.split('\n')]);
    await sleep(AWAY_MS / 2);
    assert.notEqual(await agent(), was);
    for (const part of API_PARTS) await cluster.control.start(part);
    await cluster.waitFor(
      'the API server answers',
      async () => (await cluster.tryKubectl(['get', 'nodes'])).code === 0,
    );
    // A kubelet looks for new pods in its own time, up to a minute later; this takes the mesh alone.
    await cluster.kubectl([
      'annotate',
      '--overwrite',
      'pod',
      'late',
      `${INJECT}=enabled`,
      `--namespace=${NS}`,
    ]);
    await untilReason(cluster, NS, ['late'], 'Enrolled');
    // What the dead agent held is reset, or answered with 502 by the agent at the other end, which says 504 to
    // what has waited for 3 s. Nothing else fails, and nothing is refused.
    const lost = ['reset-kept-before', 'reset-kept-amid', 'reset-new', 'eof', 'bad-status'] as const;
    const reports = await stopped(t, running, {
      allow: lost.map((kind) => ({ kind, atMost: RATE * 3 })),
      minRate: RATE * 0.7,
      gapMaxMs: GAP_MS_MAX,
    });
    assert.deepEqual(reports[0]?.failures, [], 'the other node has no part in it');
    for (const { failures, marks } of reports) {
      const killedMs = marks[0]?.atMs ?? 0;
      const strange = failures.filter(
        ({ atMs, kind, detail }) =>
          atMs < killedMs ||
          atMs > killedMs + NOTICED_MS ||
          (kind === 'bad-status' && !/^50[24]/.test(detail)),
      );
      assert.deepEqual(strange, []);
    }
    await scene.untilMtls(node.name);
  });
});
