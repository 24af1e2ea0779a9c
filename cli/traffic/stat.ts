// SPDX-License-Identifier: Apache-2.0
// `mesh stat`: what the requests and connections of resources were like in a window of time. The cluster says which
// resources there are, Prometheus what is known of them.

import {
  answersQuery,
  bytesQuery,
  latencyQuery,
  openConnectionsQuery,
  rowOf,
  selectTraffic,
  windowOf,
  type Workloads,
} from '#lib/traffic-queries/traffic-queries.ts';
import type { Cluster } from '../install/cluster.ts';
import { isNamespace, isService, type Target, type TrafficKind } from './kinds.ts';
import { listObjects, listPods, podsOf } from './objects.ts';
import type { Prometheus, Sample } from './prometheus.ts';

export interface StatRequest {
  readonly targets: readonly Target[];
  /** Undefined: all. */
  readonly namespace: string | undefined;
  readonly selector: string | undefined;
  readonly to: Workloads | undefined;
  readonly from: Workloads | undefined;
  readonly windowMs: number;
  readonly unmeshed: boolean;
  /** Bytes are asked for only where they are shown. */
  readonly bytes: boolean;
}

export interface StatRow {
  readonly namespace: string;
  readonly kind: TrafficKind;
  readonly name: string;
  /** Of a pod. */
  readonly status: string | undefined;
  /** Undefined: the kind has no pods of its own. */
  readonly pods: { readonly meshed: number; readonly running: number } | undefined;
  /** Undefined: no request in the window. */
  readonly traffic: Traffic | undefined;
}

export interface Traffic {
  readonly successes: number;
  readonly failures: number;
  /** p50, p95 and p99. */
  readonly latenciesMs: readonly [number, number, number];
  readonly openConnections: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
}

const QUANTILES = [0.5, 0.95, 0.99] as const;

/** Rows in the order in which they are printed, kind after kind. */
export async function stat(
  request: StatRequest,
  { cluster, prometheus }: { readonly cluster: Cluster; readonly prometheus: Prometheus },
): Promise<readonly StatRow[]> {
  const across = request.targets.some(({ kind }) => isNamespace(kind));
  const needsPods = request.targets.some(({ kind }) => !isService(kind));
  const pods = needsPods ? await listPods(cluster, across ? undefined : request.namespace) : [];
  const tables = await Promise.all(
    request.targets.map(async (target): Promise<readonly StatRow[]> => {
      const { kind } = target;
      const [objects, traffic] = await Promise.all([
        listObjects(cluster, target, request.namespace, request.selector),
        trafficOf(request, target, prometheus),
      ]);
      const rows = objects.map(({ metadata }): StatRow => {
        const row = { namespace: isNamespace(kind) ? '' : (metadata.namespace ?? ''), name: metadata.name };
        const own = podsOf(kind, row, pods);
        const running = own.filter((pod) => pod.running);
        return {
          ...row,
          kind,
          status: kind.name === 'pod' ? (own[0]?.status ?? 'Unknown') : undefined,
          pods: isService(kind)
            ? undefined
            : { meshed: running.filter(({ meshed }) => meshed).length, running: running.length },
          traffic: traffic.get(keyOf(row)),
        };
      });
      const completed = new Set(pods.filter((pod) => pod.completed).map(keyOf));
      return rows
        .filter((row) => isShown(row, request) && !(kind.name === 'pod' && completed.has(keyOf(row))))
        .sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
    }),
  );
  return tables.flat();
}

const keyOf = ({ namespace, name }: { readonly namespace: string; readonly name: string }): string =>
  `${namespace}/${name}`;

function isShown({ pods, traffic }: StatRow, { to, from, unmeshed }: StatRequest): boolean {
  if (to !== undefined && traffic === undefined) return false;
  return unmeshed || from !== undefined || pods === undefined || pods.meshed > 0;
}

async function trafficOf(
  { namespace, to, from, windowMs, bytes }: StatRequest,
  { kind, names }: Target,
  prometheus: Prometheus,
): Promise<ReadonlyMap<string, Traffic>> {
  const target: Workloads = { label: kind.label, names, namespace };
  const selection = selectTraffic(target, { to, from });
  const window = windowOf(windowMs);
  const ask = (expression: string): Promise<readonly Sample[]> => prometheus.query(expression);
  const [answers, open, read, written, ...latencies] = await Promise.all([
    ask(answersQuery(selection, window)),
    ask(openConnectionsQuery(selection)),
    bytes ? ask(bytesQuery(selection, window, 'read')) : [],
    bytes ? ask(bytesQuery(selection, window, 'write')) : [],
    ...QUANTILES.map((quantile) => ask(latencyQuery(selection, window, quantile))),
  ]);
  const sums = (samples: readonly Sample[]): Map<string, number> => {
    const found = new Map<string, number>();
    for (const { metric, value } of samples) {
      const key = keyOf(rowOf(target, metric));
      found.set(key, (found.get(key) ?? 0) + rounded(value));
    }
    return found;
  };
  const of = (classification: string): Map<string, number> =>
    sums(answers.filter(({ metric }) => metric['classification'] === classification));
  const [successes, failures] = [of('success'), of('failure')];
  const [opened, bytesRead, bytesWritten] = [sums(open), sums(read), sums(written)];
  const [p50, p95, p99] = latencies.map(sums);
  const traffic = new Map<string, Traffic>();
  for (const key of new Set([...successes.keys(), ...failures.keys()])) {
    const at = (found: Map<string, number> | undefined): number => found?.get(key) ?? 0;
    if (at(successes) + at(failures) === 0) continue;
    traffic.set(key, {
      successes: at(successes),
      failures: at(failures),
      latenciesMs: [at(p50), at(p95), at(p99)],
      openConnections: at(opened),
      readBytes: at(bytesRead),
      writtenBytes: at(bytesWritten),
    });
  }
  return traffic;
}

/** A quantile of nothing is NaN. */
const rounded = (value: number): number => (Number.isFinite(value) ? Math.round(value) : 0);
