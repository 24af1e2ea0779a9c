// SPDX-License-Identifier: Apache-2.0
// Nodes of a cluster that is up: one loses power and boots again, one is added, the last one is taken away.

import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import { baseImages } from './base-images.ts';
import { baseObjects } from './base-objects.ts';
import { makeCgroups, removeCgroups } from './cgroups.ts';
import { kubectl } from './kubectl.ts';
import { type ClusterLayout, clusterLayout, type NodeLayout } from './layout.ts';
import { bootMachine, startPart } from './machine.ts';
import { writeLaterNode } from './machine-files.ts';
import { plugMachine, routeToPods, unplugMachine } from './network.ts';
import { readNotes, writeNotes } from './notes.ts';
import { nodePart } from './parts.ts';
import { type Programs, requirePrograms } from './programs.ts';
import { importImage, startNode } from './up.ts';

const builtAlready = (): Promise<Programs> => requirePrograms(() => undefined);

/** Ends everything that runs on the node at once and keeps its disk. */
async function cutPower(layout: ClusterLayout, node: NodeLayout): Promise<void> {
  await removeCgroups(makeCgroups(node.cgroup));
  await unplugMachine(layout, node);
}

async function boot(node: NodeLayout, images: readonly string[]): Promise<void> {
  await bootMachine(node, await builtAlready());
  await startPart(node, nodePart(node, 'containerd'));
  for (const archive of images) await importImage(node, archive);
  await startNode(node);
}

/** What is on its disk (/etc, /opt, /var) is kept, and nothing else: no process, namespace, mount, /run or eBPF pin. */
export async function rebootNode(layout: ClusterLayout, node: NodeLayout): Promise<void> {
  await cutPower(layout, node);
  await plugMachine(layout, node);
  await boot(node, []);
}

const withNodes = (layout: ClusterLayout, nodes: number): ClusterLayout => {
  const notes = readNotes(layout.name);
  if (notes === undefined) throw new MeshError('MESH_NOT_FOUND', `there is no cluster "${layout.name}"`);
  writeNotes(layout.name, { ...notes, nodes });
  return clusterLayout(layout.name, nodes);
};

/** With these images; ready when this returns. The layout with it; where it does not start, removeLastNode removes it. */
export async function addNode(layout: ClusterLayout, images: readonly string[]): Promise<ClusterLayout> {
  const wider = clusterLayout(layout.name, layout.nodes.length + 1);
  const node = lastOf(wider);
  await writeLaterNode(wider, node, Date.now());
  await kubectl(wider, ['apply', '--filename=-'], {
    input: JSON.stringify({ apiVersion: 'v1', kind: 'List', items: baseObjects(wider) }),
  });
  await plugMachine(wider, node);
  await routeToPods(wider, node, 'add');
  withNodes(layout, wider.nodes.length);
  await boot(node, [...(await baseImages(await builtAlready())), ...images]);
  await kubectl(wider, ['wait', '--for=condition=Ready', 'node', node.name, '--timeout=240s']);
  return wider;
}

/** Nothing of it is left. */
export async function removeLastNode(layout: ClusterLayout): Promise<ClusterLayout> {
  const node = lastOf(layout);
  await kubectl(layout, ['delete', 'node', node.name, '--ignore-not-found']);
  await cutPower(layout, node);
  await routeToPods(layout, node, 'delete');
  rmSync(dirname(node.root), { recursive: true, force: true });
  // Nobody there can say that they have ended; Kubernetes would find out a minute later.
  const pods = ['pods', '--all-namespaces', `--field-selector=spec.nodeName=${node.name}`];
  await kubectl(layout, ['delete', ...pods, '--grace-period=0', '--force']);
  return withNodes(layout, layout.nodes.length - 1);
}

const lastOf = (layout: ClusterLayout): NodeLayout => {
  const node = layout.nodes.at(-1);
  if (node === undefined) throw new MeshError('MESH_NOT_FOUND', `the cluster "${layout.name}" has no node`);
  return node;
};
