// SPDX-License-Identifier: Apache-2.0
// The mesh on a test's cluster, by the way of its users: what `mesh` prints goes to kubectl.

import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { type CommandResult, runCommand } from '../../local/command.ts';
import type { Cluster, KubernetesObject } from './cluster.ts';

const MESH = resolve(import.meta.dirname, '../../bin/mesh');

export const components = ['identity', 'destination', 'policy-validator'] as const;
export type Component = (typeof components)[number];

export interface Installation {
  readonly namespace: string;
  /** `mesh ARGS` on this cluster, whatever its exit code. */
  mesh(...args: readonly string[]): Promise<CommandResult>;
  /** Must succeed; its output. */
  printed(...args: readonly string[]): Promise<string>;
  /** Must succeed; its output is applied. */
  apply(...args: readonly string[]): Promise<void>;
  removeAll(): Promise<void>;
  ready(component: Component, replicas: number): Promise<readonly KubernetesObject[]>;
}

export const componentSelector = (component: Component): string =>
  `nodemesh.io/control-plane-component=${component}`;

export function installationOn(cluster: Cluster, namespace = 'nodemesh'): Installation {
  const installation: Installation = {
    namespace,
    mesh: (...args) =>
      runCommand([MESH, ...args, '--kubeconfig', cluster.kubeconfig, '--linkerd-namespace', namespace], {
        timeoutMs: 60_000,
      }),
    async printed(...args) {
      const { code, stdout, stderr } = await installation.mesh(...args);
      assert.equal(code, 0, stderr);
      return stdout;
    },
    async apply(...args) {
      await cluster.kubectl(['apply', '--filename=-'], { input: await installation.printed(...args) });
    },
    async removeAll() {
      const input = await installation.printed('uninstall', '--crds', '--force');
      if (input === '') return;
      await cluster.kubectl(['delete', '--ignore-not-found', '--wait', '--filename=-'], { input });
    },
    ready: (component, replicas) => cluster.podsReady(namespace, componentSelector(component), replicas),
  };
  return installation;
}
