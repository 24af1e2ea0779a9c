// SPDX-License-Identifier: Apache-2.0
// Sends the same load through several proxies in turn and compares the CPU time that their processes used. Beside it
// the whole machine's: what eBPF hooks cost is charged to the client and the server.

import type { Address, Load, LoadResult } from './load.ts';
import { cpuUsOf, machineCpuUs } from './processes.ts';
import type { Row, RunDetails } from './results.ts';
import { median, spread } from './statistics.ts';

export interface Contestant {
  readonly name: string;
  /** The processes whose CPU time counts. */
  readonly pids: () => number[];
  readonly target: Address;
  /** Runs a command where the client stands and gives its output. */
  readonly run: (argv: readonly string[]) => Promise<string>;
}

export interface Course {
  readonly rounds: number;
  readonly seconds: number;
  readonly warmUpSeconds: number;
}

export const course: Course = {
  rounds: Number(process.env['BENCH_ROUNDS'] ?? 5),
  seconds: Number(process.env['BENCH_SECONDS'] ?? 4),
  warmUpSeconds: 1,
};

export interface Round {
  /** Per request or MiB. */
  readonly cpuUs: number;
  readonly machineUs: number;
  readonly load: LoadResult;
}

export type Measured = ReadonlyMap<string, readonly Round[]>;

/** Rounds of one run for each contestant, the order turned each time, so that a slow minute hits all alike. */
export async function race(
  contestants: readonly Contestant[],
  load: Load,
  { rounds, seconds, warmUpSeconds }: Course = course,
): Promise<Measured> {
  const measured = new Map<string, Round[]>(contestants.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < contestants.length; turn++) {
      const contestant = contestants[(round + turn) % contestants.length];
      if (contestant === undefined) continue;
      const { name, target } = contestant;
      const run = async (duration: number): Promise<LoadResult> =>
        load.parse(await contestant.run(load.command(target, duration)));
      // The first time there is code to compile.
      await run(round === 0 ? 3 * warmUpSeconds : warmUpSeconds);
      const pids = contestant.pids();
      const [cpu, machine] = [cpuUsOf(pids), machineCpuUs()];
      const result = await run(seconds);
      const units = result.units;
      if (units === 0 || result.failures > 0) {
        throw new Error(`${name}: ${result.failures} failures, ${units} ${load.unit}s`);
      }
      const done: Round = {
        cpuUs: (cpuUsOf(pids) - cpu) / units,
        machineUs: (machineCpuUs() - machine) / units,
        load: result,
      };
      measured.get(name)?.push(done);
      console.log(
        `  ${load.text}  round ${round + 1}  ${name.padEnd(12)} ${done.cpuUs.toFixed(1).padStart(7)} us, machine ${done.machineUs.toFixed(1).padStart(7)} us per ${load.unit}  ${Math.round(result.perSecond)}/s${Number.isNaN(result.p999Ms) ? '' : `  p99 ${result.p99Ms.toFixed(2)} ms, p99.9 ${result.p999Ms.toFixed(2)} ms`}`,
      );
    }
  }
  return measured;
}

export interface Comparison {
  readonly bench: string;
  readonly load: Load;
  readonly peer: string;
  /** The highest ratio allowed; undefined: only shown. */
  readonly bound: number | undefined;
  /** Ours is divided by so many hops, where the peer has one. */
  readonly hops?: number;
}

export function compare(measured: Measured, { bench, load, peer, bound, hops = 1 }: Comparison): Row {
  const ours = measured.get('nodemesh') ?? [];
  const theirs = measured.get(peer) ?? [];
  // Round by round: what else the machine did then slowed both.
  const ratios = ours.map(({ cpuUs }, round) => cpuUs / hops / (theirs[round]?.cpuUs ?? Number.NaN));
  const ratio = median(ratios);
  const of = (rounds: readonly Round[], value: (round: Round) => number): number => median(rounds.map(value));
  const details: RunDetails = { ratios, ours, theirs };
  return {
    bench,
    load: load.text,
    unit: `us CPU/${load.unit}${hops === 1 ? '' : ', hop'}`,
    oursCpuUs: of(ours, (round) => round.cpuUs / hops),
    peer,
    peerCpuUs: of(theirs, (round) => round.cpuUs),
    ratio,
    bound,
    ok: bound === undefined || ratio <= bound,
    oursP99Ms: of(ours, (round) => round.load.p99Ms),
    peerP99Ms: of(theirs, (round) => round.load.p99Ms),
    spread: spread(ratios),
    oursMachineUs: of(ours, (round) => round.machineUs),
    peerMachineUs: of(theirs, (round) => round.machineUs),
    oursPerSecond: of(ours, (round) => round.load.perSecond),
    peerPerSecond: of(theirs, (round) => round.load.perSecond),
    details,
  };
}
