// SPDX-License-Identifier: Apache-2.0
// How much memory idle connections take in an agent, above what it has without them: many of plain HTTP/1.1, and
// many with mutual TLS (opaque ones, which have one each between the agents), where the larger agent counts. They are
// of several pods, as on any node: a single one may have at most half of the agent's descriptors.

import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Ground, onGround, podObject, sumOf } from './ground.ts';
import { waitFor } from './peers.ts';
import { pssBytesOf } from './processes.ts';
import { course } from './race.ts';
import type { Row } from './results.ts';
import { median, spread } from './statistics.ts';

const BOUND_MB = 80;
/** Each on a mesh of its own: what a run has left behind would be the next one's idleness. */
const RUNS = Math.min(3, course.rounds);
const SETTLE_MS = 3_000;
const CLIENTS = ['client1', 'client2', 'client3', 'client4', 'client5'] as const;

interface Case {
  readonly load: string;
  readonly count: number;
  readonly server: string;
  readonly port: number;
  readonly nodes: readonly ('node1' | 'node2')[];
  /** The series that must count the connections. */
  readonly labels: readonly string[];
}

const cases: readonly Case[] = [
  {
    load: '10000 idle plain connections',
    count: 10_000,
    server: 'server-plain',
    port: 8080,
    nodes: ['node1'],
    labels: ['direction="outbound"', 'peer="src"'],
  },
  {
    load: '1000 idle mesh TLS connections',
    count: 1_000,
    server: 'server',
    port: 9300,
    nodes: ['node1', 'node2'],
    labels: ['direction="outbound"', 'peer="dst"', 'tls="true"'],
  },
];

const command = ['nginx', '-e', 'stderr', '-c', join(import.meta.dirname, 'peers', 'origin.conf')];
const pods = [
  ...CLIENTS.map((name) => podObject({ name, node: 'node1', meshed: true, command: ['sleep', 'infinity'] })),
  podObject({ name: 'server', node: 'node2', meshed: true, command, readyPort: 8080 }),
  podObject({ name: 'server-plain', node: 'node2', meshed: false, command, readyPort: 8080 }),
];

export async function memory(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const each of cases) {
    const grown: number[] = [];
    for (let run = 0; run < RUNS; run++) {
      grown.push(await onGround(pods, { NODEMESH_WORKERS: '1' }, (ground) => measure(ground, each)));
      console.log(`  ${each.load}  run ${run + 1}  ${grown.at(-1)?.toFixed(1)} MB`);
    }
    const value = median(grown);
    rows.push({
      bench: 'memory',
      load: each.load,
      unit: 'MB PSS above idle',
      value,
      peer: '',
      bound: BOUND_MB,
      ok: value <= BOUND_MB,
      spread: spread(grown),
      details: { grown },
    });
  }
  return rows;
}

async function measure(ground: Ground, { count, server, port, nodes, labels }: Case): Promise<number> {
  const host = await ground.podIp(server);
  // What the first connection of a pod needs is there already.
  for (const pod of CLIENTS) {
    await ground.run(pod, ['curl', '-sS', '--max-time', '10', `http://${host}:${port}/`]);
  }
  const before = await settledMb(ground, nodes);
  const client = join(import.meta.dirname, 'hold-connections.ts');
  let ended: unknown;
  const each = String(count / CLIENTS.length);
  // They end with the mesh.
  for (const pod of CLIENTS) {
    ground
      .run(pod, [process.execPath, client, host, String(port), each])
      .catch((error: unknown) => (ended = error));
  }
  await waitFor(
    `${count} connections`,
    async () => {
      if (ended !== undefined) throw ended;
      return sumOf(await ground.metrics('node1'), 'tcp_open_connections', labels) >= count;
    },
    60_000,
  );
  const after = await settledMb(ground, nodes);
  if (ended !== undefined) throw ended;
  return Math.max(...after.map((mb, index) => mb - (before[index] ?? 0)));
}

/** Of each node's agent. */
async function settledMb(ground: Ground, nodes: Case['nodes']): Promise<number[]> {
  await sleep(SETTLE_MS);
  return nodes.map((node) => pssBytesOf(ground.agentPids(node)) / 1e6);
}
