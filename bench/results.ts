// SPDX-License-Identifier: Apache-2.0
// What a benchmark yields, as a table for people and as JSON for comparing runs.

import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release } from 'node:os';
import { dirname } from 'node:path';
import { ownVersion } from '#lib/version/own-version.ts';

export type RunDetails = Readonly<Record<string, unknown>>;

/** Numbers that a benchmark does not have are undefined or NaN, and null in JSON. */
export interface Row {
  readonly bench: string;
  /** In words: what was sent, or what was done how often. */
  readonly load: string;
  /** What the ratio is of, or the value where the bound is absolute. */
  readonly unit: string;
  /** CPU time of the proxies per request, or per MiB of a bulk transfer. */
  readonly oursCpuUs?: number;
  /** Whom it is compared with; '' where the bound is absolute. */
  readonly peer: string;
  readonly peerCpuUs?: number;
  /** Ours to the peer's, the median over the rounds. */
  readonly ratio?: number;
  /** What was measured, in `unit`, where that is not CPU time. */
  readonly value?: number;
  readonly peerValue?: number;
  /** The highest ratio or value allowed; undefined: only shown. */
  readonly bound: number | undefined;
  readonly ok: boolean;
  readonly oursP99Ms?: number;
  readonly peerP99Ms?: number;
  /** (largest - smallest) / median, of the ratios or values. */
  readonly spread: number;
  /** The whole machine's CPU time per request or MiB: client, server, kernel and eBPF hooks included. */
  readonly oursMachineUs?: number;
  readonly peerMachineUs?: number;
  readonly oursPerSecond?: number;
  readonly peerPerSecond?: number;
  /** Not in the table: every round. */
  readonly details: RunDetails;
}

const digits = (value: number | undefined, count: number): string =>
  value === undefined || !Number.isFinite(value) ? '' : value.toFixed(count);

const columns: Readonly<Record<string, (row: Row) => string>> = {
  bench: (row) => row.bench,
  load: (row) => row.load,
  unit: (row) => row.unit,
  ours: (row) => digits(row.value ?? row.oursCpuUs, 2),
  peer: (row) => row.peer,
  theirs: (row) => digits(row.peerValue ?? row.peerCpuUs, 2),
  'p99 ms': (row) => [row.oursP99Ms, row.peerP99Ms].map((ms) => digits(ms, 2)).join(' / '),
  'machine us': (row) => [row.oursMachineUs, row.peerMachineUs].map((us) => digits(us, 0)).join(' / '),
  '/s and core': (row) =>
    [row.oursCpuUs, row.peerCpuUs].map((us) => digits(1e6 / (us ?? Number.NaN), 0)).join(' / '),
  ratio: (row) => digits(row.ratio, 2),
  bound: (row) => (row.bound === undefined ? '' : `<= ${row.bound}`),
  spread: (row) => `${(row.spread * 100).toFixed(0)} %`,
  ok: (row) => (row.bound === undefined ? '' : row.ok ? 'ok' : 'MISSED'),
};

export function renderTable(rows: readonly Row[]): string {
  const cells = [
    Object.keys(columns),
    ...rows.map((row) =>
      Object.values(columns).map((render) => {
        const text = render(row);
        return text === ' / ' ? '' : text;
      }),
    ),
  ];
  const widths = Object.keys(columns).map((_, at) => Math.max(...cells.map((row) => row[at]?.length ?? 0)));
  return cells
    .map((row) =>
      row
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** So that every row has the same names. */
const absent = {
  bench: null,
  load: null,
  unit: null,
  oursCpuUs: null,
  peer: null,
  peerCpuUs: null,
  ratio: null,
  bound: null,
  ok: null,
  oursP99Ms: null,
  peerP99Ms: null,
  spread: null,
};

/** `path`: the rows; beside it, as `….run.json`, when and with what they were measured, and every round. */
export function writeResults(path: string, rows: readonly Row[]): void {
  mkdirSync(dirname(path), { recursive: true });
  const listed = rows.map(({ details: _, ...row }) => ({ ...absent, ...row }));
  const run = {
    date: new Date().toISOString(),
    versions: versions(),
    machine: { kernel: release(), cores: availableParallelism(), cpu: cpus()[0]?.model ?? '' },
    rounds: rows.map(({ bench, load, details }) => ({ bench, load, ...details })),
  };
  writeFileSync(path, `${JSON.stringify(listed, undefined, 2)}\n`);
  writeFileSync(path.replace(/\.json$/, '.run.json'), `${JSON.stringify(run, undefined, 2)}\n`);
}

function versions(): Record<string, string> {
  return {
    nodemesh: ownVersion(),
    commit: firstLine('git', ['rev-parse', '--short', 'HEAD']),
    node: process.version,
    haproxy: firstLine('haproxy', ['-v']),
    nginx: firstLine('nginx', ['-v']),
    nghttpx: firstLine('nghttpx', ['--version']),
    wrk: firstLine('wrk', ['-v']),
    iperf3: firstLine('iperf3', ['--version']),
  };
}

/** The first line that a program prints about itself; some print it to stderr or exit 1 after it. */
function firstLine(program: string, args: readonly string[]): string {
  try {
    const text = execFileSync('sh', ['-c', '"$0" "$@" 2>&1 || true', program, ...args], { encoding: 'utf8' });
    return text.split('\n')[0] ?? '';
  } catch {
    return 'unknown'; // a missing program does not spoil the numbers
  }
}
