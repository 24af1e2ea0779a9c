// SPDX-License-Identifier: Apache-2.0
// How long a scrape of ten thousand series takes, and what it does to the requests that a worker carries meanwhile: their
// latency, and how long the worker's event loop is held up by a scrape, though both share one core here.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Ground, LOAD_CORES, onGround, podObject, PROXY_CORES } from './ground.ts';
import { openLoop } from './load.ts';
import { pin } from './processes.ts';
import { course } from './race.ts';
import type { Row } from './results.ts';
import { median, spread } from './statistics.ts';
import { delaysEnv, longestDelay, readDelays } from './worker-delays.ts';

const SERIES = 10_000;
const BOUND_MS = 100;
/** The median over the scrapes of the longest time for which the worker was held up: a few turns of the scheduler. */
const DELAY_BOUND_MS = 10;
const SCRAPES = 20;
const FIRST_PORT = 10_000;
const LAST_PORT = 10_299;
const RATE = 500;
/** About as long as a scrape with its curl. */
const QUIET_SPAN_MS = 50;

const command = ['nginx', '-e', 'stderr', '-c', join(import.meta.dirname, 'peers', 'origin.conf')];
const pods = [
  podObject({ name: 'client', node: 'node1', meshed: true, command: ['sleep', 'infinity'] }),
  podObject({ name: 'server-plain', node: 'node2', meshed: false, command, readyPort: 8080 }),
];

export async function scrape(): Promise<Row[]> {
  const delaysDir = mkdtempSync(join(tmpdir(), 'nodemesh-delays-'));
  try {
    return await onGround(pods, { NODEMESH_WORKERS: '1', ...delaysEnv(delaysDir) }, (ground) =>
      measure(ground, delaysDir),
    );
  } finally {
    rmSync(delaysDir, { recursive: true });
  }
}

interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

async function measure(ground: Ground, delaysDir: string): Promise<Row[]> {
  const agent = ground.agentPids('node1');
  pin(agent, PROXY_CORES);
  const host = await ground.podIp('server-plain');
  // A destination each, with its counters and its histogram.
  await ground.run('client', ['curl', '-sS', '-Z', `http://${host}:[${FIRST_PORT}-${LAST_PORT}]/`]);
  const series = (await ground.metrics('node1')).split('\n').filter((line) => /^[a-z]/.test(line)).length;
  if (series < SERIES) throw new Error(`${series} series instead of ${SERIES}`);

  const load = openLoop(RATE, 16);
  const run = async (): Promise<number> => {
    const argv = ['taskset', '-c', LOAD_CORES, ...load.command({ host, port: 8080 }, course.seconds)];
    return load.parse(await ground.run('client', argv)).p99Ms;
  };
  await run();
  const quiet: Span[] = [];
  const quietFromMs = Date.now();
  const quietP99Ms = await run();
  for (let fromMs = quietFromMs; fromMs + QUIET_SPAN_MS < Date.now(); fromMs += QUIET_SPAN_MS)
    quiet.push({ fromMs, toMs: fromMs + QUIET_SPAN_MS });
  const times: number[] = [];
  const scrapes: Span[] = [];
  const loaded = new AbortController();
  const scraping = (async (): Promise<void> => {
    while (!loaded.signal.aborted || times.length < SCRAPES) {
      const fromMs = Date.now();
      times.push(await ground.timedScrape('node1'));
      scrapes.push({ fromMs, toMs: Date.now() });
    }
  })();
  const scrapedP99Ms = await run();
  loaded.abort();
  await scraping;
  const delays = await readDelays(delaysDir, agent);
  const heldUp = (spans: readonly Span[]): number[] =>
    spans.map(({ fromMs, toMs }) => longestDelay(delays, fromMs, toMs));
  const [without, during] = [heldUp(quiet), heldUp(scrapes)];
  console.log(
    `  ${times.length} scrapes of ${series} series; p99 of requests ${quietP99Ms.toFixed(2)} ms without, ${scrapedP99Ms.toFixed(2)} ms while scraped again and again; worker held up ${median(during).toFixed(1)} ms in a scrape (at most ${Math.max(...during).toFixed(1)}), ${median(without).toFixed(1)} ms in ${QUIET_SPAN_MS} ms without (at most ${Math.max(...without).toFixed(1)})`,
  );
  const row = (unit: string, values: readonly number[], bound: number): Row => ({
    bench: 'scrape',
    load: `${series} series, ${RATE} requests/s beside`,
    unit,
    value: median(values),
    peer: '',
    bound,
    ok: median(values) <= bound,
    spread: spread(values),
    details: {},
  });
  return [
    { ...row('ms', times, BOUND_MS), oursP99Ms: scrapedP99Ms, details: { times, quietP99Ms, scrapedP99Ms } },
    { ...row('ms worker held up', during, DELAY_BOUND_MS), details: { during, without } },
  ];
}
