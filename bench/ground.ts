// SPDX-License-Identifier: Apache-2.0
// Where the benchmarks run: a local mesh of two nodes with real agents, and pods for clients and servers.

import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { cgroupProcesses } from '../local/cgroups.ts';
import { type LocalMesh, startMesh } from '../local/harness.ts';
import { netnsPath, podNetns } from '../local/layout.ts';
import { waitFor } from './peers.ts';

export const NAMESPACE = 'bench';

/** With two cores, one is for the proxies and one for client and server. */
export const PROXY_CORES = '0';
export const LOAD_CORES = '1';

export type KubernetesObject = Readonly<Record<string, unknown>>;

export interface PodPlan {
  readonly name: string;
  readonly node: 'node1' | 'node2';
  readonly meshed: boolean;
  readonly command: readonly string[];
  readonly account?: string;
  readonly readyPort?: number;
}

export const namespaceObject: KubernetesObject = {
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name: NAMESPACE },
};

export const accountObject = (name: string): KubernetesObject => ({
  apiVersion: 'v1',
  kind: 'ServiceAccount',
  metadata: { name, namespace: NAMESPACE },
});

export const podObject = (plan: PodPlan): KubernetesObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name: plan.name,
    namespace: NAMESPACE,
    labels: { app: plan.name },
    annotations: { 'linkerd.io/inject': plan.meshed ? 'enabled' : 'disabled' },
  },
  spec: {
    nodeName: plan.node,
    serviceAccountName: plan.account ?? 'default',
    terminationGracePeriodSeconds: 1,
    containers: [
      {
        name: 'main',
        image: 'none',
        command: [...plan.command],
        ...(plan.readyPort === undefined
          ? {}
          : { readinessProbe: { tcpSocket: { port: plan.readyPort }, periodSeconds: 1 } }),
      },
    ],
  },
});

export interface Ground {
  readonly mesh: LocalMesh;
  /** For files of this run; it goes with the mesh, however the run ends. */
  readonly dir: string;
  podNetns(pod: string): string;
  podIp(pod: string): Promise<string>;
  /** Runs a program in a pod; rejects with what it said if it fails. */
  run(pod: string, argv: readonly string[]): Promise<string>;
  agentPids(node: 'node1' | 'node2'): number[];
  metrics(node: 'node1' | 'node2'): Promise<string>;
  /** Milliseconds for the agent's metrics, from the connect to the last byte. */
  timedScrape(node: 'node1' | 'node2'): Promise<number>;
}

const metricsUrl = (mesh: LocalMesh, node: 'node1' | 'node2', path: string): string =>
  `http://${mesh.node(node).layout.address.v4}:4191${path}`;

/** What the agent's own address answers; '' if nothing does. */
async function ask(mesh: LocalMesh, node: 'node1' | 'node2', path: string): Promise<string> {
  const result = await mesh
    .node(node)
    .exec(['curl', '-sSf', '--max-time', '10', metricsUrl(mesh, node, path)]);
  return result.code === 0 ? result.stdout : '';
}

/** The sum of a family's series that have all of these labels. */
export function sumOf(metrics: string, family: string, labels: readonly string[]): number {
  let sum = 0;
  for (const line of metrics.split('\n')) {
    if (!line.startsWith(`${family}{`) || !labels.every((label) => line.includes(label))) continue;
    sum += Number(line.slice(line.lastIndexOf(' ') + 1));
  }
  return sum;
}

const waitForAgent = (mesh: LocalMesh, node: 'node1' | 'node2'): Promise<void> =>
  waitFor(`the agent of ${node}`, async () => (await ask(mesh, node, '/ready')) !== '', 60_000);

/** BENCH_PROFILE=folder: the agents' workers write CPU profiles there (profile.ts). */
const profileDir = process.env['BENCH_PROFILE'];
const profileEnv: Readonly<Record<string, string>> =
  profileDir === undefined
    ? {}
    : {
        BENCH_PROFILE: resolve(profileDir),
        NODE_OPTIONS: `--import=${join(import.meta.dirname, 'profile.ts')}`,
      };

let standing: LocalMesh | undefined;

/** For a run that is interrupted: ends every process on the ground, peers and load included. */
export async function clearGround(): Promise<void> {
  await standing?.down();
}

/** Starts a mesh, lets `use` work on it and removes it, whatever happens. */
export async function onGround<T>(
  objects: readonly KubernetesObject[],
  agentEnv: Readonly<Record<string, string>>,
  use: (ground: Ground) => Promise<T>,
): Promise<T> {
  const name = `bench${process.pid}`;
  const preloads = [profileEnv, agentEnv].flatMap(({ NODE_OPTIONS }) => NODE_OPTIONS ?? []);
  const mesh = await startMesh({
    name,
    nodes: 2,
    objects: [namespaceObject],
    agentEnv: { ...profileEnv, ...agentEnv, NODE_OPTIONS: preloads.join(' ') },
    logLevel: 'warn',
    readyMs: 120_000,
  });
  standing = mesh;
  try {
    const dir = join(mesh.layout.dir, 'bench');
    mkdirSync(dir);
    for (const node of ['node1', 'node2'] as const) await waitForAgent(mesh, node);
    await mesh.apply(...objects);
    await mesh.waitReady();
    return await use({
      mesh,
      dir,
      podNetns: (pod) => netnsPath(podNetns(name, NAMESPACE, pod)),
      async podIp(pod) {
        const ip = (await mesh.pod(pod, NAMESPACE)).status.podIP;
        if (ip === undefined) throw new Error(`${pod} has no address`);
        return ip;
      },
      async run(pod, argv) {
        const result = await mesh.exec(pod, argv, { ns: NAMESPACE, timeoutMs: 120_000 });
        if (result.code !== 0) {
          throw new Error(
            `${argv.join(' ')} in ${pod}: exit ${result.code}: ${result.stdout}${result.stderr}`,
          );
        }
        return result.stdout;
      },
      metrics: (node) => ask(mesh, node, '/metrics'),
      async timedScrape(node) {
        const url = metricsUrl(mesh, node, '/metrics');
        const argv = ['curl', '-sSf', '-o', '/dev/null', '-w', '%{time_total}', '--max-time', '10', url];
        return Number((await mesh.node(node).exec(argv)).stdout) * 1000;
      },
      agentPids: (node) => cgroupProcesses(mesh.node(node).layout.agentCgroup),
    });
  } finally {
    standing = undefined;
    await mesh.down();
  }
}
