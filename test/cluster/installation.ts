// SPDX-License-Identifier: Apache-2.0
// The mesh on a test's cluster, by the way of its users: what `mesh` prints goes to kubectl. What can be seen of it then
// is in mesh.ts.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type CommandResult, runCommand } from '../../local/command.ts';
import { type Cluster, type KubernetesObject, openCluster } from './cluster.ts';

export const MESH_NAMESPACE = 'nodemesh';
export const MESH_COMMAND = resolve(import.meta.dirname, '../../bin/mesh');
const COMMAND_MS = 300_000;

export const components = ['identity', 'destination', 'policy-validator'] as const;
export type Component = (typeof components)[number];

export const componentSelector = (component: Component | 'agent' | 'keeper'): string =>
  `nodemesh.io/control-plane-component=${component}`;

export interface NodePod extends KubernetesObject {
  readonly spec: { readonly nodeName: string };
}

export interface Installation {
  readonly namespace: string;
  /** `mesh ARGS` on this cluster, whatever its exit code. */
  run(...args: readonly string[]): Promise<CommandResult>;
  /** Must succeed; its output. */
  printed(...args: readonly string[]): Promise<string>;
  /** Must succeed; its output is applied. */
  apply(...args: readonly string[]): Promise<void>;
  /** The definitions, and then the rest. */
  installControlPlane(...flags: readonly string[]): Promise<void>;
  installNodes(...flags: readonly string[]): Promise<void>;
  /** Exactly so many of it are there, and ready. */
  ready(component: Component, replicas?: number): Promise<readonly KubernetesObject[]>;
  controlPlaneReady(replicas?: number): Promise<void>;
  /** Exactly one on each node, and ready. */
  nodePodsReady(component: 'agent' | 'keeper'): Promise<readonly NodePod[]>;
  /** Resolves when every agent is of the last change, and none of before is left. */
  agentsRolled(): Promise<void>;
  restartAgents(): Promise<void>;
  /** From nodes and cluster, whatever an earlier run left, too. */
  removeAll(): Promise<void>;
}

export function installationOn(cluster: Cluster, namespace = MESH_NAMESPACE): Installation {
  const daemonSet = ['daemonset/nodemesh-agent', `--namespace=${namespace}`];
  const installation: Installation = {
    namespace,
    run: (...args) =>
      runCommand(
        [MESH_COMMAND, ...args, '--kubeconfig', cluster.kubeconfig, '--linkerd-namespace', namespace],
        { timeoutMs: COMMAND_MS },
      ),
    async printed(...args) {
      const { code, stdout, stderr } = await installation.run(...args);
      assert.equal(code, 0, stderr);
      return stdout;
    },
    async apply(...args) {
      await cluster.kubectl(['apply', '--filename=-'], { input: await installation.printed(...args) });
    },
    async installControlPlane(...flags) {
      await installation.apply('install', '--crds');
      await installation.apply('install', ...flags);
    },
    installNodes: (...flags) => installation.apply('install-cni', ...flags),
    ready: (component, replicas = 1) => cluster.podsReady(namespace, componentSelector(component), replicas),
    async controlPlaneReady(replicas) {
      for (const component of components) await installation.ready(component, replicas);
    },
    nodePodsReady: async (component) =>
      (await cluster.podsReady(
        namespace,
        componentSelector(component),
        cluster.nodes.length,
      )) as readonly NodePod[],
    async agentsRolled() {
      const limits = ['--timeout=240s'];
      await cluster.kubectl(['rollout', 'status', ...daemonSet, ...limits], { timeoutMs: 260_000 });
      await installation.nodePodsReady('agent');
    },
    async restartAgents() {
      await cluster.kubectl(['rollout', 'restart', ...daemonSet]);
      await installation.agentsRolled();
    },
    async removeAll() {
      // The plugin goes last.
      if (cluster.nodes.some(({ root }) => existsSync(join(root, 'opt/cni/bin/nodemesh-cni'))))
        await installation.printed('uninstall-cni', '--force');
      const input = await installation.printed('uninstall', '--crds', '--force');
      if (input === '') return;
      // Kubernetes looks into a namespace that is deleted every five seconds: pods that have ended by then save a look.
      const workloads = ['deployments,daemonsets', '--all', `--namespace=${namespace}`, '--wait=false'];
      await cluster.kubectl(['delete', ...workloads]);
      await cluster.kubectl(['delete', '--ignore-not-found', '--wait', '--filename=-'], { input });
    },
  };
  return installation;
}

/** For what is tested without a mesh: a file that was killed may have left one. */
export async function withoutMesh(): Promise<void> {
  const cluster = await openCluster();
  try {
    await installationOn(cluster).removeAll();
  } finally {
    await cluster.close();
  }
}
