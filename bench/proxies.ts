// SPDX-License-Identifier: Apache-2.0
// The benchmarks of traffic: what is sent, through which pods, against which peers, and how much CPU time it may take.
// Ours and the peers' carry the same load between the same places in the same run:
//
//   one hop     client ─▶ agent ─▶ server-plain          client-plain ─▶ peer ─▶ server-plain
//   two hops    client ─▶ agent ═TLS═▶ agent ─▶ server   client-plain ─▶ peer ═TLS═▶ peer ─▶ server-plain
//
// The agents and peers have one core and one worker, clients and servers the other core.

import { join } from 'node:path';
import { type Ground, LOAD_CORES, onGround, podObject, PROXY_CORES, sumOf } from './ground.ts';
import { type Address, h2load, iperf3, type Load, wrk } from './load.ts';
import { makeCertificates, type Peer, type PeerConfig, startPeer } from './peers.ts';
import { pin } from './processes.ts';
import { compare, type Contestant, type Course, course, type Measured, race } from './race.ts';
import type { Row } from './results.ts';

type Origin = 'nginx' | 'nghttpd' | 'iperf3';

const HTTP_PORT = 8080;
/** Of the ports that are opaque unless somebody says otherwise. */
const OPAQUE_PORT = 9300;
const PEER_PORT = 9001;
const PEER_TLS_PORT = 8443;

const peersDir = join(import.meta.dirname, 'peers');
const origins: Readonly<Record<Origin, readonly string[]>> = {
  nginx: ['nginx', '-e', 'stderr', '-c', join(peersDir, 'origin.conf')],
  nghttpd: [
    'nghttpd',
    '--no-tls',
    `--htdocs=${join(peersDir, 'origin')}`,
    `--mime-types-file=${join(peersDir, 'origin', 'mime.types')}`,
    '--trailer=grpc-status: 0',
    String(HTTP_PORT),
  ],
  iperf3: ['iperf3', '-s', '-p', String(OPAQUE_PORT)],
};

export interface PeerChain {
  readonly name: string;
  /** One hop, or the client's and the server's half of two with mutual TLS between them. */
  readonly configs: readonly [PeerConfig] | readonly [PeerConfig, PeerConfig];
}

export interface ProxyBench {
  readonly origin: Origin;
  readonly port?: number;
  /** Where our traffic goes: to a pod outside the mesh, to one of the other node, to one of the same node. */
  readonly way: 'one hop' | 'two hops' | 'same node';
  readonly sameNode?: string;
  readonly peers: readonly PeerChain[];
  /** What proves that the traffic passed the agent as meant: a family, and labels beside the way's. */
  readonly proof: readonly [family: string, ...labels: string[]];
  readonly runs: readonly {
    readonly load: Load;
    /** By peer; a peer without one is only shown. */
    readonly bounds: Readonly<Record<string, number>>;
    /** Ours is divided by so many hops, where the peer has one. */
    readonly hops?: number;
  }[];
}

const HAPROXY: PeerChain = { name: 'haproxy', configs: ['haproxy-http.cfg'] };
const HAPROXY_TCP: PeerChain = { name: 'haproxy', configs: ['haproxy-tcp.cfg'] };
const NGHTTPX: PeerChain = { name: 'nghttpx', configs: ['nghttpx.conf'] };
export const TWO_HAPROXY: PeerChain = {
  name: 'two haproxy',
  configs: ['haproxy-mtls-client-http.cfg', 'haproxy-mtls-server-http.cfg'],
};
const TWO_HAPROXY_TCP: PeerChain = {
  name: 'two haproxy',
  configs: ['haproxy-mtls-client-tcp.cfg', 'haproxy-mtls-server-tcp.cfg'],
};
const TWO_NGINX: PeerChain = {
  name: 'two nginx',
  configs: ['nginx-mtls-client.conf', 'nginx-mtls-server.conf'],
};

const REQUESTS = ['request_total', 'direction="outbound"'] as const;
const OPENED = ['tcp_open_total', 'direction="outbound"', 'peer="dst"'] as const;
const BYTES = ['tcp_write_bytes_total', 'direction="outbound"', 'peer="dst"'] as const;

export const proxyBenches: Readonly<Record<string, ProxyBench>> = {
  'h1-plain': {
    origin: 'nginx',
    way: 'one hop',
    peers: [HAPROXY],
    proof: REQUESTS,
    runs: [
      { load: wrk(1), bounds: { haproxy: 1.3 } },
      { load: wrk(32), bounds: { haproxy: 1.15 } },
      { load: wrk(128), bounds: { haproxy: 1 } },
    ],
  },
  'h1-mtls': {
    origin: 'nginx',
    way: 'two hops',
    peers: [TWO_NGINX],
    proof: REQUESTS,
    runs: [
      { load: wrk(32), bounds: { 'two nginx': 0.65 } },
      { load: wrk(128), bounds: { 'two nginx': 0.55 } },
    ],
  },
  'h1-same-node': {
    origin: 'nginx',
    way: 'same node',
    peers: [HAPROXY],
    proof: REQUESTS,
    runs: [{ load: wrk(32), bounds: { haproxy: 1.2 } }],
  },
  'h1-close': {
    origin: 'nginx',
    way: 'two hops',
    peers: [TWO_HAPROXY],
    proof: REQUESTS,
    runs: [{ load: wrk(32, { close: true }), bounds: { 'two haproxy': 1.4 } }],
  },
  'h2-plain': {
    origin: 'nghttpd',
    way: 'one hop',
    peers: [NGHTTPX],
    proof: REQUESTS,
    runs: [
      { load: h2load(8, 16), bounds: { nghttpx: 0.7 } },
      { load: h2load(32, 1), bounds: { nghttpx: 1.3 } },
    ],
  },
  'h2-mtls': {
    origin: 'nghttpd',
    way: 'two hops',
    peers: [NGHTTPX],
    proof: REQUESTS,
    runs: [{ load: h2load(8, 16), bounds: { nghttpx: 1 }, hops: 2 }],
  },
  grpc: {
    origin: 'nghttpd',
    way: 'two hops',
    peers: [NGHTTPX],
    proof: ['response_total', 'direction="outbound"', 'grpc_status="0"'],
    runs: [{ load: h2load(8, 16, { grpc: true }), bounds: { nghttpx: 1.2 }, hops: 2 }],
  },
  'tcp-mtls': {
    origin: 'iperf3',
    port: OPAQUE_PORT,
    way: 'two hops',
    peers: [TWO_HAPROXY_TCP],
    proof: BYTES,
    runs: [{ load: iperf3, bounds: { 'two haproxy': 1.1 } }],
  },
  'tcp-close': {
    origin: 'nginx',
    port: OPAQUE_PORT,
    way: 'one hop',
    peers: [HAPROXY_TCP],
    proof: OPENED,
    runs: [{ load: wrk(32, { close: true }), bounds: { haproxy: 1.6 } }],
  },
  'tcp-same-node': {
    origin: 'iperf3',
    port: OPAQUE_PORT,
    way: 'same node',
    sameNode: 'carrier',
    peers: [HAPROXY_TCP],
    proof: BYTES,
    runs: [{ load: iperf3, bounds: { haproxy: 1.3 } }],
  },
};

const wayLabels: Readonly<Record<ProxyBench['way'], readonly string[]>> = {
  'one hop': ['tls="no_identity"'],
  'two hops': ['tls="true"'],
  'same node': ['tls="true"', 'same_node="true"'],
};

export async function runProxyBench(name: string, bench: ProxyBench): Promise<Row[]> {
  return onCourse(bench, async (ground, contestants) => {
    const rows: Row[] = [];
    for (const { load, bounds, hops } of bench.runs) {
      const measured = await raceAndProve(ground, bench, contestants, load);
      for (const { name: peer } of bench.peers) {
        const bound = bounds[peer];
        rows.push(
          compare(measured, { bench: name, load, peer, bound, ...(hops === undefined ? {} : { hops }) }),
        );
      }
    }
    return rows;
  });
}

/** A mesh with what the benchmark needs, its peers running; everybody on their cores. */
export async function onCourse<T>(
  bench: Pick<ProxyBench, 'origin' | 'port' | 'way' | 'sameNode' | 'peers'>,
  use: (ground: Ground, contestants: readonly Contestant[]) => Promise<T>,
): Promise<T> {
  const port = bench.port ?? HTTP_PORT;
  const serverNode = bench.way === 'same node' ? 'node1' : 'node2';
  const command = ['taskset', '-c', LOAD_CORES, ...origins[bench.origin]];
  const server = { node: serverNode, command, readyPort: port } as const;
  const client = { node: 'node1', command: ['sleep', 'infinity'] } as const;
  const pods = [
    podObject({ ...client, name: 'client', meshed: true }),
    podObject({ ...client, name: 'client-plain', meshed: false }),
    podObject({ ...server, name: 'server', meshed: true }),
    podObject({ ...server, name: 'server-plain', meshed: false }),
  ];
  const env = {
    NODEMESH_WORKERS: '1',
    ...(bench.sameNode === undefined ? {} : { NODEMESH_SAME_NODE: bench.sameNode }),
  };
  return onGround(pods, env, async (ground) => {
    const agents = () => [
      ...ground.agentPids('node1'),
      ...(bench.way === 'two hops' ? ground.agentPids('node2') : []),
    ];
    for (const node of ['node1', 'node2'] as const) pin(ground.agentPids(node), PROXY_CORES);
    makeCertificates(ground.dir);
    const target = { host: await ground.podIp(bench.way === 'one hop' ? 'server-plain' : 'server'), port };
    const contestants: Contestant[] = [
      { name: 'nodemesh', pids: agents, target, run: runner(ground, 'client') },
    ];
    const peers: Peer[] = [];
    try {
      for (const [index, chain] of bench.peers.entries()) {
        const listen = { host: '127.0.0.1', port: PEER_PORT + index };
        const started = await startChain(ground, chain, listen, port, PEER_TLS_PORT + index);
        peers.push(...started);
        contestants.push({
          name: chain.name,
          pids: () => started.flatMap((peer) => peer.pids()),
          target: listen,
          run: runner(ground, 'client-plain'),
        });
      }
      return await use(ground, contestants);
    } finally {
      await Promise.all(peers.map((peer) => peer.stop()));
    }
  });
}

async function startChain(
  ground: Ground,
  { name, configs: [first, second] }: PeerChain,
  listen: Address,
  originPort: number,
  tlsPort: number,
): Promise<Peer[]> {
  const server = await ground.podIp('server-plain');
  const common = { cores: PROXY_CORES, dir: ground.dir };
  const clientNetns = ground.podNetns('client-plain');
  if (second === undefined) {
    const origin = { host: server, port: originPort };
    return [await startPeer({ ...common, name, netns: clientNetns, config: first, listen, origin })];
  }
  const far = await startPeer({
    ...common,
    name: `${name}, server's`,
    netns: ground.podNetns('server-plain'),
    config: second,
    listen: { host: '0.0.0.0', port: tlsPort },
    origin: { host: '127.0.0.1', port: originPort },
  });
  const near = await startPeer({
    ...common,
    name: `${name}, client's`,
    netns: clientNetns,
    config: first,
    listen,
    origin: { host: server, port: tlsPort },
  });
  return [near, far];
}

const runner =
  (ground: Ground, pod: string) =>
  (argv: readonly string[]): Promise<string> =>
    ground.run(pod, ['taskset', '-c', LOAD_CORES, ...argv]);

/** Runs the race and makes sure that what was measured as ours really passed through the agent, as it should. */
export async function raceAndProve(
  ground: Ground,
  { way, proof: [family, ...labels] }: Pick<ProxyBench, 'way' | 'proof'>,
  contestants: readonly Contestant[],
  load: Load,
  how: Course = course,
): Promise<Measured> {
  const counted = async (): Promise<number> =>
    sumOf(await ground.metrics('node1'), family, [...labels, ...wayLabels[way]]) /
    (load.unit === 'MiB' ? 1024 * 1024 : 1);
  const before = await counted();
  const measured = await race(contestants, load, how);
  const passed = (await counted()) - before;
  const sent = measured.get('nodemesh')?.reduce((sum, round) => sum + round.load.units, 0) ?? 0;
  if (passed < sent) {
    const series = `${family}{${[...labels, ...wayLabels[way]].join(',')}}`;
    throw new Error(
      `the agent's ${series} rose by ${passed}, for ${sent} ${load.unit}s: the rest went otherwise`,
    );
  }
  return measured;
}
