// SPDX-License-Identifier: Apache-2.0
// `node test/kind/main.ts up|down|status [--name NAME] [--nodes N] [ARCHIVE…]`: a Kubernetes cluster on this machine,
// out of namespaces, with the images of the archives in every node. Also `make cluster-up` and `make cluster-down`.

import { parseArgs } from 'node:util';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { takeDown } from './down.ts';
import { DEFAULT_NAME } from './layout.ts';
import { clusterNames, clusterState } from './notes.ts';
import { bringUp } from './up.ts';

const NODES = 2;

const say = (text: string): void => void process.stdout.write(`${text}\n`);

async function up(name: string, nodes: number, images: readonly string[]): Promise<void> {
  const startedMs = performance.now();
  const layout = await bringUp({ name, nodes, images, say });
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  const choice = name === DEFAULT_NAME ? '' : `CLUSTER=${name} `;
  say(
    `the cluster "${name}" with ${layout.nodes.length} nodes is ready after ${seconds} s: ${choice}test/kind/kubectl get pods -A`,
  );
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { name: { type: 'string' }, nodes: { type: 'string' } },
  });
  if (process.getuid?.() !== 0) throw new MeshError('MESH_NOT_ROOT', 'namespaces need root');
  const name = values.name ?? DEFAULT_NAME;
  switch (positionals[0] ?? '') {
    case 'up':
      return up(name, Number(values.nodes ?? NODES), positionals.slice(1));
    case 'down':
      say((await takeDown(name)) ? `the cluster "${name}" is gone` : `there was no cluster "${name}"`);
      return;
    case 'status':
      for (const one of clusterNames()) say(`${one}: ${clusterState(one)}`);
      return;
    default:
      throw new MeshError('MESH_CONFIG_INVALID', 'say what to do: up, down or status');
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`cluster: ${errorMessage(error)}\n`);
  process.exitCode = 1;
}
