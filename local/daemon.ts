// SPDX-License-Identifier: Apache-2.0
// The process behind `mesh local up`: makes the mesh, keeps it as the objects say, answers the command line
// (api.ts), and removes everything at the end. One per name; holds no state beyond its life.

import { existsSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '#lib/core/clock.ts';
import { createConcurrency } from '#lib/core/concurrency.ts';
import { errnoName, errorMessage, MeshError } from '#lib/core/errors.ts';
import { type AppliedObject, applyManifests, DEFAULT_NAMESPACE } from './apply.ts';
import { killCgroup, requireCgroup2 } from './cgroups.ts';
import {
  type ControlPlane,
  type ExtraEnv,
  type Keys,
  makeKeys,
  nodeReady,
  putNodes,
  startControlPlane,
} from './control-plane.ts';
import { afterChanges, reconcile } from './controllers.ts';
import { isManaged, Kubelet } from './kubelet.ts';
import type { LocalLog } from './local-log.ts';
import { meshLayout, type MeshLayout, netnsPath, type NodeLayout, podNetns } from './layout.ts';
import { type ManifestSource, parseManifests } from './manifests.ts';
import { makeNetwork, makeNodeNetwork, removeNetns, removeNodeNetwork } from './network.ts';
import { AGENT_PORT, type NodeAgent } from './node-agent.ts';
import { bootFiles, loseFiles, makeFiles } from './node-files.ts';
import { NodeServices } from './node-services.ts';
import { isTerminating, namespaceOf, podIsFinished, podIsReady } from './objects.ts';
import { explainPod } from './pod-readiness.ts';
import type { PodWorker } from './pod-worker.ts';
import { createProber, type Prober } from './prober.ts';
import { mirrorStore } from './registry-writer.ts';
import { Store, waitForStore } from './store.ts';
import { lockName, sweep } from './sweep.ts';

export interface DaemonOptions {
  readonly name: string;
  readonly nodes: number;
  /** Of the nodes in their order. */
  readonly zones?: readonly string[];
  /** False: plain pods, no agents and no control plane. */
  readonly meshed: boolean;
  readonly log: LocalLog;
  readonly logLevel: string;
  /** Tells the user what happens. */
  readonly progress: (line: string) => void;
  readonly agentEnv: ExtraEnv;
  readonly identityEnv: ExtraEnv;
  readonly destinationEnv: ExtraEnv;
  /** How long a keeper waits for a beat; 30 s if absent. */
  readonly keeperLimitMs?: number;
  /** Limit of open files of an agent; as this process has it if absent. */
  readonly agentOpenFilesMax?: number;
}

/** The project's folder. */
export const PROJECT_ROOT = dirname(import.meta.dirname);

const SANDBOXES_AT_ONCE = 3;
/** How long the first node that is ready waits for the others. */
const NODES_TOGETHER_MS = 20_000;
const AGENT_POLL_MS = 100;
const KEEPER_LIMIT_MS = 30_000;
const KILL_AGAIN_MS = 100;

interface NodeParts {
  readonly layout: NodeLayout;
  readonly services: NodeServices;
  readonly prober: Prober;
}

const probeAgent = ({ layout, prober }: NodeParts): Promise<string | undefined> =>
  prober.probe({
    kind: 'http',
    host: layout.address.v4,
    port: AGENT_PORT,
    path: '/ready',
    timeoutMs: 2000,
  });

/** Waits, but no longer than until the signal aborts. */
const delay = async (ms: number, signal: AbortSignal): Promise<void> => {
  try {
    await sleep(ms, undefined, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
};

function takeLock(name: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.on('error', () => undefined).end(String(process.pid)));
    server.on('error', (error) =>
      reject(
        errnoName(error) === 'EADDRINUSE'
          ? new MeshError('MESH_ALREADY_EXISTS', `a local mesh "${name}" is running`, {
              remedy: `end it with "mesh local down --name ${name}", or choose another --name`,
            })
          : error,
      ),
    );
    server.listen(lockName(name), () => resolve(server));
  });
}

export class Daemon {
  readonly options: DaemonOptions;
  readonly layout: MeshLayout;
  readonly store = new Store();
  readonly #closed = new AbortController();
  readonly #lock: Server;
  /** Of the nodes that take pods. */
  readonly #kubelets = new Map<string, Kubelet>();
  #waitsForNodes = true;
  #nodes: NodeParts[] = [];
  #keys: Keys | undefined;
  #controlPlane: ControlPlane | undefined;
  #closers: (() => void)[] = [];

  private constructor(options: DaemonOptions, layout: MeshLayout, lock: Server) {
    this.options = options;
    this.layout = layout;
    this.#lock = lock;
  }

  /** Makes the mesh, after sweeping away what a killed one of the same name has left. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const layout = meshLayout(options.name, options.nodes, requireCgroup2());
    const daemon = new Daemon(options, layout, await takeLock(options.name));
    try {
      if (await sweep(options.name)) options.progress('removed what an earlier run had left');
      await daemon.#make();
      return daemon;
    } catch (error) {
      await daemon.close();
      throw error;
    }
  }

  async #make(): Promise<void> {
    const { layout, store, options } = this;
    const { log, progress } = options;
    await makeFiles(layout, PROJECT_ROOT, options.meshed);
    log.writeTo(join(layout.logDir, 'local.log'));
    await makeNetwork(layout);
    progress(`${layout.nodes.length} nodes on the wire`);
    const keys = await makeKeys(layout, systemClock);
    this.#keys = keys;
    putNodes(store, layout, options.zones ?? []);
    store.put({
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: store.newMeta({
        name: DEFAULT_NAMESPACE,
        labels: { 'kubernetes.io/metadata.name': DEFAULT_NAMESPACE },
      }),
    });
    this.#closers.push(mirrorStore(store, layout.registryDir));
    this.#nodes = layout.nodes.map((node) => this.#nodeParts(node));
    const controllers = afterChanges(store, () =>
      reconcile(store, { random: Math.random, schedulable: () => this.#schedulable() }),
    );
    this.#closers.push(controllers.close);
    if (options.meshed) {
      this.#controlPlane = startControlPlane({
        store,
        layout,
        keys,
        clock: systemClock,
        log,
        root: PROJECT_ROOT,
        logLevel: options.logLevel,
        agentEnv: options.agentEnv,
        identityEnv: options.identityEnv,
        destinationEnv: options.destinationEnv,
        ...(options.agentOpenFilesMax === undefined ? {} : { agentOpenFilesMax: options.agentOpenFilesMax }),
        keeperLimitMs: options.keeperLimitMs ?? KEEPER_LIMIT_MS,
        probeAgent: async (node) => {
          const parts = this.#nodes.find(({ layout: other }) => other.name === node.name);
          return parts === undefined ? 'the node is not there' : probeAgent(parts);
        },
      });
    }
    // A node takes pods once its agent is ready, as the taint on a new node of a cluster has it.
    const admit = async (parts: NodeParts): Promise<void> => {
      if (options.meshed) await this.#agentReady(parts);
      if (this.#closed.signal.aborted) return;
      progress(`${parts.layout.name} takes pods`);
      this.#kubelets.set(parts.layout.name, this.#startKubelet(parts, keys));
      const node = store.require('Node', '', parts.layout.name);
      store.put({ ...node, status: { ...node.status, conditions: [nodeReady(true, store.now())] } });
      await delay(NODES_TOGETHER_MS, this.#closed.signal);
      this.#waitsForNodes = false;
      controllers.trigger();
    };
    for (const parts of this.#nodes) {
      admit(parts).catch((error: unknown) => {
        log.error({ node: parts.layout.name, error: errorMessage(error) }, 'the node cannot take pods');
      });
    }
  }

  #nodeParts(node: NodeLayout): NodeParts {
    return {
      layout: node,
      prober: createProber(node.netns, node.systemCgroup),
      services: new NodeServices(this.store, node, systemClock, this.options.log),
    };
  }

  /**
   * The node loses power and comes back: every process of it, its network namespace and those of its pods, pins and
   * sockets are gone; its disk stays. Resolves when it has booted: agent and pods are on their way.
   */
  async reboot(name: string): Promise<void> {
    const { layout, store } = this;
    const parts = this.#nodes.find((other) => other.layout.name === name);
    const kubelet = this.#kubelets.get(name);
    if (parts === undefined || kubelet === undefined || this.#keys === undefined) {
      throw new MeshError('MESH_NOT_FOUND', `there is no node ${name} that takes pods`, { retryable: true });
    }
    const node = parts.layout;
    const setReady = (ready: boolean): void => {
      const object = store.require('Node', '', name);
      store.put({ ...object, status: { ...object.status, conditions: [nodeReady(ready, store.now())] } });
    };
    this.#kubelets.delete(name);
    setReady(false);
    await this.#killUntil(node.cgroup, [
      this.#controlPlane?.powerOff(name) ?? Promise.resolve(),
      kubelet.close(),
      parts.services.close(),
    ]);
    parts.prober.close();
    await loseFiles(node);
    for (const pod of store.list('Pod')) {
      const netns = podNetns(layout.name, namespaceOf(pod), pod.metadata.name);
      if (pod.spec.nodeName === name && existsSync(netnsPath(netns))) await removeNetns(netns);
    }
    await removeNodeNetwork(layout, node);

    await bootFiles(node);
    await makeNodeNetwork(layout, node);
    const booted = this.#nodeParts(node);
    this.#nodes = this.#nodes.map((other) => (other === parts ? booted : other));
    await this.#controlPlane?.powerOn(name);
    // A runtime remembers the sandboxes that it had, and removes them before it makes new ones.
    await kubelet.clearAway();
    this.#kubelets.set(name, this.#startKubelet(booted, this.#keys));
    setReady(true);
  }

  /** Kills whatever is in the group, again and again, until all that was begun has ended. */
  async #killUntil(cgroup: string, begun: readonly Promise<unknown>[]): Promise<void> {
    const quiet = new AbortController();
    const allQuiet = Promise.all(begun).finally(() => quiet.abort());
    while (!quiet.signal.aborted) {
      await killCgroup(cgroup);
      await delay(KILL_AGAIN_MS, quiet.signal);
    }
    await allQuiet;
  }

  #startKubelet({ layout: node, prober }: NodeParts, keys: Keys): Kubelet {
    return new Kubelet({
      store: this.store,
      node,
      meshName: this.layout.name,
      tokens: keys.tokens,
      caCertificate: keys.anchorPem,
      prober,
      log: this.options.log,
      sandboxes: createConcurrency({
        what: `sandboxes of ${node.name}`,
        runningMax: SANDBOXES_AT_ONCE,
        waitingMax: 10_000,
      }),
      workingDir: PROJECT_ROOT,
      nodeDir: dirname(process.execPath),
      delay,
    });
  }

  /** Pods are spread over all nodes, so none is placed before all are there, unless one takes too long. */
  #schedulable(): string[] {
    const ready = [...this.#kubelets.keys()].sort();
    return ready.length < this.layout.nodes.length && this.#waitsForNodes ? [] : ready;
  }

  async #agentReady(parts: NodeParts): Promise<void> {
    while (!this.#closed.signal.aborted) {
      if ((await probeAgent(parts)) === undefined) return;
      await delay(AGENT_POLL_MS, this.#closed.signal);
    }
  }

  get programs(): ControlPlane['programs'] {
    return this.#controlPlane?.programs ?? new Map();
  }

  agent(node: string): NodeAgent {
    if (this.#controlPlane !== undefined) return this.#controlPlane.agent(node);
    throw new MeshError('MESH_NOT_FOUND', `the local mesh ${this.layout.name} has no agents`);
  }

  apply(sources: readonly ManifestSource[]): AppliedObject[] {
    return applyManifests(this.store, parseManifests(sources));
  }

  /** What is not ready yet, in words; empty when all is. */
  unready(): string[] {
    const waiting: string[] = [];
    for (const { metadata, spec, status } of this.store.list('Deployment')) {
      if (status.updatedReplicas === spec.replicas && status.readyReplicas === spec.replicas) {
        if (status.replicas === spec.replicas) continue;
      }
      waiting.push(
        `deployment ${metadata.namespace}/${metadata.name} (${status.readyReplicas}/${spec.replicas})`,
      );
    }
    for (const pod of this.store.list('Pod')) {
      if (isManaged(pod)) continue;
      if (isTerminating(pod)) waiting.push(`pod ${namespaceOf(pod)}/${pod.metadata.name} (terminating)`);
      else if (!podIsReady(pod) && !podIsFinished(pod)) {
        waiting.push(`pod ${namespaceOf(pod)}/${pod.metadata.name} (${explainPod(pod)})`);
      }
    }
    return waiting;
  }

  /** Resolves once every Deployment is complete, every pod ready and the nodes' rules and names follow. */
  async waitReady(timeoutMs: number): Promise<void> {
    await waitForStore(
      this.store,
      () => this.#kubelets.size === this.layout.nodes.length && this.unready().length === 0,
      timeoutMs,
      () =>
        [
          ...this.layout.nodes
            .filter((node) => !this.#kubelets.has(node.name))
            .map((node) => `${node.name} (its agent is not ready; see ${join(node.logDir, 'agent.log')})`),
          ...this.unready(),
        ].join(', '),
    );
    await Promise.all(this.#nodes.map((parts) => parts.services.settled()));
  }

  /** The worker of a pod that runs; by name. */
  podWorker(namespace: string, name: string): PodWorker {
    const pod = this.store.require('Pod', namespace, name);
    const worker = [...this.#kubelets.values()]
      .map((kubelet) => kubelet.worker(pod))
      .find((found) => found !== undefined);
    if (worker !== undefined) return worker;
    throw new MeshError(
      'MESH_NOT_FOUND',
      `pod ${namespace}/${name} has not been started: ${explainPod(pod)}`,
      {
        retryable: true,
      },
    );
  }

  /** Removes the mesh. */
  async close(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    this.#controlPlane?.close();
    for (const close of this.#closers) close();
    for (const { prober } of this.#nodes) prober.close();
    // Nobody may be making anything any more when the sweep begins; what somebody waits for is killed.
    await this.#killUntil(this.layout.cgroup, [
      ...[...this.#kubelets.values()].map((kubelet) => kubelet.close()),
      ...this.#nodes.map(({ services }) => services.close()),
    ]);
    this.options.log.writeTo(undefined);
    await sweep(this.options.name);
    await new Promise<void>((resolve) => this.#lock.close(() => resolve()));
  }
}
