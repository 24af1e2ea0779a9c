// SPDX-License-Identifier: Apache-2.0
// The mesh on a cluster as a user gets it there: mesh install and mesh install-cni through kubectl. And what can be
// seen of it: conditions, Events, metrics.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type CommandResult, runCommand } from '../../local/command.ts';
import { parseMetrics, type Series } from '../conformance/metrics.ts';
import type { Cluster, KubernetesObject } from './cluster.ts';

export const MESH_NAMESPACE = 'nodemesh';
export const MESH_COMMAND = resolve(import.meta.dirname, '../../bin/mesh');
const COMPONENT = 'nodemesh.io/control-plane-component';
const CONTROL_PLANE = ['identity', 'destination', 'policy-validator'];

export const tryMesh = (cluster: Cluster, ...args: readonly string[]): Promise<CommandResult> =>
  runCommand([MESH_COMMAND, ...args, '--kubeconfig', cluster.kubeconfig], { timeoutMs: 300_000 });

/** Must succeed; its output. */
export async function mesh(cluster: Cluster, ...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await tryMesh(cluster, ...args);
  assert.equal(code, 0, stderr);
  return stdout;
}

const apply = (cluster: Cluster, input: string): Promise<string> =>
  cluster.kubectl(['apply', '--filename=-'], { input });

export async function installControlPlane(cluster: Cluster): Promise<void> {
  await apply(cluster, await mesh(cluster, 'install', '--crds'));
  await apply(cluster, await mesh(cluster, 'install'));
}

/** Applies what `mesh install-cni` prints. */
export async function installNodes(cluster: Cluster, ...flags: readonly string[]): Promise<void> {
  await apply(cluster, await mesh(cluster, 'install-cni', ...flags));
}

export async function controlPlaneReady(cluster: Cluster): Promise<void> {
  for (const part of CONTROL_PLANE) await cluster.podsReady(MESH_NAMESPACE, `${COMPONENT}=${part}`, 1);
}

export interface NodePod extends KubernetesObject {
  readonly spec: { readonly nodeName: string };
}

/** Exactly one on each node, and ready. */
export async function nodePodsReady(
  cluster: Cluster,
  component: 'agent' | 'keeper',
): Promise<readonly NodePod[]> {
  return (await cluster.podsReady(
    MESH_NAMESPACE,
    `${COMPONENT}=${component}`,
    cluster.nodes.length,
  )) as readonly NodePod[];
}

/** Whatever an earlier run left, too. */
export async function removeMesh(cluster: Cluster): Promise<void> {
  // The plugin goes last.
  if (cluster.nodes.some(({ root }) => existsSync(join(root, 'opt/cni/bin/nodemesh-cni'))))
    await mesh(cluster, 'uninstall-cni', '--force');
  const objects = await mesh(cluster, 'uninstall', '--crds', '--force');
  if (objects !== '') {
    await cluster.kubectl(['delete', '--ignore-not-found', '--wait', '--filename=-'], { input: objects });
  }
}

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
}

export async function enrolment(
  cluster: Cluster,
  namespace: string,
  pod: string,
): Promise<Condition | undefined> {
  const { status } = await cluster.get<KubernetesObject & { status?: { conditions?: readonly Condition[] } }>(
    ['pod', pod, `--namespace=${namespace}`],
  );
  return status?.conditions?.find(({ type }) => type === 'nodemesh.io/Enrolled');
}

/** Waits until the condition of every pod has this reason. */
export async function untilReason(
  cluster: Cluster,
  namespace: string,
  pods: readonly string[],
  reason: string,
  timeoutMs = 90_000,
): Promise<void> {
  for (const pod of pods) {
    let last: Condition | undefined;
    await cluster
      .waitFor(
        `${namespace}/${pod} is ${reason}`,
        async () => {
          last = await enrolment(cluster, namespace, pod);
          return last?.reason === reason;
        },
        timeoutMs,
      )
      .catch((error: unknown) => assert.fail(`${String(error)}; it is ${JSON.stringify(last)}`));
  }
}

/** Reasons of the Events about a pod that come from the mesh. */
export async function meshEvents(cluster: Cluster, namespace: string, pod: string): Promise<string[]> {
  const events = await cluster.list<KubernetesObject & { reason: string }>([
    'events',
    `--namespace=${namespace}`,
    `--field-selector=involvedObject.name=${pod}`,
  ]);
  return events.map(({ reason }) => reason).filter((reason) => reason.startsWith('Mesh'));
}

/** These and no others. They are written beside the condition, and may come after it. */
export async function assertMeshEvents(
  cluster: Cluster,
  namespace: string,
  pod: string,
  expected: readonly string[],
): Promise<void> {
  let events: readonly string[] = [];
  await cluster
    .waitFor(`Events of ${pod}`, async () => {
      events = await meshEvents(cluster, namespace, pod);
      return expected.every((reason) => events.includes(reason));
    })
    .catch((error: unknown) => assert.fail(`${String(error)}; there are ${events.join(', ')}`));
  assert.deepEqual(events.toSorted(), expected.toSorted());
}

/** What a scraper of the node sees. */
export async function scrapeNode(cluster: Cluster, name: string): Promise<readonly Series[]> {
  const node = cluster.nodes.find((one) => one.name === name);
  assert.ok(node !== undefined, name);
  const url = `http://${node.address}:4191/metrics`;
  return parseMetrics(await node.output(['curl', '-sS', '--max-time', '10', url]));
}
