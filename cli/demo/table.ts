// SPDX-License-Identifier: Apache-2.0
// The demo's picture as text: a table like `mesh stat` and one like `mesh edges`. Pure; main.ts puts it on screen.

import type { Edge, Figures, Workload } from './figures.ts';

const percent = (rate: number): string => `${(rate * 100).toFixed(2)}%`;
const millis = (value: number | null): string =>
  value === null ? '-' : value < 10 ? `${value.toFixed(1)}ms` : `${Math.round(value)}ms`;

/** Columns as wide as their widest cell; the first `left` are left-aligned. */
export function layOut(rows: readonly (readonly string[])[], left: number): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, column) => (widths[column] = Math.max(widths[column] ?? 0, cell.length)));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) =>
        column < left ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join('   ')
      .trimEnd();
  return rows.map(line).join('\n');
}

function workloadRow(workload: Workload): string[] {
  const http = workload.measured !== 'tcp';
  return [
    workload.measured === 'outbound' ? `${workload.name} (sent)` : workload.name,
    workload.meshed,
    http ? percent(workload.successRate) : '-',
    http ? `${workload.rps.toFixed(1)}rps` : '-',
    millis(workload.p50Ms),
    millis(workload.p95Ms),
    millis(workload.p99Ms),
    String(workload.tcpConnections),
  ];
}

/** What an edge is, in words that promise no more than is true. */
const howSecured = (edge: Edge): string => {
  if (!edge.secured) return 'NOT SECURED';
  return edge.sameNode ? 'same node: kernel' : 'mutual TLS';
};

/** `web.shop` of `web.shop.serviceaccount.identity.linkerd.cluster.local`. */
const shortIdentity = (identity: string): string =>
  identity === '' ? '-' : (identity.split('.serviceaccount.identity.')[0] ?? identity);

export function renderFigures({ workloads, edges }: Figures): string {
  const stat = [
    ['NAME', 'MESHED', 'SUCCESS', 'RPS', 'LATENCY_P50', 'LATENCY_P95', 'LATENCY_P99', 'TCP_CONN'],
    ...workloads.map(workloadRow),
  ];
  const edgeRows = [
    ['SRC', 'DST', 'SRC_ID', 'DST_ID', 'SECURED', 'REQUESTS'],
    ...edges.map((edge) => [
      edge.src,
      edge.dst,
      shortIdentity(edge.srcIdentity),
      shortIdentity(edge.dstIdentity),
      howSecured(edge),
      String(Math.round(edge.requests)),
    ]),
  ];
  return `${layOut(stat, 1)}\n\n${layOut(edgeRows, 5)}\n`;
}
