// SPDX-License-Identifier: Apache-2.0
// Runs `mesh stat` and `mesh edges`: flags first, then the cluster, then its Prometheus.

import { inCluster } from '#lib/registry-kubernetes/api-access.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { namespaceOf } from '../install/actions.ts';
import { connect, type ConnectedCluster } from '../install/connect.ts';
import { edges, edgesJson, edgesTable } from './edges.ts';
import { findPrometheus } from './find-prometheus.ts';
import {
  checkInterval,
  edgesQuestion,
  outputOf,
  type StatFlags,
  statQuestion,
  type TrafficFlags,
} from './flags.ts';
import { connectPrometheus, type Prometheus } from './prometheus.ts';
import { stat } from './stat.ts';
import { statJson, statTables } from './stat-output.ts';

export interface Streams {
  readonly out: (text: string) => void;
  readonly note: (line: string) => void;
  readonly colour: boolean;
}

const standard: Streams = {
  out: (text) => void process.stdout.write(text),
  note: (line) => void process.stderr.write(`${line}\n`),
  colour: process.stdout.isTTY && (process.env['NO_COLOR'] ?? '') === '',
};

export async function runStat(flags: StatFlags, streams: Streams = standard): Promise<void> {
  const output = outputOf(flags.output);
  const question = statQuestion(flags);
  await withSources(flags, async (sources, contextNamespace) => {
    await checkInterval(question.windowMs, sources.prometheus);
    const request = question.in(contextNamespace);
    const rows = await stat({ ...request, bytes: output !== 'table' }, sources);
    if (output === 'json') streams.out(statJson(rows, question.windowMs));
    else if (rows.length === 0) streams.note('No traffic found.');
    else {
      const { windowMs } = question;
      const namespaces = flags.allNamespaces;
      streams.out(statTables(rows, { wide: output === 'wide', namespaces, windowMs }));
    }
  });
}

export async function runEdges(flags: TrafficFlags, streams: Streams = standard): Promise<void> {
  const output = outputOf(flags.output);
  const question = edgesQuestion(flags);
  await withSources(flags, async (sources, contextNamespace) => {
    const rows = await edges(question.in(contextNamespace), sources);
    if (output === 'json') streams.out(edgesJson(rows));
    else if (rows.length === 0) streams.note('No edges found.');
    else streams.out(edgesTable(rows, { wide: output === 'wide', colour: streams.colour }));
  });
}

async function withSources(
  flags: TrafficFlags,
  run: (
    sources: { readonly cluster: ConnectedCluster; readonly prometheus: Prometheus },
    contextNamespace: string,
  ) => Promise<void>,
): Promise<void> {
  const { kubeconfig, context, as, asGroup, prometheusUrl } = flags;
  const namespace = namespaceOf(flags.linkerdNamespace);
  const cluster = await connect({ kubeconfig, context, as, asGroups: asGroup ?? [], version: ownVersion() });
  try {
    const place = await findPrometheus({
      flag: prometheusUrl,
      cluster,
      namespace,
      inCluster: inCluster(process.env),
    });
    await run({ cluster, prometheus: connectPrometheus(place, cluster) }, cluster.namespace);
  } finally {
    cluster.close();
  }
}
