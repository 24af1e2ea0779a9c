// SPDX-License-Identifier: Apache-2.0
// The control plane in its form for high availability, a replica of each part on each node: its pods die one by one
// while applications are rolled out and certificates of thirty seconds are renewed. Nobody on a node notices.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { scale } from '../faults/scale.ts';
import { type Cluster, openCluster } from './cluster.ts';
import {
  type Component,
  componentSelector,
  components,
  type Installation,
  installationOn,
} from './installation.ts';
import { openShop, type Shop, type ShopPod } from './shop.ts';

describe('high availability', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let shop: Shop;
  let replicas = 0;

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    replicas = cluster.nodes.length;
    await mesh.removeAll();
    const values = ['identity.issuer.issuanceLifetime=30s', 'identity.issuer.clockSkewAllowance=1s'];
    const sets = [...values, `controllerReplicas=${replicas}`].flatMap((value) => ['--set', value]);
    await mesh.installControlPlane('--ha', ...sets);
    shop = await openShop(cluster, mesh, 'availability-shop');
    await mesh.controlPlaneReady(replicas);
    await shop.beginAgain();
  });
  after(async () => {
    shop?.close();
    if (cluster === undefined) return;
    await mesh.removeAll();
    await cluster.close();
  });

  const ways: readonly ((pod: ShopPod) => Promise<void>)[] = [
    async (pod) => {
      const node = cluster.nodes.find(({ name }) => name === pod.spec.nodeName);
      const id = pod.status.containerStatuses?.[0]?.containerID?.replace('containerd://', '') ?? '';
      await node?.output(['ctr', '--namespace=k8s.io', 'task', 'kill', '--signal=SIGKILL', id]);
    },
    async (pod) => {
      await cluster.kubectl(['delete', 'pod', `--namespace=${mesh.namespace}`, pod.metadata.name]);
    },
    async (pod) => {
      const at = [`--namespace=${mesh.namespace}`, pod.metadata.name];
      await cluster.kubectl(['delete', 'pod', '--grace-period=0', '--force', ...at]);
    },
  ];

  async function killOne(component: Component, index: number): Promise<void> {
    const selector = componentSelector(component);
    const before = await shop.podsOf(mesh.namespace, selector);
    const pod = before[index % before.length];
    assert.ok(pod);
    await ways[index % ways.length]?.(pod);
    await cluster.waitFor(`another ${component} in the place of ${pod.metadata.name}`, async () => {
      const now = await shop.podsOf(mesh.namespace, selector);
      const [same] = now.filter(({ metadata }) => metadata.uid === pod.metadata.uid);
      const restarts = ({ status }: ShopPod): number => status.containerStatuses?.[0]?.restartCount ?? 0;
      return same === undefined || restarts(same) > restarts(pod);
    });
    await mesh.ready(component, replicas);
  }

  it('pods of the control plane die one by one, a rollout and renewals go on', async () => {
    const began = shop.standIns.map(({ beat }) => beat);
    const beganMs = performance.now();
    const rolling = new AbortController();
    let rollouts = 0;
    const rollOut = async (): Promise<void> => {
      for (; !rolling.signal.aborted; rollouts++) {
        await shop.rollOut();
      }
    };
    const rolled = rollOut();
    const rounds = scale.clusterKills;
    for (let round = 0; round < rounds; round++)
      for (const component of components)
        for (let index = 0; index < 3; index++) await killOne(component, index);
    rolling.abort();
    await rolled;
    await shop.inOrder();
    shop.unharmed();
    const seconds = (performance.now() - beganMs) / 1000;
    assert.ok(rollouts >= 1);
    for (const [index, { beat, node }] of shop.standIns.entries()) {
      const since = began[index];
      assert.ok(since);
      // Four identities or more, each renewed every twenty seconds or so.
      assert.ok(
        beat.certificates - since.certificates >= Math.floor(seconds / 30) * 4,
        `renewals on ${node}`,
      );
      assert.ok(beat.dials - since.dials > seconds, `connections from ${node}`);
      assert.ok(beat.echoes - since.echoes > seconds, `the long connections from ${node}`);
    }
  });
});
