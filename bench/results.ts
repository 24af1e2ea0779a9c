// SPDX-License-Identifier: Apache-2.0
// What a benchmark yields, as a table for people and as JSON for comparing runs.

import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release } from 'node:os';
import { dirname } from 'node:path';
import { ownVersion } from '#lib/version/own-version.ts';

export interface BenchResult {
  readonly bench: string;
  /** In words: what was sent, or what was done how often. */
  readonly load: string;
  /** What the numbers are: `us CPU/request`, `ms p99`, `MB PSS`. */
  readonly unit: string;
  readonly ours: number;
  /** Whom it is compared with, or `bound` where the bound is absolute. */
  readonly peer: string;
  readonly theirs: number | undefined;
  /** ours / theirs, the median over the rounds; undefined where there is no peer. */
  readonly ratio: number | undefined;
  /** Of the ratio, or of `ours` where there is no peer; undefined: shown for comparison only. */
  readonly bound: number | undefined;
  readonly ok: boolean;
  /** (largest - smallest) / median, of the ratios or of our values. */
  readonly spread: number;
  readonly details: Readonly<Record<string, unknown>>;
}

const columns = [
  'bench',
  'load',
  'unit',
  'ours',
  'peer',
  'theirs',
  'ratio',
  'bound',
  'spread',
  'verdict',
] as const;

export function renderTable(results: readonly BenchResult[]): string {
  const rows = results.map((result) => [
    result.bench,
    result.load,
    result.unit,
    result.ours.toFixed(1),
    result.peer,
    result.theirs?.toFixed(1) ?? '',
    result.ratio?.toFixed(2) ?? '',
    result.bound === undefined ? '' : `<= ${result.bound}`,
    `${(result.spread * 100).toFixed(0)} %`,
    result.bound === undefined ? '' : result.ok ? 'ok' : 'MISSED',
  ]);
  const widths = columns.map((name, at) => Math.max(name.length, ...rows.map((row) => row[at]?.length ?? 0)));
  return [[...columns], ...rows]
    .map((row) =>
      row
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

export function writeResults(path: string, results: readonly BenchResult[]): void {
  mkdirSync(dirname(path), { recursive: true });
  const run = {
    date: new Date().toISOString(),
    versions: versions(),
    machine: { kernel: release(), cores: availableParallelism(), cpu: cpus()[0]?.model ?? '' },
    results,
  };
  writeFileSync(path, `${JSON.stringify(run, undefined, 2)}\n`);
}

function versions(): Record<string, string> {
  return {
    nodemesh: ownVersion(),
    commit: firstLine('git', ['rev-parse', '--short', 'HEAD']),
    node: process.version,
    haproxy: firstLine('haproxy', ['-v']),
    nginx: firstLine('nginx', ['-v']),
    wrk: firstLine('wrk', ['-v']),
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
