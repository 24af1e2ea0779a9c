// SPDX-License-Identifier: Apache-2.0
// The demo's verdict and its one JSON document. Pure: what was seen comes in, what to say goes out.

import type { DemoPod, Edge, Figures, WorkloadFigures } from './figures.ts';

export interface CheckInput {
  readonly figures: Figures;
  readonly pods: readonly DemoPod[];
  readonly nodes: readonly NodeFigures[];
  /** The Deployments that fail part of the time. */
  readonly failingWorkloads: readonly string[];
  readonly markerSeen: boolean;
  /** A text sent in the clear between the nodes was found in the same capture. */
  readonly controlSeen: boolean;
}

export interface NodeFigures {
  readonly name: string;
  readonly agentRssMiB: number;
  readonly pods: number;
}

export interface CheckDocument {
  readonly ok: boolean;
  readonly workloads: readonly WorkloadFigures[];
  readonly edges: readonly Edge[];
  readonly nodes: readonly NodeFigures[];
}

export function judge(input: CheckInput): {
  readonly document: CheckDocument;
  readonly failures: readonly string[];
} {
  const { figures, pods, nodes } = input;
  const failures: string[] = [];
  if (figures.workloads.length === 0) failures.push('there is no workload');
  for (const workload of figures.workloads) {
    if (workload.traffic <= 0) failures.push(`${workload.name} had no traffic`);
    if (!workload.allMeshed) failures.push(`${workload.name} is not wholly in the mesh: ${workload.meshed}`);
  }
  const between = figures.edges.filter(({ sameNode }) => !sameNode);
  if (between.length === 0) failures.push('no edge crosses from one node to the other');
  for (const edge of between) {
    const expected = pods.find((pod) => pod.workload === edge.dst)?.identity;
    if (!edge.secured) failures.push(`${edge.src} to ${edge.dst} between the nodes is not mutual TLS`);
    else if (edge.dstIdentity !== expected)
      failures.push(`${edge.dst} proved to be ${edge.dstIdentity}, not ${expected ?? 'a known workload'}`);
  }
  for (const name of input.failingWorkloads) {
    const failing = figures.workloads.find((workload) => workload.name === name);
    if (failing === undefined || failing.successRate >= 1)
      failures.push(`the failures of ${name} do not show in its success rate`);
  }
  if (!input.controlSeen)
    failures.push('the capture between the nodes did not even see what was sent in the clear');
  if (input.markerSeen) failures.push('the marker of the traffic was seen between the nodes');
  return {
    failures,
    document: {
      ok: failures.length === 0,
      workloads: figures.workloads.map(
        ({ namespace, name, meshed, successRate, rps, p50Ms, p95Ms, p99Ms }) => ({
          namespace,
          name,
          meshed,
          successRate,
          rps,
          p50Ms,
          p95Ms,
          p99Ms,
        }),
      ),
      edges: figures.edges,
      nodes,
    },
  };
}
