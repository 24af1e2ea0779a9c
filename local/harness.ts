// SPDX-License-Identifier: Apache-2.0
// Local meshes for tests: starts one as a process of its own, which removes everything when the test ends, however
// it ends, and offers what `mesh local` can do as functions.

import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { stringify } from 'yaml';
import { callDaemon, takeDown } from './api-client.ts';
import type { MeshStatus } from './api.ts';
import type { AppliedObject, ObjectRef } from './apply.ts';
import { requireCgroup2 } from './cgroups.ts';
import { type CommandOptions, type CommandResult, inCgroup, inNetns, runCommand } from './command.ts';
import { agentProgramName, type ExtraEnv, keeperProgramName } from './control-plane.ts';
import { type MeshLayout, meshLayout, type NodeLayout } from './layout.ts';
import type { ManifestSource } from './manifests.ts';
import type { AgentAction } from './node-agent.ts';
import type { Kind, ObjectTypes, PodObject } from './objects.ts';
import { spawnDaemon } from './spawn-daemon.ts';

export type { CommandResult } from './command.ts';
export type { MeshLayout, NodeLayout } from './layout.ts';
export type { PodObject } from './objects.ts';
export { leftovers, nothingLeft } from './sweep.ts';

const READY_MS = 60_000;
const PROGRAM_POLL_MS = 20;

export interface MeshOptions {
  /** Letters, digits and dashes; meshes of different names run side by side. */
  readonly name: string;
  readonly nodes?: number;
  /** Of the nodes in their order; none if absent. */
  readonly zones?: readonly string[];
  /** Paths of manifests. */
  readonly files?: readonly string[];
  /** Objects in Kubernetes' shape. */
  readonly objects?: readonly object[];
  /** False: plain pods without agents. */
  readonly mesh?: boolean;
  readonly agentEnv?: ExtraEnv;
  readonly identityEnv?: ExtraEnv;
  readonly destinationEnv?: ExtraEnv;
  /** How long the keepers wait for an agent's beat; 30 s if absent. */
  readonly keeperLimitMs?: number;
  /** Limit of open files (RLIMIT_NOFILE) of the agents. */
  readonly agentOpenFilesMax?: number;
  readonly logLevel?: string;
  /** How long everything may take to be ready; 60 s if absent. */
  readonly readyMs?: number;
  readonly progress?: (line: string) => void;
}

export interface ExecOptions extends CommandOptions {
  readonly ns?: string;
  readonly container?: string;
}

export interface Place {
  exec(argv: readonly string[], options?: CommandOptions): Promise<CommandResult>;
}

export interface MeshNode extends Place {
  readonly layout: NodeLayout;
  /** The current agent itself (not its parent), as soon as there is one. */
  agentPid(): Promise<number>;
  keeperPid(): Promise<number>;
  /** Sends the signal to the agent itself; its parent or the daemon starts the next one. Waits for nothing. */
  killAgent(signal?: NodeJS.Signals): Promise<void>;
  /** SIGTERM (with `kill` SIGKILL) and, unless `wait` is false, waits until the next agent is ready. */
  restartAgent(options?: { readonly kill?: boolean; readonly wait?: boolean }): Promise<void>;
  /** A second agent beside the first, which gets SIGTERM once the second is ready. Waits until the first has ended. */
  upgradeAgent(options?: { readonly wait?: boolean }): Promise<void>;
  /** Kills every agent of the node with its parent; none is started again. */
  stopAgent(): Promise<void>;
  /** `env` is for this agent and those after it. */
  startAgent(options?: {
    readonly wait?: boolean;
    readonly env?: Readonly<Record<string, string>>;
  }): Promise<void>;
  /** Waits until the current agent says that it is ready. */
  agentReady(): Promise<void>;
  /**
   * Every process, every network namespace, the pins and the sockets of the node are gone at once; then it boots with
   * what is on its disk. Waits neither for the agent nor for pods.
   */
  reboot(): Promise<void>;
  /** The daemon starts the next one. */
  killKeeper(signal?: NodeJS.Signals): Promise<void>;
}

export interface LocalMesh {
  readonly name: string;
  readonly layout: MeshLayout;
  /** The daemon's process. */
  readonly process: ChildProcess;
  status(): Promise<MeshStatus>;
  /** Objects, or manifests as text. */
  apply(...manifests: readonly (object | string)[]): Promise<readonly AppliedObject[]>;
  /** Deletes and waits until the objects are gone. */
  delete(...refs: readonly ObjectRef[]): Promise<void>;
  annotate(
    kind: 'Namespace' | 'Pod',
    namespace: string,
    name: string,
    ...items: readonly string[]
  ): Promise<void>;
  list<K extends Kind>(kind: K, namespace?: string): Promise<readonly ObjectTypes[K][]>;
  pods(namespace?: string): Promise<readonly PodObject[]>;
  pod(name: string, namespace?: string): Promise<PodObject>;
  /** Waits until every Deployment is complete and every pod ready, and services and names follow. */
  waitReady(timeoutMs?: number): Promise<void>;
  /** Runs a program in a pod (its name, or `deploy/NAME`). */
  exec(pod: string, argv: readonly string[], options?: ExecOptions): Promise<CommandResult>;
  logs(pod: string, options?: { ns?: string; container?: string }): Promise<string>;
  /** node1, node2, … */
  node(name: string): MeshNode;
  /** The bridge between the nodes (its name is wire0). */
  readonly wire: Place;
  /** Where identity and destination run. */
  readonly control: Place;
  down(): Promise<void>;
}

const asSource = (manifest: object | string, index: number): ManifestSource => ({
  file: `manifest ${index + 1}`,
  text: typeof manifest === 'string' ? manifest : stringify(manifest, { aliasDuplicateObjects: false }),
});

function nodePrograms(mesh: string, node: string): Omit<MeshNode, 'layout' | 'exec'> {
  const act = async (
    action: AgentAction,
    wait: boolean,
    env: Readonly<Record<string, string>> = {},
  ): Promise<void> => {
    await callDaemon(mesh, 'agent', { node, action, wait, env });
  };
  const pidOf = async (program: string): Promise<number> => {
    const deadline = performance.now() + READY_MS;
    for (;;) {
      const { programs } = await callDaemon(mesh, 'status', {});
      const pid = programs.find(({ name }) => name === program)?.pid;
      if (pid !== undefined) return pid;
      if (performance.now() > deadline) throw new Error(`there is no ${program}`);
      await sleep(PROGRAM_POLL_MS);
    }
  };
  const agentPid = () => pidOf(agentProgramName(node));
  const keeperPid = () => pidOf(keeperProgramName(node));
  return {
    agentPid,
    keeperPid,
    async killAgent(signal = 'SIGKILL') {
      process.kill(await agentPid(), signal);
    },
    async killKeeper(signal = 'SIGKILL') {
      process.kill(await keeperPid(), signal);
    },
    restartAgent: ({ kill = false, wait = true } = {}) => act(kill ? 'kill' : 'restart', wait),
    upgradeAgent: ({ wait = true } = {}) => act('upgrade', wait),
    stopAgent: () => act('stop', true),
    startAgent: ({ wait = true, env = {} } = {}) => act('start', wait, env),
    agentReady: () => act('ready', true),
    async reboot() {
      await callDaemon(mesh, 'reboot', { node });
    },
  };
}

export async function startMesh(options: MeshOptions): Promise<LocalMesh> {
  const { name, nodes = 2, mesh = true } = options;
  const layout = meshLayout(name, nodes, requireCgroup2());
  const sources: ManifestSource[] = [
    ...(options.files ?? []).map((file) => ({ file, text: readFileSync(file, 'utf8') })),
    ...(options.objects ?? []).map(asSource),
  ];
  const child = await spawnDaemon(
    {
      options: {
        name,
        nodes,
        zones: options.zones ?? [],
        meshed: mesh,
        logLevel: options.logLevel ?? 'info',
        sources,
        agentEnv: options.agentEnv ?? {},
        identityEnv: options.identityEnv ?? {},
        destinationEnv: options.destinationEnv ?? {},
        ...(options.agentOpenFilesMax === undefined ? {} : { agentOpenFilesMax: options.agentOpenFilesMax }),
        ...(options.keeperLimitMs === undefined ? {} : { keeperLimitMs: options.keeperLimitMs }),
      },
      waitMs: options.readyMs ?? READY_MS,
      endWithParent: true,
    },
    options.progress ?? (() => undefined),
  );
  // The channel ends the daemon with this process; it shall not keep this process alive.
  child.unref();
  child.channel?.unref();
  const place = (netns: string, cgroup: string): Place => ({
    exec: (argv, commandOptions) => runCommand(inCgroup(cgroup, inNetns(netns, argv)), commandOptions),
  });
  const pods = async (namespace?: string): Promise<readonly PodObject[]> =>
    (await callDaemon(name, 'get', { kind: 'Pod', namespace })) as readonly PodObject[];
  return {
    name,
    layout,
    process: child,
    status: () => callDaemon(name, 'status', {}),
    apply: (...manifests) => callDaemon(name, 'apply', { sources: manifests.map(asSource) }),
    async delete(...refs) {
      await callDaemon(name, 'delete', { refs, waitMs: READY_MS });
    },
    async annotate(kind, namespace, object, ...items) {
      const ref = { kind, namespace: kind === 'Namespace' ? '' : namespace, name: object };
      await callDaemon(name, 'annotate', { ref, items });
    },
    async list<K extends Kind>(kind: K, namespace?: string) {
      const objects = await callDaemon(name, 'get', { kind, namespace });
      return objects as readonly ObjectTypes[K][];
    },
    pods,
    async pod(pod, namespace = 'default') {
      const found = (await pods(namespace)).find((candidate) => candidate.metadata.name === pod);
      if (found === undefined) throw new Error(`there is no pod ${namespace}/${pod}`);
      return found;
    },
    async waitReady(timeoutMs = READY_MS) {
      await callDaemon(name, 'wait', { timeoutMs });
    },
    async exec(pod, argv, { ns, container, ...commandOptions } = {}) {
      const reply = await callDaemon(name, 'exec', { pod, namespace: ns, container, argv });
      return runCommand(reply.argv, commandOptions);
    },
    async logs(pod, { ns, container } = {}) {
      const { file } = await callDaemon(name, 'logs', { pod, namespace: ns, container });
      return readFileSync(file, 'utf8');
    },
    node(nodeName) {
      const node = layout.nodes.find((candidate) => candidate.name === nodeName);
      if (node === undefined) throw new Error(`there is no node ${nodeName}`);
      return { layout: node, ...place(node.netns, node.systemCgroup), ...nodePrograms(name, nodeName) };
    },
    wire: place(layout.wireNetns, layout.controlCgroup),
    control: place(layout.controlNetns, layout.controlCgroup),
    async down() {
      await takeDown(name);
    },
  };
}
