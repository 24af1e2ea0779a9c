// SPDX-License-Identifier: Apache-2.0
// What can be seen of the mesh on a cluster: conditions, Events, metrics. How it comes there is in installation.ts.

import assert from 'node:assert/strict';
import { parseMetrics, type Series } from '../conformance/metrics.ts';
import type { Cluster, KubernetesObject } from './cluster.ts';

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
): Promise<void> {
  for (const pod of pods) {
    let last: Condition | undefined;
    await cluster
      .waitFor(`${namespace}/${pod} is ${reason}`, async () => {
        last = await enrolment(cluster, namespace, pod);
        return last?.reason === reason;
      })
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
