// SPDX-License-Identifier: Apache-2.0
// How long requests take over two mTLS hops when they come at random instants, whether or not earlier ones were
// answered: at half of what the slower of the two carries at most, the same for both.

import { openLoop, wrk } from './load.ts';
import { onCourse, raceAndProve, TWO_HAPROXY } from './proxies.ts';
import { course, type Measured, type Round } from './race.ts';
import type { Row } from './results.ts';
import { median, spread } from './statistics.ts';

const CONNECTIONS = 64;
const P99_RATIO = 1.3;
const P999_RATIO = 2;

const bench = { origin: 'nginx', way: 'two hops', peers: [TWO_HAPROXY] } as const;
const proof = ['request_total', 'direction="outbound"'] as const;

export async function latency(): Promise<Row[]> {
  return onCourse(bench, async (ground, contestants) => {
    const most: number[] = [];
    const saturating = wrk(CONNECTIONS);
    for (const { target, run } of contestants) {
      // The second counts: in the first there is code to compile.
      await run(saturating.command(target, course.seconds));
      most.push(saturating.parse(await run(saturating.command(target, course.seconds))).perSecond);
    }
    const load = openLoop(Math.round(Math.min(...most) / 2), CONNECTIONS);
    const twice = { ...course, seconds: 2 * course.seconds };
    const measured = await raceAndProve(ground, { ...bench, proof }, contestants, load, twice);
    return [
      row(measured, load.text, 'p50', (round) => round.load.p50Ms, undefined),
      row(measured, load.text, 'p99', (round) => round.load.p99Ms, P99_RATIO),
      row(measured, load.text, 'p99.9', (round) => round.load.p999Ms, P999_RATIO),
    ];
  });
}

function row(
  measured: Measured,
  load: string,
  which: string,
  valueOf: (round: Round) => number,
  bound: number | undefined,
): Row {
  const ours = measured.get('nodemesh') ?? [];
  const theirs = measured.get(TWO_HAPROXY.name) ?? [];
  const ratios = ours.map((round, index) => {
    const other = theirs[index];
    return other === undefined ? Number.NaN : valueOf(round) / valueOf(other);
  });
  const of = (rounds: readonly Round[], value: (round: Round) => number): number => median(rounds.map(value));
  const ratio = median(ratios);
  return {
    bench: 'latency',
    load,
    unit: `ms ${which}`,
    value: of(ours, valueOf),
    peerValue: of(theirs, valueOf),
    oursCpuUs: of(ours, (round) => round.cpuUs),
    peer: TWO_HAPROXY.name,
    peerCpuUs: of(theirs, (round) => round.cpuUs),
    ratio,
    bound,
    ok: bound === undefined || ratio <= bound,
    oursP99Ms: of(ours, (round) => round.load.p99Ms),
    peerP99Ms: of(theirs, (round) => round.load.p99Ms),
    spread: spread(ratios),
    details: { ratios, ours, theirs },
  };
}
