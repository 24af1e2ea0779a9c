// SPDX-License-Identifier: Apache-2.0
// Where the benchmarks run: a local mesh of two nodes with real agents, and pods for clients and servers.

import { cgroupProcesses } from '../local/cgroups.ts';
import { type LocalMesh, startMesh } from '../local/harness.ts';
import { netnsPath, podNetns } from '../local/layout.ts';

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
  podNetns(pod: string): string;
  podIp(pod: string): Promise<string>;
  /** Runs a program in a pod; rejects with what it said if it fails. */
  run(pod: string, argv: readonly string[]): Promise<string>;
  agentPids(node: 'node1' | 'node2'): number[];
}

/** Starts a mesh, lets `use` work on it and removes it, whatever happens. */
export async function onGround<T>(
  objects: readonly KubernetesObject[],
  agentEnv: Readonly<Record<string, string>>,
  use: (ground: Ground) => Promise<T>,
): Promise<T> {
  const name = `bench${process.pid}`;
  const mesh = await startMesh({
    name,
    nodes: 2,
    objects: [namespaceObject, ...objects],
    agentEnv,
    logLevel: 'warn',
    readyMs: 120_000,
  });
  try {
    return await use({
      mesh,
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
      agentPids: (node) => cgroupProcesses(mesh.node(node).layout.agentCgroup),
    });
  } finally {
    await mesh.down();
  }
}
