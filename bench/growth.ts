// SPDX-License-Identifier: Apache-2.0
// How the cost of a request grows with what there is of everything: client connections (haproxy beside, since the kernel's
// part grows for everybody), endpoints of a service, routes of a service, pods on the node. The steps of one kind are
// measured in turns within one run where that is possible; each is compared with the first.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { defineField } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { ClientRoute } from '../agent/proxy/model.ts';
import { createRouteIndex } from '../agent/proxy/route/route-index.ts';
import { Http2RoutedRequest } from '../agent/proxy/route/routed-request.ts';
import {
  type Ground,
  type KubernetesObject,
  LOAD_CORES,
  onGround,
  podObject,
  PROXY_CORES,
} from './ground.ts';
import { wrk } from './load.ts';
import { cpuUsOf, pin, pssBytesOf } from './processes.ts';
import { onCourse } from './proxies.ts';
import { compare, type Contestant, course, type Measured, race, type Round } from './race.ts';
import type { Row } from './results.ts';
import { median, spread } from './statistics.ts';

const STEPS = [1, 10, 100, 1000] as const;
/** A thousand take minutes to start. */
const POD_STEPS = (process.env['BENCH_PODS'] ?? '1 10 100').split(' ').map(Number);
const CONNECTIONS = 32;
const PODS_READY_MS = 300_000;
const HTTP_PORT = 8080;
const BENCH = 'growth';

/** One each, since a mesh that has had a thousand of something is no longer what it was. */
export const growthBenches: Readonly<Record<string, () => Promise<Row[]>>> = {
  'growth-connections': byConnections,
  'growth-endpoints': () => onOneMesh(byEndpoints),
  'growth-routes': async () => byRoutes(),
  'growth-pods': () => onOneMesh(byPods),
};

async function byConnections(): Promise<Row[]> {
  const peers = [{ name: 'haproxy', configs: ['haproxy-http.cfg'] }] as const;
  return onCourse({ origin: 'nginx', way: 'one hop', peers }, async (_ground, contestants) => {
    const rows: Row[] = [];
    for (const count of STEPS) {
      const load = wrk(count);
      const measured = await race(contestants, load);
      rows.push(compare(measured, { bench: BENCH, load, peer: 'haproxy', bound: undefined }));
    }
    return rows;
  });
}

const origin = ['taskset', '-c', LOAD_CORES, 'nginx', '-e', 'stderr', '-c'];
const client = podObject({ name: 'client', node: 'node1', meshed: true, command: ['sleep', 'infinity'] });
const server = podObject({
  name: 'server',
  node: 'node2',
  meshed: false,
  command: [...origin, join(import.meta.dirname, 'peers', 'origin.conf')],
  readyPort: HTTP_PORT,
});

function onOneMesh(measure: (ground: Ground) => Promise<Row[]>): Promise<Row[]> {
  // A slot for the one worker: with four of them a thousand pods would need more descriptors than a process may have here.
  const env = { NODEMESH_WORKERS: '1', NODEMESH_LISTENER_SLOTS: '1' };
  return onGround([client, server], env, (ground) => {
    pin(ground.agentPids('node1'), PROXY_CORES);
    return measure(ground);
  });
}

/** `of`: what there is more and more of. */
function rowsOf(measured: Measured, of: string): Row[] {
  const [first] = measured.keys();
  if (first === undefined) return [];
  return [...measured].map(([name, rounds]) => {
    const pair: Measured = new Map([
      ['nodemesh', rounds],
      [first, measured.get(first) ?? []],
    ]);
    const load = { ...wrk(CONNECTIONS), text: `${of}: ${name}` };
    return compare(pair, { bench: BENCH, load, peer: first, bound: undefined });
  });
}

/** The engine alone, in the server's namespace: a thousand pods as endpoints would need a thousand servers. */
async function byEndpoints(ground: Ground): Promise<Row[]> {
  const program = join(import.meta.dirname, 'engine', 'h1-proxy.ts');
  const children = STEPS.map((count) =>
    spawn(
      'nsenter',
      [
        `--net=${ground.podNetns('server')}`,
        'taskset',
        '-c',
        PROXY_CORES,
        process.execPath,
        '--max-semi-space-size=4',
        program,
        String(HTTP_PORT),
        String(count),
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    ),
  );
  try {
    const contestants: Contestant[] = [];
    for (const [index, child] of children.entries()) {
      const [line] = (await once(child.stdout, 'data')) as [Buffer];
      contestants.push({
        name: String(STEPS[index]),
        pids: () => [child.pid ?? 0],
        target: { host: '127.0.0.1', port: Number.parseInt(line.toString(), 10) },
        run: (argv) => ground.run('server', ['taskset', '-c', LOAD_CORES, ...argv]),
      });
    }
    return rowsOf(await race(contestants, wrk(CONNECTIONS)), 'endpoints');
  } finally {
    for (const child of children) child.kill();
  }
}

const LOOKUPS = 200_000;

/** Finding a rule, alone: for requests to all of the rules in turn. */
function byRoutes(): Row[] {
  const measured = STEPS.map((count) => {
    const index = createRouteIndex(
      { protocol: 'http', routes: Array.from({ length: count }, (_, at) => routeOf(at)) },
      (route) => route,
    );
    const requests = Array.from({ length: count }, (_, at) => requestOf(at));
    const rounds: number[] = [];
    let found = 0;
    for (let round = 0; round < course.rounds; round++) {
      const before = process.threadCpuUsage().user;
      for (let at = 0; at < LOOKUPS; at++)
        found += index(new Http2RoutedRequest(requests[at % count] as HeaderList)) === undefined ? 0 : 1;
      rounds.push((process.threadCpuUsage().user - before) / LOOKUPS);
    }
    if (found !== LOOKUPS * course.rounds) throw new Error('a route was not found');
    return { count, us: median(rounds), rounds };
  });
  const first = measured[0]?.us ?? Number.NaN;
  return measured.map(({ count, us, rounds }) => ({
    bench: BENCH,
    load: `routes: ${count}, finding one`,
    unit: 'us CPU/request',
    oursCpuUs: us,
    peer: '1',
    peerCpuUs: first,
    ratio: us / first,
    bound: undefined,
    ok: true,
    spread: spread(rounds),
    details: { rounds },
  }));
}

const routeOf = (at: number): ClientRoute => ({
  reference: { group: '', kind: '', namespace: '', name: '', port: 0 },
  hosts: [],
  rules: [
    {
      matches: [{ path: { kind: 'prefix', value: `/api/part-${at}` }, fields: [], parameters: [] }],
      filters: [],
      backends: [],
      policy: {},
    },
  ],
});

function requestOf(at: number): HeaderList {
  const list = new HeaderList();
  list.add(defineField(':method', 'GET'));
  list.add(defineField(':scheme', 'http'));
  list.add(defineField(':authority', 'web.bench.svc.cluster.local'));
  list.add(defineField(':path', `/api/part-${at}/items/42`));
  return list;
}

/** One after the other, since pods come and stay; what the machine does meanwhile is in the difference, too. */
async function byPods(ground: Ground): Promise<Row[]> {
  const host = await ground.podIp('server');
  const measured = new Map<string, readonly Round[]>();
  const rows: Row[] = [];
  let pods = 1;
  for (const count of POD_STEPS) {
    const more = Array.from({ length: count - pods }, (_, at) => idlePod(pods + at));
    pods = count;
    if (more.length > 0) await ground.mesh.apply(...more);
    await ground.mesh.waitReady(PODS_READY_MS);
    const contestant: Contestant = {
      name: String(count),
      pids: () => ground.agentPids('node1'),
      target: { host, port: HTTP_PORT },
      run: (argv) => ground.run('client', ['taskset', '-c', LOAD_CORES, ...argv]),
    };
    for (const [name, rounds] of await race([contestant], wrk(CONNECTIONS))) measured.set(name, rounds);
    rows.push(...(await ofAgent(ground, count)));
  }
  return [...rowsOf(measured, 'pods'), ...rows];
}

const idlePod = (at: number): KubernetesObject =>
  podObject({ name: `idle${at}`, node: 'node1', meshed: true, command: ['sleep', 'infinity'] });

/** What the agent has and does with so many pods when nobody asks for anything. */
async function ofAgent(ground: Ground, pods: number): Promise<Row[]> {
  const scrapes: number[] = [];
  for (let index = 0; index < 5; index++) scrapes.push(await ground.timedScrape('node1'));
  const agent = ground.agentPids('node1');
  const [before, since] = [cpuUsOf(agent), performance.now()];
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  const idle = (cpuUsOf(agent) - before) / (performance.now() - since);
  const row = (load: string, unit: string, value: number): Row => ({
    bench: BENCH,
    load: `pods: ${pods}, ${load}`,
    unit,
    value,
    peer: '',
    bound: undefined,
    ok: true,
    spread: 0,
    details: {},
  });
  return [
    row('memory', 'MB PSS', pssBytesOf(agent) / 1e6),
    row('a scrape', 'ms', median(scrapes)),
    row('nothing asked', 'ms CPU/s', idle),
  ];
}
