// SPDX-License-Identifier: Apache-2.0
// The control plane in its form for high availability, a replica of each part on each node: its pods die one by one
// while applications are rolled out and certificates of thirty seconds are renewed, then the API server is away and
// etcd is restarted. Nobody on a node notices.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { ENROLLED_CONDITION } from '#lib/registry/model.ts';
import { scale } from '../faults/scale.ts';
import { type Cluster, type KubernetesObject, openCluster } from './cluster.ts';
import {
  type Component,
  componentSelector,
  components,
  type Installation,
  installationOn,
} from './installation.ts';
import { application, service } from './objects.ts';
import { type StandIn, standInsSettled, startStandIns } from './stand-in.ts';

const SHOP = 'availability-shop';
const IDLE = ['sleep', 'infinity'];

interface Pod extends KubernetesObject {
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly { readonly containerID?: string; readonly restartCount: number }[];
  };
}

describe('high availability', { timeout: 290_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let standIns: readonly StandIn[] = [];
  let replicas = 0;

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    replicas = cluster.nodes.length;
    await mesh.removeAll();
    await cluster.makeNamespace(SHOP);
    await cluster.kubectl(['annotate', 'namespace', SHOP, 'linkerd.io/inject=enabled']);
    const names = ['web', 'cart', 'rolling'];
    await cluster.apply(
      names.flatMap((name) => [
        { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace: SHOP } },
        application({ namespace: SHOP, name, replicas, command: IDLE, serviceAccount: name }),
        service(SHOP, name, 8080),
      ]),
    );
    await mesh.apply('install', '--crds');
    const values = ['identity.issuer.issuanceLifetime=30s', 'identity.issuer.clockSkewAllowance=1s'];
    const sets = [...values, `controllerReplicas=${replicas}`].flatMap((value) => ['--set', value]);
    await mesh.apply('install', '--ha', ...sets);
    for (const component of components) await mesh.ready(component, replicas);
    for (const name of names) await cluster.podsReady(SHOP, `app=${name}`, replicas);
    const targets = await Promise.all(
      names.map(async (name) => {
        const { spec } = await cluster.get<KubernetesObject & { spec: { clusterIP: string } }>([
          'service',
          `--namespace=${SHOP}`,
          name,
        ]);
        return { name, namespace: SHOP, ip: spec.clusterIP, port: 8080 };
      }),
    );
    const accounts = { client: `web.${SHOP}`, server: `cart.${SHOP}` };
    standIns = await startStandIns(cluster, { namespace: mesh.namespace, targets, ...accounts });
    await standInsSettled(cluster, standIns);
  });
  after(async () => {
    for (const standIn of standIns) standIn.close();
    if (cluster === undefined) return;
    await mesh.removeAll();
    await cluster.close();
  });

  const podsOf = (namespace: string, selector: string): Promise<readonly Pod[]> =>
    cluster.list<Pod>(['pods', `--namespace=${namespace}`, `--selector=${selector}`]);

  const isEnrolled = (pod: Pod): boolean =>
    pod.status.conditions?.some(({ type, status }) => type === ENROLLED_CONDITION && status === 'True') ===
    true;

  /** What is still missing for every pod of the shop to be in the mesh, and for every node to know all of them. */
  async function missing(): Promise<string[]> {
    const pods = await podsOf(SHOP, 'app');
    const outside = pods
      .filter((pod) => !isEnrolled(pod))
      .map(({ metadata }) => `${metadata.name} is not in the mesh`);
    const unknown = ['web', 'cart', 'rolling'].flatMap((name) => {
      const identity = `${name}.${SHOP}.serviceaccount.identity.linkerd.cluster.local`;
      const wanted = pods
        .filter(({ metadata }) => metadata.labels?.['app'] === name)
        .map(({ status }) => `${status.podIP} ${identity}`)
        .sort()
        .join();
      return standIns.flatMap((standIn) => {
        const known = standIn.endpointsOf(name)?.join();
        return known === wanted ? [] : [`${standIn.node} knows ${name} as ${known}, not ${wanted}`];
      });
    });
    return [...outside, ...unknown];
  }

  async function inOrder(): Promise<void> {
    let left: string[] = [];
    await cluster
      .waitFor('every node to know the pods as they are', async () => {
        left = await missing();
        return left.length === 0;
      })
      .catch((error: unknown) => assert.fail(`${String(error)}\n${left.join('\n')}`));
  }

  const noFailures = (): void =>
    assert.deepEqual(
      standIns.flatMap(({ failures }) => failures),
      [],
    );

  /** A destination that was known is never without endpoints, and never a stranger. */
  const noLostDestinations = (): void => {
    for (const { lines, node } of standIns) {
      const lost = lines.filter((line) => line.what === 'destination' && (line.endpoints?.length ?? 0) === 0);
      assert.deepEqual(lost, [], node);
    }
  };

  const ways: readonly ((pod: Pod) => Promise<void>)[] = [
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
    const before = await podsOf(mesh.namespace, selector);
    const pod = before[index % before.length];
    assert.ok(pod);
    await ways[index % ways.length]?.(pod);
    await cluster.waitFor(`another ${component} in the place of ${pod.metadata.name}`, async () => {
      const now = await podsOf(mesh.namespace, selector);
      const [same] = now.filter(({ metadata }) => metadata.uid === pod.metadata.uid);
      const restarts = ({ status }: Pod): number => status.containerStatuses?.[0]?.restartCount ?? 0;
      return same === undefined || restarts(same) > restarts(pod);
    });
    await mesh.ready(component, replicas);
  }

  it('pods of the control plane die one by one, a rollout and renewals go on', async () => {
    const began = standIns.map(({ beat }) => beat);
    const beganMs = performance.now();
    const rolling = new AbortController();
    let rollouts = 0;
    const rollOut = async (): Promise<void> => {
      for (; !rolling.signal.aborted; rollouts++) {
        await cluster.kubectl(['rollout', 'restart', 'deployment/rolling', `--namespace=${SHOP}`]);
        await cluster.kubectl(['rollout', 'status', 'deployment/rolling', `--namespace=${SHOP}`]);
      }
    };
    const rolled = rollOut();
    const rounds = scale.clusterKills;
    for (let round = 0; round < rounds; round++)
      for (const component of components)
        for (let index = 0; index < 3; index++) await killOne(component, index);
    rolling.abort();
    await rolled;
    await inOrder();
    noFailures();
    noLostDestinations();
    const seconds = (performance.now() - beganMs) / 1000;
    assert.ok(rollouts >= 1);
    for (const [index, { beat, node }] of standIns.entries()) {
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
