// SPDX-License-Identifier: Apache-2.0
// Sends the same load through several proxies in turn and compares the CPU time that their processes used.

import { type Load, type LoadResult, parseWrk, wrkCommand } from './load.ts';
import { cpuUsOf } from './processes.ts';
import type { BenchResult } from './results.ts';
import { median, spread } from './statistics.ts';

export interface Contestant {
  readonly name: string;
  /** The processes whose CPU time counts. */
  readonly pids: () => number[];
  readonly url: string;
  /** Runs a command where the client stands and gives its output. */
  readonly run: (argv: readonly string[]) => Promise<string>;
}

export interface Course {
  readonly connections: number;
  readonly rounds: number;
  readonly seconds: number;
  readonly warmUpSeconds: number;
}

export interface Measured {
  readonly cpuUs: readonly number[];
  readonly loads: readonly LoadResult[];
}

/** Rounds of one run for each contestant, the order turned each time, so that a slow minute hits all alike. */
export async function race(
  contestants: readonly Contestant[],
  course: Course,
): Promise<Map<string, Measured>> {
  const results = new Map<string, { cpuUs: number[]; loads: LoadResult[] }>();
  for (const { name } of contestants) results.set(name, { cpuUs: [], loads: [] });
  for (let round = 0; round < course.rounds; round++) {
    for (let turn = 0; turn < contestants.length; turn++) {
      const contestant = contestants[(round + turn) % contestants.length];
      if (contestant === undefined) continue;
      const load: Load = { connections: course.connections, seconds: course.seconds, url: contestant.url };
      await contestant.run(wrkCommand({ ...load, seconds: course.warmUpSeconds }));
      const pids = contestant.pids();
      const before = cpuUsOf(pids);
      const result = parseWrk(await contestant.run(wrkCommand(load)));
      const cpuUs = (cpuUsOf(pids) - before) / result.requests;
      if (result.requests === 0 || result.failures > 0) {
        throw new Error(`${contestant.name}: ${result.failures} failures, ${result.requests} requests`);
      }
      results.get(contestant.name)?.cpuUs.push(cpuUs);
      results.get(contestant.name)?.loads.push(result);
      const rate = Math.round(result.requestsPerSecond);
      console.log(
        `  round ${round + 1}  ${contestant.name.padEnd(12)} ${cpuUs.toFixed(1).padStart(6)} us  ${rate}/s`,
      );
    }
  }
  return results;
}

/** Us against each peer; `bounds` has the highest ratio allowed, none for a peer that is only shown. */
export function compare(
  bench: string,
  measured: ReadonlyMap<string, Measured>,
  course: Course,
  bounds: Readonly<Record<string, number | undefined>>,
): BenchResult[] {
  const ours = measured.get('nodemesh');
  if (ours === undefined) throw new Error('nodemesh did not run');
  return Object.entries(bounds).map(([peer, bound]) => {
    const theirs = measured.get(peer);
    if (theirs === undefined) throw new Error(`${peer} did not run`);
    const oursCpuUs = median(ours.cpuUs);
    const peerCpuUs = median(theirs.cpuUs);
    // Round by round: what else the machine did then slowed both.
    const ratios = ours.cpuUs.map((us, round) => us / (theirs.cpuUs[round] ?? Number.NaN));
    const ratio = median(ratios);
    return {
      bench,
      load: `wrk, ${course.connections} connections`,
      unit: 'us CPU/request',
      ours: oursCpuUs,
      peer,
      theirs: peerCpuUs,
      ratio,
      bound,
      ok: bound === undefined || ratio <= bound,
      spread: spread(ratios),
      details: { ratios, oursRuns: ours, peerRuns: theirs },
    };
  });
}
