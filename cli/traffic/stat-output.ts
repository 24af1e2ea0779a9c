// SPDX-License-Identifier: Apache-2.0
// What `mesh stat` found, as Linkerd prints it. Pure.

import { fixed } from './fixed.ts';
import type { StatRow } from './stat.ts';

export interface StatTableOptions {
  readonly wide: boolean;
  readonly namespaces: boolean;
  readonly windowMs: number;
}

/** A table for each kind. */
export function statTables(rows: readonly StatRow[], options: StatTableOptions): string {
  const kinds = [...new Set(rows.map(({ kind }) => kind))];
  return kinds
    .map((kind) => {
      const own = rows.filter((row) => row.kind === kind);
      return statTable(own, kinds.length > 1 ? `${kind.prefix}/` : '', options);
    })
    .join('\n');
}

function statTable(rows: readonly StatRow[], prefix: string, options: StatTableOptions): string {
  const namespaces = options.namespaces && rows[0]?.kind.name !== 'namespace';
  const statuses = rows[0]?.status !== undefined;
  const header = [
    ...(namespaces ? ['NAMESPACE'] : []),
    'NAME',
    ...(statuses ? ['STATUS'] : []),
    'MESHED',
    'SUCCESS',
    'RPS',
    'LATENCY_P50',
    'LATENCY_P95',
    'LATENCY_P99',
    'TCP_CONN',
    ...(options.wide ? ['READ_BYTES/SEC', 'WRITE_BYTES/SEC'] : []),
  ];
  const lines = rows.map((row) => [
    ...(namespaces ? [row.namespace] : []),
    `${prefix}${row.name}`,
    ...(statuses ? [row.status ?? ''] : []),
    row.pods === undefined ? '-' : `${row.pods.meshed}/${row.pods.running}`,
    ...trafficCells(row, options),
  ]);
  const left = namespaces ? 2 : 1;
  const widths = header.map((_, at) =>
    Math.max(...[header, ...lines].map((cells) => (cells[at] ?? '').length)),
  );
  return [header, ...lines]
    .map((cells) => {
      const padded = cells.map((cell, at) =>
        at < left ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0),
      );
      return `${padded.join('   ').trimEnd()}\n`;
    })
    .join('');
}

function trafficCells({ traffic }: StatRow, { wide, windowMs }: StatTableOptions): string[] {
  if (traffic === undefined) return Array.from({ length: wide ? 8 : 6 }, () => '-');
  const seconds = windowMs / 1000;
  const all = traffic.successes + traffic.failures;
  return [
    `${fixed((traffic.successes / all) * 100, 2)}%`,
    `${fixed(all / seconds, 1)}rps`,
    ...traffic.latenciesMs.map((ms) => `${ms}ms`),
    String(traffic.openConnections),
    ...(wide
      ? [`${fixed(traffic.readBytes / seconds, 1)}B/s`, `${fixed(traffic.writtenBytes / seconds, 1)}B/s`]
      : []),
  ];
}

export function statJson(rows: readonly StatRow[], windowMs: number): string {
  const seconds = windowMs / 1000;
  const objects = rows.map(({ namespace, kind, name, traffic }) => {
    const [p50, p95, p99] = traffic?.latenciesMs ?? [];
    const all = traffic === undefined ? 0 : traffic.successes + traffic.failures;
    return {
      namespace,
      kind: kind.name,
      name,
      success: traffic === undefined ? null : traffic.successes / all,
      rps: traffic === undefined ? null : all / seconds,
      latency_ms_p50: p50 ?? null,
      latency_ms_p95: p95 ?? null,
      latency_ms_p99: p99 ?? null,
      ...(traffic === undefined
        ? {}
        : {
            tcp_open_connections: traffic.openConnections,
            tcp_read_bytes_rate: traffic.readBytes / seconds,
            tcp_write_bytes_rate: traffic.writtenBytes / seconds,
          }),
    };
  });
  return `${JSON.stringify(objects, undefined, 2)}\n`;
}
