// SPDX-License-Identifier: Apache-2.0
// Destination, then identity, are away for a minute while agents serve: what is known goes on without a failed request, a
// new pod waits and does not start outside the mesh, and all comes back by itself.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { scale } from '../../faults/scale.ts';
import { type Cluster, isEnding, isReady, type KubernetesObject } from '../cluster.ts';
import { ALL_WAYS, type FaultScene, openFaultScene, stopped } from '../fault-scene.ts';
import { componentSelector, MESH_NAMESPACE } from '../installation.ts';
import { clientPod } from '../load-pods.ts';
import { untilReason } from '../mesh.ts';
import { sharedMesh } from '../shared-mesh.ts';

const NS = 'control-plane-faults';
const AWAY_MS = scale.clusterAwayMs;

describe('agents without a part of the control plane', { timeout: scale.soak ? 3_600_000 : 580_000 }, () => {
  const shared = sharedMesh();
  let scene: FaultScene;
  let cluster: Cluster;
  let [first, second] = ['', ''];

  before(async () => {
    const opened = await shared.open();
    ({ cluster } = opened);
    scene = await openFaultScene(opened, NS);
    [first = '', second = ''] = cluster.nodes.map(({ name }) => name);
  });
  after(() => shared.close());

  /** In place of a crash that lasts: nothing starts it again. */
  async function takeAway(part: 'destination' | 'identity'): Promise<void> {
    const at = [`--namespace=${MESH_NAMESPACE}`];
    await cluster.kubectl(['scale', ...at, `deployment/linkerd-${part}`, '--replicas=0']);
    const selector = `--selector=${componentSelector(part)}`;
    // One that vanished before the controller knows that there shall be none would be replaced.
    await cluster.waitFor(`every ${part} to be told to end`, async () =>
      (await cluster.list(['pods', ...at, selector])).every(isEnding),
    );
    await cluster.kubectl(['delete', 'pods', ...at, selector, '--grace-period=0', '--force']);
    // Objects go at once, processes a second later: until then an agent may be told of a new pod.
    await cluster.waitFor(`no ${part}`, async () => {
      const ran = await Promise.all(
        cluster.nodes.map((node) => node.run(['pgrep', '-xf', `node ${part}/main.ts`])),
      );
      return ran.every(({ code }) => code === 1);
    });
  }
  const bringBack = (part: 'destination' | 'identity'): Promise<string> =>
    cluster.kubectl(['scale', `--namespace=${MESH_NAMESPACE}`, `deployment/linkerd-${part}`, '--replicas=1']);

  for (const part of ['destination', 'identity'] as const) {
    it(`go on while ${part} is away, and what is new waits for it`, async (t) => {
      const late = `without-${part}`;
      const account = { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: late, namespace: NS } };
      // Of an account without a certificate so far.
      const pod = clientPod(NS, late, { node: second }) as { spec: object };
      const running = await scene.loads(ALL_WAYS);
      await takeAway(part);
      await cluster.apply([account, { ...pod, spec: { ...pod.spec, serviceAccountName: late } }]);
      await sleep(AWAY_MS);
      const waiting = await cluster.get<KubernetesObject & { status: { podIP?: string } }>([
        'pod',
        late,
        `--namespace=${NS}`,
      ]);
      assert.deepEqual([isReady(waiting), waiting.status.podIP], [false, undefined]);
      await bringBack(part);
      await untilReason(cluster, NS, [late], 'Enrolled');
      await cluster.podsReady(NS, `app=${late}`, 1);
      await stopped(t, running);
      await scene.untilMtls(first);
    });
  }
});
