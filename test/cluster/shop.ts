// SPDX-License-Identifier: Apache-2.0
// Applications in a meshed namespace, with a pod of each on every node, and stand-ins of agents that put them into the
// mesh, follow them and dial each other as they: what suites about the control plane watch while it is hurt.

import assert from 'node:assert/strict';
import { ENROLLED_CONDITION } from '#lib/registry/model.ts';
import type { Cluster, KubernetesObject } from './cluster.ts';
import type { Installation } from './installation.ts';
import { application, service } from './objects.ts';
import { type StandIn, standInsSettled, startStandIns } from './stand-in.ts';

const IDLE = ['sleep', 'infinity'];
/** The last one is for rolling out; the others stay, for the stand-ins speak as they. */
const names = ['web', 'cart', 'rolling'];

export interface ShopPod extends KubernetesObject {
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly { readonly containerID?: string; readonly restartCount: number }[];
  };
}

export interface Shop {
  readonly standIns: readonly StandIn[];
  podsOf(namespace: string, selector: string): Promise<readonly ShopPod[]>;
  /** With new stand-ins. */
  beginAgain(): Promise<void>;
  /** Replaces the pods of one application. */
  rollOut(): Promise<void>;
  /** Waits until every pod is in the mesh and every node knows all of them. */
  inOrder(): Promise<void>;
  /** Nothing has failed so far: no connection, no renewal, no destination that was known. */
  unharmed(): void;
  close(): void;
}

/** Resolves when the applications run; `beginAgain` begins. */
export async function openShop(cluster: Cluster, mesh: Installation, namespace: string): Promise<Shop> {
  const replicas = cluster.nodes.length;
  let standIns: readonly StandIn[] = [];
  await cluster.makeNamespace(namespace);
  await cluster.kubectl(['annotate', 'namespace', namespace, 'linkerd.io/inject=enabled']);
  await cluster.apply(
    names.flatMap((name) => [
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace } },
      application({ namespace, name, replicas, command: IDLE, serviceAccount: name }),
      service(namespace, name, 8080),
    ]),
  );
  for (const name of names) await cluster.podsReady(namespace, `app=${name}`, replicas);

  async function beginAgain(): Promise<void> {
    for (const standIn of standIns) standIn.close();
    const targets = await Promise.all(
      names.map(async (name) => ({
        name,
        namespace,
        ip: await cluster.serviceAddress(namespace, name),
        port: 8080,
      })),
    );
    const accounts = { client: `web.${namespace}`, server: `cart.${namespace}` };
    standIns = await startStandIns(cluster, { namespace: mesh.namespace, targets, ...accounts });
    await standInsSettled(cluster, standIns);
    await inOrder();
  }

  const podsOf = (namespace: string, selector: string): Promise<readonly ShopPod[]> =>
    cluster.list<ShopPod>(['pods', `--namespace=${namespace}`, `--selector=${selector}`]);

  const isEnrolled = (pod: ShopPod): boolean =>
    pod.status.conditions?.some(({ type, status }) => type === ENROLLED_CONDITION && status === 'True') ===
    true;

  /** What is still missing for every pod of the shop to be in the mesh, and for every node to know all of them. */
  async function missing(): Promise<string[]> {
    const pods = await podsOf(namespace, 'app');
    const outside = pods
      .filter((pod) => !isEnrolled(pod))
      .map(({ metadata }) => `${metadata.name} is not in the mesh`);
    const unknown = names.flatMap((name) => {
      const identity = `${name}.${namespace}.serviceaccount.identity.linkerd.cluster.local`;
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

  const lastWords = (): string[] =>
    standIns.flatMap(({ node, lines, beat }) =>
      [...lines.filter(({ what }) => what !== 'destination' && what !== 'enrolled').slice(-4), beat].map(
        (line) => `${node}: ${JSON.stringify(line)}`,
      ),
    );

  async function inOrder(): Promise<void> {
    let left: string[] = [];
    await cluster
      .waitFor('every node to know the pods as they are', async () => {
        left = await missing();
        return left.length === 0;
      })
      .catch((error: unknown) => assert.fail([String(error), ...left, ...lastWords()].join('\n')));
  }

  return {
    get standIns() {
      return standIns;
    },
    podsOf,
    beginAgain,
    async rollOut() {
      await cluster.kubectl(['rollout', 'restart', 'deployment/rolling', `--namespace=${namespace}`]);
      await cluster.kubectl(['rollout', 'status', 'deployment/rolling', `--namespace=${namespace}`]);
    },
    inOrder,
    unharmed() {
      assert.deepEqual(
        standIns.flatMap(({ failures }) => failures),
        [],
      );
      for (const { lines, node } of standIns) {
        const lost = lines.filter(
          (line) => line.what === 'destination' && (line.endpoints?.length ?? 0) === 0,
        );
        assert.deepEqual(lost, [], node);
      }
    },
    close() {
      for (const standIn of standIns) standIn.close();
    },
  };
}
