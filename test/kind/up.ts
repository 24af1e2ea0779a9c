// SPDX-License-Identifier: Apache-2.0
// Makes a cluster: network, machines, control plane, nodes, DNS, images. Ready when it returns.

import { mkdirSync, symlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { MeshError } from '#lib/core/errors.ts';
import { runCommand } from '../../local/command.ts';
import { baseImages } from './base-images.ts';
import { baseObjects } from './base-objects.ts';
import { takeDown } from './down.ts';
import { kubectl, tryKubectl } from './kubectl.ts';
import { type ClusterLayout, clusterLayout, type NodeLayout } from './layout.ts';
import { bootMachine, insideMachine, startPart } from './machine.ts';
import { writeMachineFiles } from './machine-files.ts';
import { makeNetwork, netnsDirIsMount } from './network.ts';
import { clusterState, readNotes, thisMaker, writeNotes } from './notes.ts';
import { apiSocketPart, controlPart, nodePart } from './parts.ts';
import { requirePrograms } from './programs.ts';

const READY_MS_MAX = 180_000;
const PAUSE_MS = 100;

export interface UpOptions {
  readonly name: string;
  readonly nodes: number;
  /** docker-archive files for every node. */
  readonly images: readonly string[];
  readonly say: (text: string) => void;
}

export async function bringUp(options: UpOptions): Promise<ClusterLayout> {
  const { name, say } = options;
  const layout = clusterLayout(name, options.nodes);
  const state = clusterState(name);
  if (state === 'being made')
    throw new MeshError('MESH_ALREADY_EXISTS', `another process is making the cluster "${name}"`, {
      remedy: 'wait for it, or choose another name',
    });
  if (state === 'up') {
    if (readNotes(name)?.nodes !== options.nodes)
      throw new MeshError('MESH_ALREADY_EXISTS', `the cluster "${name}" is up with another number of nodes`, {
        remedy: 'take it down first: make cluster-down',
      });
    await importImages(layout, options.images);
    return layout;
  }
  if (state === 'left over' && (await takeDown(name))) say('removed what an earlier run left');
  const programs = await requirePrograms(say);
  const base = await baseImages(programs);

  mkdirSync(layout.dir, { recursive: true, mode: 0o755 });
  const notes = { nodes: options.nodes, netnsDirWasMount: netnsDirIsMount() };
  writeNotes(name, { ...notes, maker: thisMaker() });
  try {
    await makeNetwork(layout);
    await writeMachineFiles(layout, Date.now());
    await Promise.all([layout.control, ...layout.nodes].map((machine) => bootMachine(machine, programs)));
    symlinkSync(programs.kubernetes, layout.programs);
    await Promise.all([
      startControlPlane(layout),
      ...layout.nodes.map((node) => startPart(node, nodePart(node, 'containerd'))),
    ]);
    await Promise.all([
      // A kubelet that does not find an image waits ten seconds before it looks again.
      importImages(layout, base).then(() => startNodes(layout)),
      importImages(layout, options.images),
      waitReady(layout),
    ]);
    writeNotes(name, { ...notes, maker: undefined });
  } catch (error) {
    say(`not complete; its logs are in ${layout.dir}/*/root/var/log until it is taken down`);
    throw error;
  }
  return layout;
}

async function waitFor(what: string, ask: () => Promise<boolean>): Promise<void> {
  const endMs = performance.now() + READY_MS_MAX;
  while (!(await ask())) {
    if (performance.now() > endMs)
      throw new MeshError('MESH_TIMEOUT', `${what}: not there after ${READY_MS_MAX / 1000} s`);
    await delay(PAUSE_MS);
  }
}

async function startControlPlane(layout: ClusterLayout): Promise<void> {
  const { control } = layout;
  await Promise.all([
    startPart(control, controlPart(layout, 'etcd')),
    startPart(control, controlPart(layout, 'kube-apiserver')),
    startPart(control, apiSocketPart),
  ]);
  // The API server makes it when it is ready already; nothing can be put into it before.
  await waitFor(
    'the namespace kube-system',
    async () => (await tryKubectl(layout, ['get', 'namespace', 'kube-system'])).code === 0,
  );
  // The controller manager gives up when there is no API server within ten seconds.
  await Promise.all([
    startPart(control, controlPart(layout, 'kube-controller-manager')),
    startPart(control, controlPart(layout, 'kube-scheduler')),
    kubectl(layout, ['apply', '--filename=-'], {
      input: JSON.stringify({ apiVersion: 'v1', kind: 'List', items: baseObjects(layout) }),
    }),
  ]);
}

const startNodes = (layout: ClusterLayout): Promise<unknown> => Promise.all(layout.nodes.map(startNode));

/** What runs beside the runtime, which must run. */
export const startNode = (node: NodeLayout): Promise<unknown> =>
  Promise.all([startPart(node, nodePart(node, 'kubelet')), startPart(node, nodePart(node, 'kube-proxy'))]);

/** A node is Ready before there are service accounts, and pods need one. */
async function waitReady(layout: ClusterLayout): Promise<void> {
  await waitFor(
    'the default service account',
    async () => (await tryKubectl(layout, ['get', 'serviceaccount', 'default'])).code === 0,
  );
  const limit = `--timeout=${READY_MS_MAX / 1000}s`;
  await kubectl(layout, ['wait', '--for=condition=Ready', 'node', '--all', limit]);
  await kubectl(layout, ['--namespace=kube-system', 'rollout', 'status', 'deployment/coredns', limit]);
}

/** Into every node's containerd; what a node has already costs only the reading. */
export async function importImages(layout: ClusterLayout, archives: readonly string[]): Promise<void> {
  await Promise.all(
    layout.nodes.map(async (node) => {
      for (const archive of archives) await importImage(node, archive);
    }),
  );
}

export async function importImage(node: NodeLayout, archive: string): Promise<void> {
  const ctr = insideMachine(node, ['ctr', '--namespace=k8s.io', 'images', 'import', '-']);
  // The file itself, no pipe: ctr does not read what pads an archive, and a pipe is broken then.
  const result = await runCommand(['sh', '-c', 'exec "$@" <"$0"', archive, ...ctr]);
  if (result.code !== 0)
    throw new MeshError(
      'MESH_COMMAND_FAILED',
      `${archive} cannot be imported into ${node.name}: ${result.stderr.slice(-2000).trim()} (${result.code})`,
    );
}
