// SPDX-License-Identifier: Apache-2.0
// Series of the agent as a whole, read when metrics are rendered: the process, the kernel's counters, enrolment.
// The data path's families are in agent/proxy/metrics.

import { readdirSync, readFileSync } from 'node:fs';
import type { KeeperStats } from '#lib/keeper/wire.ts';
import type { MetricRegistry } from '#lib/metrics/registry.ts';
import { renderLabels, type MetricFamily } from '#lib/metrics/model.ts';
import type { AccessLogOutput } from './access-log-output.ts';
import type { DiskLists } from './disk-lists.ts';
import type { Enrolment, EnrolmentPhase } from './enrolment-model.ts';
import type { Keeper } from './keeper.ts';
import type { KeptListeners } from './kept-listeners.ts';
import type { ProxyWorkers } from './proxy-workers.ts';
import type { Redirection } from './redirection-types.ts';
import type { SelfCheck } from './self-check.ts';
import type { Discovery } from './discovery.ts';

export interface NodeMetricsSources {
  readonly nodeName: string;
  readonly startedAtSeconds: number;
  readonly redirection: Pick<Redirection, 'counters'>;
  readonly enrolment: Pick<Enrolment, 'pods'>;
  readonly workers: Pick<ProxyWorkers, 'longConnections' | 'replaced' | 'serving'>;
  readonly selfCheck: Pick<SelfCheck, 'state'>;
  readonly discovery: Pick<Discovery, 'refused'>;
  readonly keeper: Pick<Keeper, 'connected' | 'failures' | 'lastSnapshot' | 'reconnects' | 'role' | 'stats'>;
  readonly lists: Pick<DiskLists, 'failures'>;
  readonly accessLog: Pick<AccessLogOutput, 'lost'>;
  readonly taps: { readonly dropped: number; readonly refused: number };
  readonly version: string;
  readonly openFilesMax: number;
  readonly keptListeners: Pick<KeptListeners, 'counts'>;
}

const phases: readonly EnrolmentPhase[] = ['pending', 'enrolled', 'failed', 'leaving', 'left'];
/** Of the kernel's counters this one is a level, not a total. */
const LEVEL = 'inflight';

export function nodeMetrics(registry: Pick<MetricRegistry, 'collect'>, sources: NodeMetricsSources): void {
  const node = { node: sources.nodeName };
  const one = (family: MetricFamily, read: () => number): void =>
    registry.collect(family, () => [{ labels: renderLabels(node), value: read() }]);

  one(
    gauge('process_start_time_seconds', 'When counting began, seconds since the epoch.'),
    () => sources.startedAtSeconds,
  );
  registry.collect(gauge('proxy_build_info', 'What runs here; always 1.'), () => [
    {
      labels: renderLabels({
        ...node,
        date: '',
        git_sha: '',
        profile: 'release',
        vendor: 'nodemesh',
        version: sources.version,
      }),
      value: 1,
    },
  ]);
  one(counter('process_uptime_seconds_total', 'How long the agent has been running.'), () =>
    process.uptime(),
  );
  one(gauge('process_threads', 'Threads of the agent.'), () => statusField('Threads'));
  one(
    gauge('process_virtual_memory_bytes', 'Virtual memory of the agent.'),
    () => statusField('VmSize') * 1024,
  );
  one(counter('process_cpu_seconds_total', 'CPU time of the agent, all threads.'), () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  });
  one(gauge('process_resident_memory_bytes', 'Resident memory of the agent.'), () =>
    process.memoryUsage.rss(),
  );
  one(
    gauge('nodemesh_workers_serving', 'Proxy workers that accept; fewer than set: one is being replaced.'),
    () => sources.workers.serving,
  );
  one(
    gauge('process_open_fds', 'Descriptors that the agent has open.'),
    () => readdirSync('/proc/self/fd').length,
  );
  one(gauge('process_max_fds', 'How many it may have open (RLIMIT_NOFILE).'), () => sources.openFilesMax);
  one(
    counter(
      'nodemesh_state_write_failures_total',
      'Lists of the node that could not be written and are tried again.',
    ),
    () => sources.lists.failures,
  );
  one(
    counter(
      'nodemesh_access_log_write_failures_total',
      'Pieces of the access log that the standard output did not take.',
    ),
    () => sources.accessLog.lost,
  );
  one(
    counter('nodemesh_tap_events_dropped_total', 'Events of taps left out because their reader is too slow.'),
    () => sources.taps.dropped,
  );
  one(
    counter('nodemesh_tap_refused_total', 'Taps refused because there are eight already.'),
    () => sources.taps.refused,
  );
  registry.collect(
    counter('nodemesh_worker_replaced_total', 'Proxy workers that ended or fell silent.'),
    () =>
      Object.entries(sources.workers.replaced).map(([reason, value]) => ({
        labels: renderLabels({ ...node, reason }),
        value,
      })),
  );
  registry.collect(
    gauge('nodemesh_worker_long_connections', 'Connections of HTTP/2, mesh and opaque TCP by worker.'),
    () =>
      sources.workers.longConnections.map((value, worker) => ({
        labels: renderLabels({ ...node, worker: String(worker) }),
        value,
      })),
  );
  registry.collect(gauge('nodemesh_pods', 'Pods of this node by state of enrolment.'), () => {
    const pods = sources.enrolment.pods;
    return phases.map((state) => ({
      labels: renderLabels({ ...node, state }),
      value: pods.filter(({ phase }) => phase === state).length,
    }));
  });
  registry.collect(
    gauge('nodemesh_kernel_inflight', 'Redirected connects whose handshake is not finished.'),
    () => [{ labels: renderLabels(node), value: sources.redirection.counters().get(LEVEL) ?? 0 }],
  );
  registry.collect(
    counter('nodemesh_kernel_events_total', 'What the redirection refused or lost, by reason.'),
    () =>
      [...sources.redirection.counters()]
        .filter(([reason]) => reason !== LEVEL)
        .map(([reason, value]) => ({ labels: renderLabels({ ...node, reason }), value })),
  );
  one(
    counter(
      'nodemesh_discovery_refused_total',
      'Destinations not resolved because the node follows too many.',
    ),
    () => sources.discovery.refused,
  );
  const { keeper, keptListeners } = sources;
  one(gauge('nodemesh_keeper_connected', 'Whether the keeper holds the listeners for the next agent.'), () =>
    keeper.connected ? 1 : 0,
  );
  one(
    counter(
      'nodemesh_keeper_failures_total',
      'Connections to the keeper that failed, and what it did not take.',
    ),
    () => keeper.failures,
  );
  one(
    gauge('nodemesh_keeper_snapshot_bytes', 'Size of the last snapshot for the next agent.'),
    () => keeper.lastSnapshot.bytes,
  );
  one(
    counter('nodemesh_keeper_reconnects_total', 'Connections to a keeper after the first one.'),
    () => keeper.reconnects,
  );
  // Gauges all of them: the keeper's own counts begin anew with it, not with the agent.
  const ofKeeper = (name: string, help: string, read: (stats: KeeperStats) => number | undefined): void =>
    registry.collect(gauge(name, help), () => {
      const stats = keeper.stats();
      const value = stats === undefined ? undefined : read(stats);
      return value === undefined ? [] : [{ labels: renderLabels(node), value }];
    });
  ofKeeper(
    'nodemesh_keeper_entries',
    'Listeners that the keeper holds; absent without a keeper.',
    ({ entries }) => entries,
  );
  ofKeeper(
    'nodemesh_keeper_entries_max',
    'Listeners that the keeper has room for.',
    ({ entriesMax }) => entriesMax,
  );
  ofKeeper(
    'nodemesh_keeper_last_beat_seconds',
    'How long ago the last beat of the holder was; absent if nobody holds.',
    ({ holderAgeMs }) => (holderAgeMs === undefined ? undefined : holderAgeMs / 1000),
  );
  ofKeeper(
    'nodemesh_keeper_limit_seconds',
    'Without a beat for this long the keeper shuts listeners down.',
    ({ limitMs }) => limitMs / 1000,
  );
  ofKeeper(
    'nodemesh_keeper_listeners_shut_down',
    'Listeners that this keeper has shut down because no beat came in time.',
    ({ shutdowns }) => shutdowns,
  );
  one(
    gauge('nodemesh_agent_holder', 'Whether this agent accepts and writes; 0: another one of the node does.'),
    () => (keeper.role === 'holder' ? 1 : 0),
  );
  one(
    counter('nodemesh_pods_adopted_total', 'Pods whose listeners were taken over from an earlier agent.'),
    () => keptListeners.counts.adopted,
  );
  const byCheck = (values: ReadonlyMap<string, number>) =>
    [...values].map(([check, value]) => ({ labels: renderLabels({ ...node, check }), value }));
  registry.collect(
    counter('nodemesh_self_check_repairs_total', 'Differences between kernel and agent that were mended.'),
    () => byCheck(sources.selfCheck.state.repairs),
  );
  registry.collect(
    gauge('nodemesh_self_check_failures', 'Differences that stand because the agent cannot mend them.'),
    () => byCheck(sources.selfCheck.state.failures),
  );
  one(
    gauge(
      'nodemesh_self_check_last_run_timestamp_seconds',
      'When the last self-check ended; 0 before the first.',
    ),
    () => (sources.selfCheck.state.lastRunAtMs ?? 0) / 1000,
  );
  one(
    gauge('nodemesh_self_check_duration_seconds', 'How long the last self-check took.'),
    () => sources.selfCheck.state.durationMs / 1000,
  );
}

const counter = (name: string, help: string): MetricFamily => ({ name, type: 'counter', help });
const gauge = (name: string, help: string): MetricFamily => ({ name, type: 'gauge', help });

/** A number of /proc/self/status; 0 if it is not there. */
function statusField(name: string): number {
  const [, value] =
    new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return Number(value ?? 0);
}
