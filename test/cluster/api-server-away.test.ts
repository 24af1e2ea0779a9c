// SPDX-License-Identifier: Apache-2.0
// The API server is away and etcd is restarted, with a replica of each part of the control plane on each node: streams
// go on, and what comes after is no storm.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { scale } from '../faults/scale.ts';
import { type Cluster, openCluster } from './cluster.ts';
import { type Component, componentSelector, type Installation, installationOn } from './installation.ts';
import { openShop, type Shop } from './shop.ts';

const SHOP = 'api-server-shop';
/** What the control plane watches, and not what the test itself asks for. */
const WATCHED = new Set(['namespaces', 'nodes', 'replicasets', 'services', 'endpointslices', 'httproutes']);
/** Of Kubernetes' own parts, about 40; a storm has hundreds. */
const OTHERS_CALLS_MAX = 80;

describe('without the API server', { timeout: scale.soak ? 3_600_000 : 580_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let shop: Shop;
  let replicas = 0;

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    replicas = cluster.nodes.length;
    await mesh.removeAll();
    await mesh.installControlPlane('--ha', '--set', `controllerReplicas=${replicas}`);
    shop = await openShop(cluster, mesh, SHOP);
    await mesh.controlPlaneReady(replicas);
    await shop.beginAgain();
  });
  after(async () => {
    shop?.close();
    if (cluster === undefined) return;
    await cluster.startWatchersAnew();
    await mesh.removeAll();
    await cluster.close();
  });

  /** Sums of a counter of every replica, by the values of `labels`. */
  async function counted(
    component: Component,
    name: string,
    ...labels: string[]
  ): Promise<Map<string, number>> {
    const port = component === 'identity' ? 9990 : 9996;
    const sums = new Map<string, number>();
    for (const { metadata } of await shop.podsOf(mesh.namespace, componentSelector(component))) {
      const path = `/api/v1/namespaces/${mesh.namespace}/pods/${metadata.name}:${port}/proxy/metrics`;
      for (const { series, value } of samplesOf(await cluster.kubectl(['get', '--raw', path]), name)) {
        const key = labels.map((label) => series.get(label) ?? '').join(' ');
        sums.set(key, (sums.get(key) ?? 0) + value);
      }
    }
    return sums;
  }

  it('the API server is away and etcd is restarted: streams go on, and no storm comes after', async (t) => {
    const parts = ['identity', 'destination'] as const;
    const streams = shop.standIns.map(({ beat }) => beat.connects);
    const before = await Promise.all(parts.map((part) => counted(part, 'nodemesh_kubernetes_lists_total')));
    await cluster.control.kill('kube-apiserver');
    // It gives up without the API server where there is another to take over. Going on it would take its own silence for
    // that of the nodes, and every pod for one that is not ready.
    await cluster.control.kill('kube-controller-manager');
    await sleep(scale.apiServerAwayMs);
    await cluster.control.start('kube-apiserver');
    await cluster.control.kill('etcd');
    await cluster.control.start('etcd');
    await cluster.control.start('kube-controller-manager');
    // What happens from now on is seen by everybody.
    await cluster.waitFor('the API server to take changes', async () => {
      const args = ['rollout', 'restart', 'deployment/rolling', `--namespace=${SHOP}`];
      return (await cluster.tryKubectl(args)).code === 0;
    });
    await cluster.kubectl(['rollout', 'status', 'deployment/rolling', `--namespace=${SHOP}`]);
    await shop.inOrder();
    shop.unharmed();
    assert.deepEqual(
      shop.standIns.map(({ beat }) => beat.connects),
      streams,
      'no node stream was begun anew',
    );
    // A list was taken again only where the API server had forgotten the version (410), and no other list was taken.
    let relisted = 0;
    for (const [index, part] of parts.entries()) {
      const relists = await counted(part, 'nodemesh_kubernetes_relists_total', 'kind');
      const errors = await counted(part, 'nodemesh_kubernetes_errors_total', 'kind', 'call', 'status');
      for (const [kind, count] of relists) assert.equal(count, errors.get(`${kind} watch 410`) ?? 0, kind);
      const all = [...relists.values()].reduce((sum, count) => sum + count, 0);
      const lists = await counted(part, 'nodemesh_kubernetes_lists_total');
      assert.equal((lists.get('') ?? 0) - (before[index]?.get('') ?? 0), all, `lists of ${part}`);
      relisted += all;
    }
    // It counts from its own start, whoever asked: the kubelets and controllers too.
    const text = await cluster.kubectl(['get', '--raw', '/metrics']);
    const asked = samplesOf(text, 'apiserver_request_total').filter(
      ({ series }) => series.get('scope') === 'cluster' && WATCHED.has(series.get('resource') ?? ''),
    );
    for (const verb of ['LIST', 'WATCH']) {
      const calls = asked.filter(({ series }) => series.get('verb') === verb);
      const sum = calls.reduce((total, { value }) => total + value, 0);
      t.diagnostic(`${sum} calls of ${verb}, ${relisted} of them ours`);
      assert.ok(
        sum > 0 && sum <= relisted + OTHERS_CALLS_MAX,
        `${sum} calls of ${verb}, ${relisted} of them ours`,
      );
    }
  });
});

/** One counter of an exposition. */
function samplesOf(text: string, name: string): { series: Map<string, string>; value: number }[] {
  return text.split('\n').flatMap((line) => {
    if (!line.startsWith(`${name}{`)) return [];
    const series = new Map<string, string>();
    for (const [, label = '', value = ''] of line.matchAll(/(\w+)="([^"]*)"/g)) series.set(label, value);
    return [{ series, value: Number(line.slice(line.lastIndexOf(' '))) }];
  });
}
