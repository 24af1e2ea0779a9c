// SPDX-License-Identifier: Apache-2.0
// Of destination's replicas one does what only one may do: it tells Events about pods and takes startup taints off.
// When it dies another takes over, and nothing is written twice. And rights of destination whose effect only agents
// see: stand-ins of them are here.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { ENROLLED_CONDITION } from '#lib/registry/model.ts';
import { PAUSE_IMAGE } from '../kind/machine-files.ts';
import { type AccountRule, accountRules } from '../../install/objects/rbac.ts';
import { type Cluster, type KubernetesObject, openCluster } from './cluster.ts';
import { componentSelector, type Installation, installationOn } from './installation.ts';
import { takeAway } from './rights.ts';
import { type StandIn, standInsSettled, startStandIns } from './stand-in.ts';

const SHOP = 'leader-shop';
const TAINT = 'nodemesh.io/agent-not-ready';
const REPLICAS = 2;
/** What a lease lasts without a renewal; and with two replicas' looks at it, on a busy machine. */
const LEASE_MS = 15_000;
const TAKE_OVER_MS = LEASE_MS + 30_000;

interface LeaseObject extends KubernetesObject {
  readonly spec?: {
    readonly holderIdentity?: string;
    readonly acquireTime?: string;
    readonly renewTime?: string;
  };
}
interface NodeObject extends KubernetesObject {
  readonly spec: { readonly taints?: readonly { readonly key: string }[] };
}
interface EventObject extends KubernetesObject {
  readonly reason: string;
  readonly count: number;
}
interface Pod extends KubernetesObject {
  readonly status: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

describe('the leader of the control plane', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let standIns: readonly StandIn[] = [];

  const pod = (name: string, account: string, nodeName: string, annotations: object = {}): object => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: SHOP, annotations },
    spec: {
      nodeName,
      serviceAccountName: account,
      terminationGracePeriodSeconds: 0,
      containers: [{ name: 'main', image: PAUSE_IMAGE, imagePullPolicy: 'Never' }],
    },
  });

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    await mesh.removeAll();
    await cluster.makeNamespace(SHOP);
    await cluster.kubectl(['annotate', 'namespace', SHOP, 'linkerd.io/inject=enabled']);
    await cluster.apply([
      ...['web', 'cart'].map((name) => ({
        apiVersion: 'v1',
        kind: 'ServiceAccount',
        metadata: { name, namespace: SHOP },
      })),
      ...cluster.nodes.flatMap(({ name }) => [
        pod(`web-${name}`, 'web', name),
        pod(`cart-${name}`, 'cart', name),
      ]),
    ]);
    await mesh.installControlPlane('--set', `controllerReplicas=${REPLICAS}`);
    await mesh.controlPlaneReady(REPLICAS);
    const accounts = { client: `web.${SHOP}`, server: `cart.${SHOP}` };
    standIns = await startStandIns(cluster, { namespace: mesh.namespace, targets: [], ...accounts });
    await standInsSettled(cluster, standIns);
  });
  after(async () => {
    for (const standIn of standIns) standIn.close();
    if (cluster === undefined) return;
    await mesh.removeAll();
    await cluster.close();
  });

  const lease = (): Promise<LeaseObject> =>
    cluster.get<LeaseObject>(['lease', 'linkerd-destination', `--namespace=${mesh.namespace}`]);
  const taintsOf = async (node: string): Promise<readonly string[]> =>
    ((await cluster.get<NodeObject>(['node', node])).spec.taints ?? []).map(({ key }) => key);
  const nodeName = (): string => cluster.nodes.at(-1)?.name ?? '';
  const eventsOf = async (name: string): Promise<readonly EventObject[]> =>
    (
      await cluster.list<EventObject>([
        'events',
        `--namespace=${SHOP}`,
        `--field-selector=involvedObject.name=${name}`,
      ])
    ).filter(({ reason }) => reason.startsWith('Mesh'));
  const bothEventsOf = (name: string): Promise<unknown> =>
    cluster.waitFor(`both Events about ${name}`, async () => {
      const reasons = (await eventsOf(name)).map(({ reason }) => reason);
      return reasons.includes('MeshConfigInvalid') && reasons.includes('MeshEnrolled');
    });
  const isEnrolled = async (name: string): Promise<boolean> => {
    const found = await cluster.get<Pod>(['pod', name, `--namespace=${SHOP}`]);
    return (
      found.status.conditions?.some(
        ({ type, status }) => type === ENROLLED_CONDITION && status === 'True',
      ) === true
    );
  };
  async function containerOf(name: string) {
    const { spec, status } = await cluster.get<
      KubernetesObject & {
        spec: { nodeName: string };
        status: { containerStatuses: readonly { containerID: string }[] };
      }
    >(['pod', name, `--namespace=${mesh.namespace}`]);
    const node = cluster.nodes.find((one) => one.name === spec.nodeName);
    assert.ok(node, spec.nodeName);
    return { node, id: status.containerStatuses[0]?.containerID.replace('containerd://', '') ?? '' };
  }
  const destinationLogs = (): Promise<string> =>
    cluster.kubectl([
      'logs',
      `--namespace=${mesh.namespace}`,
      `--selector=${componentSelector('destination')}`,
      '--tail=-1',
    ]);
  const ruleFor = (resource: string, verb: string): AccountRule => {
    const found = accountRules.find(
      ({ account, resources, verbs }) =>
        account === 'linkerd-destination' && resources.includes(resource) && verbs.includes(verb),
    );
    assert.ok(found, resource);
    return found;
  };
  /** Written by all replicas together. */
  async function eventsWritten(): Promise<number> {
    let sum = 0;
    for (const { metadata } of await mesh.ready('destination', REPLICAS)) {
      const path = `/api/v1/namespaces/${mesh.namespace}/pods/${metadata.name}:9996/proxy/metrics`;
      const text = await cluster.kubectl(['get', '--raw', path]);
      const found = /^nodemesh_kubernetes_status_writes_total\{what="event",outcome="written"\} (\d+)$/m.exec(
        text,
      );
      sum += Number(found?.[1] ?? 0);
    }
    return sum;
  }
  const unusable = { 'config.linkerd.io/opaque-ports': 'everything' };

  it('is one, tells each Event, and its successor tells none of them again', async () => {
    const { spec } = await cluster.waitFor('a leader', async () => {
      const found = await lease();
      return (found.spec?.holderIdentity ?? '') !== '' && found;
    });
    const first = spec?.holderIdentity ?? '';
    const replicas = await mesh.ready('destination', REPLICAS);
    assert.ok(
      replicas.some(({ metadata }) => metadata.name === first),
      first,
    );

    await cluster.apply([pod('unusable', 'web', nodeName(), unusable)]);
    await bothEventsOf('unusable');

    // Silent, not gone: it cannot let go, and comes back in the belief that it leads.
    const { node, id } = await containerOf(first);
    await node.output(['ctr', '--namespace=k8s.io', 'task', 'pause', id]);
    const silentMs = performance.now();
    const next = await cluster.waitFor('another leader', async () => {
      const holder = (await lease()).spec?.holderIdentity;
      return holder !== first && holder;
    });
    assert.ok(performance.now() - silentMs < TAKE_OVER_MS, 'within the time of the lease');
    await node.output(['ctr', '--namespace=k8s.io', 'task', 'resume', id]);
    await mesh.ready('destination', REPLICAS);
    // Streams that broke in the silence are begun anew, and what is reported on them again is written again: all of
    // that is done when something new came through each.
    const probe = (node: string): string => `after-${node}`;
    await cluster.apply(cluster.nodes.map(({ name }) => pod(probe(name), 'web', name)));
    for (const { name } of cluster.nodes)
      await cluster.waitFor(`the Event about ${probe(name)}`, async () => {
        return (await eventsOf(probe(name))).length > 0;
      });

    // It tells what comes, and only it does.
    const before = await eventsWritten();
    await cluster.apply([pod('unusable-too', 'web', nodeName(), unusable)]);
    await bothEventsOf('unusable-too');
    // It counts them when the API server has answered.
    let written = 0;
    await cluster.waitFor('both are counted', async () => {
      written = (await eventsWritten()) - before;
      return written >= 2;
    });
    assert.equal(written, 2);
    assert.equal((await lease()).spec?.holderIdentity, next);
    for (const name of ['unusable', 'unusable-too'])
      for (const { count, reason } of await eventsOf(name)) assert.equal(count, 1, `${name} ${reason}`);
  });

  it('hands over at once when it ends in order', async () => {
    const { spec } = await lease();
    const first = spec?.holderIdentity ?? '';
    await cluster.kubectl(['delete', 'pod', `--namespace=${mesh.namespace}`, first]);
    const next = await cluster.waitFor('another leader', async () => {
      const found = (await lease()).spec;
      const holder = found?.holderIdentity ?? '';
      return holder !== '' && holder !== first && found;
    });
    // By what the replicas wrote, however late this test looks. The first may have renewed once more.
    const withoutMs = Date.parse(next.acquireTime ?? '') - Date.parse(spec?.renewTime ?? '');
    assert.ok(withoutMs < LEASE_MS, `the lease had ended: ${withoutMs} ms`);
    await mesh.ready('destination', REPLICAS);
  });

  it('takes the startup taint off a node whose agent is ready, by the right for it', async () => {
    const node = nodeName();
    const giveBack = await takeAway(cluster, ruleFor('nodes', 'patch'));
    await cluster.kubectl([
      'taint',
      'node',
      node,
      `${TAINT}=:NoSchedule`,
      'example.com/other=:PreferNoSchedule',
    ]);
    await cluster.waitFor('the leader to be refused', async () =>
      /the startup taint could not be taken off/.test(await destinationLogs()),
    );
    assert.ok((await taintsOf(node)).includes(TAINT));
    await giveBack();
    await cluster.waitFor('the taint to be off', async () => !(await taintsOf(node)).includes(TAINT));
    // Kubernetes has taints of its own for a node that is slow to answer.
    const others = (await taintsOf(node)).filter((key) => !key.startsWith('node.kubernetes.io/'));
    assert.deepEqual(others, ['example.com/other']);
    await cluster.kubectl(['taint', 'node', node, 'example.com/other-']);
  });

  it('without the right to write statuses no pod is reached through the mesh', async () => {
    const giveBack = await takeAway(cluster, ruleFor('pods/status', 'patch'));
    await cluster.apply([pod('unwritten', 'web', nodeName())]);
    await cluster.waitFor('the write to be refused', async () =>
      /"pod":"leader-shop\/unwritten".*enrolment was not written/.test(await destinationLogs()),
    );
    assert.equal(await isEnrolled('unwritten'), false);
    await giveBack();
    await cluster.apply([pod('written', 'web', nodeName())]);
    await cluster.waitFor('the next pod to be in the mesh', () => isEnrolled('written'));
  });

  it('without the right to write Events nobody is told', async () => {
    const giveBack = await takeAway(cluster, ruleFor('events', 'create'));
    await cluster.apply([pod('untold', 'web', nodeName())]);
    await cluster.waitFor('the pod to be in the mesh', () => isEnrolled('untold'));
    await cluster.waitFor('the Event to be refused', async () =>
      /leader-shop\/untold".*event was not written/.test(await destinationLogs()),
    );
    assert.deepEqual(await eventsOf('untold'), []);
    await giveBack();
  });
});
