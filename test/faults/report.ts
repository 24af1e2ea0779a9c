// SPDX-License-Identifier: Apache-2.0
// What a load has seen, and whether that is allowed. Pure: no sockets, no mesh.

import assert from 'node:assert/strict';

export const connectionKinds = ['http-new', 'http-kept', 'tcp-new', 'tcp-kept', 'stream'] as const;
export type ConnectionKind = (typeof connectionKinds)[number];

export const failureKinds = [
  'refused',
  'timeout',
  /** Reset or closed on a connection that had served before: no byte of the answer had come. */
  'reset-kept-before',
  /** The same in the middle of the answer. */
  'reset-kept-amid',
  /** Reset on a connection made for this very request. */
  'reset-new',
  /** The connection ended properly, but without the (whole) answer. */
  'eof',
  'wrong-nonce',
  'bad-status',
  'other',
] as const;
export type FailureKind = (typeof failureKinds)[number];

export interface Failure {
  /** Since the epoch; when it was to be asked. */
  readonly dueMs: number;
  /** When it was noticed. */
  readonly atMs: number;
  readonly kind: FailureKind;
  readonly connection: ConnectionKind;
  /** Status and l5d-proxy-error, errno, what was said instead of the nonce. */
  readonly detail: string;
}

export interface Report {
  readonly startedMs: number;
  readonly endedMs: number;
  readonly succeeded: number;
  /** Every failure is counted here; `failures` holds the first of them. */
  readonly failed: number;
  readonly failures: readonly Failure[];
  /** By kind of connection: successes. */
  readonly byConnection: Readonly<Record<ConnectionKind, number>>;
  /** Successes by the server pod that answered. */
  readonly byServer: Readonly<Record<string, number>>;
  /** Kept connections that were open at once, at most. */
  readonly keptMax: number;
  /** The longest time without a success, the ends of the run included. */
  readonly gapMaxMs: number;
  readonly gapMaxAtMs: number;
  /** From the moment a request was due, so that a stall is seen as what it is. */
  readonly latencyMaxMs: number;
  readonly latencyP99Ms: number;
}

export interface LoadReport extends Report {
  readonly marks: readonly { readonly name: string; readonly atMs: number }[];
}

export interface Allowance {
  readonly kind: FailureKind;
  /** Any connection if absent. */
  readonly connection?: ConnectionKind;
  /** How many at most; any number if absent. */
  readonly atMost?: number;
}

export interface Demands {
  /** What may fail; empty: nothing. */
  readonly allow?: readonly Allowance[];
  /** Successes per second over the whole run. */
  readonly minRate: number;
  readonly gapMaxMs?: number;
}

export const rateOf = (report: Report): number =>
  (report.succeeded * 1000) / Math.max(1, report.endedMs - report.startedMs);

/** What is wrong with the report, in words; empty when all is as demanded. */
export function complaints(report: Report, demands: Demands): string[] {
  const found: string[] = [];
  const used = new Map<Allowance, number>();
  const bad: Failure[] = [];
  for (const failure of report.failures) {
    const allowance = (demands.allow ?? []).find(
      ({ kind, connection }) =>
        kind === failure.kind && (connection === undefined || connection === failure.connection),
    );
    if (allowance === undefined) {
      bad.push(failure);
      continue;
    }
    const count = (used.get(allowance) ?? 0) + 1;
    used.set(allowance, count);
    if (allowance.atMost !== undefined && count > allowance.atMost) bad.push(failure);
  }
  if (bad.length > 0) {
    const lines = bad
      .slice(0, 20)
      .map(
        ({ atMs, kind, connection, detail }) =>
          `  +${((atMs - report.startedMs) / 1000).toFixed(2)} s ${connection}: ${kind} ${detail}`,
      );
    found.push([`${bad.length} failures that are not allowed:`, ...lines].join('\n'));
  }
  if (report.failed > report.failures.length) {
    found.push(
      `${report.failed} failures, more than the ${report.failures.length} that were kept to be judged`,
    );
  }
  const rate = rateOf(report);
  if (rate < demands.minRate) {
    found.push(`${rate.toFixed(1)} requests/s succeeded, at least ${demands.minRate} were demanded`);
  }
  if (demands.gapMaxMs !== undefined && report.gapMaxMs > demands.gapMaxMs) {
    found.push(
      `${Math.round(report.gapMaxMs)} ms without a success, at most ${demands.gapMaxMs} were allowed`,
    );
  }
  return found;
}

export function assertOnly(report: Report, demands: Demands): void {
  const found = complaints(report, demands);
  assert.ok(found.length === 0, found.join('\n'));
}

/** What loads have seen, in one line for whoever reads the output of a soak. */
export function summary(reports: readonly Report[]): string {
  const sum = (of: (report: Report) => number): number => reports.reduce((all, one) => all + of(one), 0);
  const longest = (of: (report: Report) => number): number => Math.round(Math.max(...reports.map(of)));
  const kinds = new Map<string, number>();
  for (const { kind, connection } of reports.flatMap(({ failures }) => failures)) {
    kinds.set(`${connection} ${kind}`, (kinds.get(`${connection} ${kind}`) ?? 0) + 1);
  }
  const failed = sum((report) => report.failed);
  const detail = failed === 0 ? '' : ` (${[...kinds].map(([kind, count]) => `${count} ${kind}`).join(', ')})`;
  return [
    `${sum((report) => report.succeeded)} requests answered, ${failed} failed${detail}`,
    `slowest answer ${longest((report) => report.latencyMaxMs)} ms`,
    `longest time without an answer ${longest((report) => report.gapMaxMs)} ms`,
  ].join('; ');
}
