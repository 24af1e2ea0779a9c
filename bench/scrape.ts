// SPDX-License-Identifier: Apache-2.0
// How long a scrape of ten thousand series takes, and what it does to the requests that a worker carries meanwhile.

import { join } from 'node:path';
import { LOAD_CORES, onGround, podObject, PROXY_CORES } from './ground.ts';
import { openLoop } from './load.ts';
import { pin } from './processes.ts';
import { course } from './race.ts';
import type { Row } from './results.ts';
import { median, spread } from './statistics.ts';

const SERIES = 10_000;
const BOUND_MS = 100;
const SCRAPES = 20;
const FIRST_PORT = 10_000;
const LAST_PORT = 10_299;
const RATE = 500;

const command = ['nginx', '-e', 'stderr', '-c', join(import.meta.dirname, 'peers', 'origin.conf')];
const pods = [
  podObject({ name: 'client', node: 'node1', meshed: true, command: ['sleep', 'infinity'] }),
  podObject({ name: 'server-plain', node: 'node2', meshed: false, command, readyPort: 8080 }),
];

export async function scrape(): Promise<Row[]> {
  return onGround(pods, { NODEMESH_WORKERS: '1' }, async (ground) => {
    pin(ground.agentPids('node1'), PROXY_CORES);
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
    const quietP99Ms = await run();
    const times: number[] = [];
    const loaded = new AbortController();
    const scraping = (async (): Promise<void> => {
      while (!loaded.signal.aborted || times.length < SCRAPES) times.push(await ground.timedScrape('node1'));
    })();
    const scrapedP99Ms = await run();
    loaded.abort();
    await scraping;
    const value = median(times);
    console.log(
      `  ${times.length} scrapes of ${series} series; p99 of requests ${quietP99Ms.toFixed(2)} ms without, ${scrapedP99Ms.toFixed(2)} ms while scraped again and again`,
    );
    return [
      {
        bench: 'scrape',
        load: `${series} series, ${RATE} requests/s beside`,
        unit: 'ms',
        value,
        peer: '',
        bound: BOUND_MS,
        ok: value <= BOUND_MS,
        oursP99Ms: scrapedP99Ms,
        spread: spread(times),
        details: { times, quietP99Ms, scrapedP99Ms },
      },
    ];
  });
}
