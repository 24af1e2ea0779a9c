// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 through the mesh and through its peers, in the same run, between pods of two nodes.
//   h1-plain  one hop:  meshed client -> server outside the mesh    against haproxy, nginx
//   h1-mtls   two hops: meshed client -> meshed server              against two nginx with mutual TLS between them

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { compare, type Contestant, type Course, type Measured, race } from './cpu-per-request.ts';
import { type Ground, LOAD_CORES, onGround, podObject, PROXY_CORES } from './ground.ts';
import { makeCertificates, type Peer, startPeer } from './peers.ts';
import { pin } from './processes.ts';
import type { BenchResult } from './results.ts';

const course: Course = {
  connections: Number(process.env['BENCH_CONNECTIONS'] ?? 32),
  rounds: Number(process.env['BENCH_ROUNDS'] ?? 5),
  seconds: Number(process.env['BENCH_SECONDS'] ?? 5),
  warmUpSeconds: 2,
};

/** BENCH_PROFILE=folder: the agents' workers write CPU profiles there (profile.ts). */
const profileDir = process.env['BENCH_PROFILE'];
const profileEnv = (dir: string): Record<string, string> => ({
  BENCH_PROFILE: resolve(dir),
  NODE_OPTIONS: `--import=${join(import.meta.dirname, 'profile.ts')}`,
});
const agentEnv = {
  NODEMESH_WORKERS: '1',
  ...(profileDir === undefined ? {} : profileEnv(profileDir)),
};

const ORIGIN_PORT = 8080;
const originConfig = join(import.meta.dirname, 'peers', 'origin.conf');
const originCommand = ['taskset', '-c', LOAD_CORES, 'nginx', '-e', 'stderr', '-c', originConfig];

const pods = [
  podObject({ name: 'client', node: 'node1', meshed: true, command: ['sleep', 'infinity'] }),
  podObject({ name: 'client-plain', node: 'node1', meshed: false, command: ['sleep', 'infinity'] }),
  podObject({ name: 'server', node: 'node2', meshed: true, command: originCommand, readyPort: ORIGIN_PORT }),
  podObject({
    name: 'server-plain',
    node: 'node2',
    meshed: false,
    command: originCommand,
    readyPort: ORIGIN_PORT,
  }),
];

/** A mesh with one worker per agent, as the peers have one; all agents on the proxies' core. */
const withGround = <T>(use: (ground: Ground, dir: string) => Promise<T>): Promise<T> =>
  onGround(pods, agentEnv, async (ground) => {
    for (const node of ['node1', 'node2'] as const) pin(ground.agentPids(node), PROXY_CORES);
    const dir = mkdtempSync(join(tmpdir(), 'nodemesh-bench-'));
    try {
      return await use(ground, dir);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

const runner =
  (ground: Ground, pod: string) =>
  (argv: readonly string[]): Promise<string> =>
    ground.run(pod, ['taskset', '-c', LOAD_CORES, ...argv]);

/** Runs the race and makes sure that what was measured as ours really passed through the agent. */
async function raceAndProve(
  ground: Ground,
  contestants: readonly Contestant[],
  tls: 'true' | 'no_identity',
): Promise<Map<string, Measured>> {
  const before = requestsCounted(await ground.metrics('node1'), tls);
  const measured = await race(contestants, course);
  const counted = requestsCounted(await ground.metrics('node1'), tls) - before;
  const sent = measured.get('nodemesh')?.loads.reduce((sum, load) => sum + load.requests, 0) ?? 0;
  if (counted < sent)
    throw new Error(`the agent counted ${counted} of ${sent} requests: the rest went round it`);
  return measured;
}

function requestsCounted(metrics: string, tls: string): number {
  let sum = 0;
  for (const line of metrics.split('\n')) {
    if (!line.startsWith('request_total{') || !line.includes('direction="outbound"')) continue;
    if (line.includes(`tls="${tls}"`)) sum += Number(line.slice(line.lastIndexOf(' ') + 1));
  }
  return sum;
}

const stopAll = async (peers: readonly Peer[]): Promise<void> => {
  await Promise.all(peers.map((peer) => peer.stop()));
};

export const h1Plain = (): Promise<BenchResult[]> =>
  withGround(async (ground, dir) => {
    const origin = `${await ground.podIp('server-plain')}:${ORIGIN_PORT}`;
    const place = { netns: ground.podNetns('client-plain'), cores: PROXY_CORES, origin, dir };
    const peers: Peer[] = [];
    try {
      const haproxy = { ...place, name: 'haproxy', config: 'haproxy.cfg', listen: '127.0.0.1:9001' } as const;
      const nginx = { ...place, name: 'nginx', config: 'nginx.conf', listen: '127.0.0.1:9002' } as const;
      const contestants: Contestant[] = [
        {
          name: 'nodemesh',
          pids: () => ground.agentPids('node1'),
          url: `http://${origin}/`,
          run: runner(ground, 'client'),
        },
      ];
      for (const plan of [haproxy, nginx]) {
        const peer = await startPeer(plan);
        peers.push(peer);
        const url = `http://${plan.listen}/`;
        contestants.push({ name: plan.name, pids: peer.pids, url, run: runner(ground, 'client-plain') });
      }
      return compare('h1-plain', await raceAndProve(ground, contestants, 'no_identity'), course, {
        haproxy: 1.3,
        nginx: undefined,
      });
    } finally {
      await stopAll(peers);
    }
  });

export const h1Mtls = (): Promise<BenchResult[]> =>
  withGround(async (ground, dir) => {
    makeCertificates(dir);
    const plainServer = await ground.podIp('server-plain');
    const peers: Peer[] = [];
    try {
      const common = { cores: PROXY_CORES, dir };
      peers.push(
        await startPeer({
          ...common,
          name: 'nginx-server',
          netns: ground.podNetns('server-plain'),
          config: 'nginx-mtls-server.conf',
          listen: '0.0.0.0:8443',
          origin: `127.0.0.1:${ORIGIN_PORT}`,
        }),
        await startPeer({
          ...common,
          name: 'nginx-client',
          netns: ground.podNetns('client-plain'),
          config: 'nginx-mtls-client.conf',
          listen: '127.0.0.1:9003',
          origin: `${plainServer}:8443`,
        }),
      );
      const contestants: Contestant[] = [
        {
          name: 'nodemesh',
          pids: () => [...ground.agentPids('node1'), ...ground.agentPids('node2')],
          url: `http://${await ground.podIp('server')}:${ORIGIN_PORT}/`,
          run: runner(ground, 'client'),
        },
        {
          name: 'two nginx',
          pids: () => peers.flatMap((peer) => peer.pids()),
          url: 'http://127.0.0.1:9003/',
          run: runner(ground, 'client-plain'),
        },
      ];
      return compare('h1-mtls', await raceAndProve(ground, contestants, 'true'), course, {
        'two nginx': 0.8,
      });
    } finally {
      await stopAll(peers);
    }
  });
