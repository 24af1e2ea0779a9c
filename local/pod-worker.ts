// SPDX-License-Identifier: Apache-2.0
// One pod on its node, from sandbox to removal: volumes and tokens, init containers, containers with restarts and
// probes, status, end. The counterpart of a kubelet's pod worker; which pods there are is kubelet.ts.
//
//   sandbox -> init containers -> containers -> (all ended, or deletion) -> CNI DEL -> removed

import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Concurrency } from '#lib/core/concurrency.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { makeCgroup, removeCgroup } from './cgroups.ts';
import { type ContainerHost, ContainerWorker } from './container-worker.ts';
import { podHosts, resolvConf } from './dns-records.ts';
import type { NodeLayout } from './layout.ts';
import {
  type ContainerStatus,
  namespaceOf,
  type PodCondition,
  type PodObject,
  phaseWith,
  type PodStatus,
} from './objects.ts';
import type { Prober } from './prober.ts';
import { makeSandbox, type Sandbox } from './sandbox.ts';
import type { Store } from './store.ts';
import { API_AUDIENCE, type TokenFiles } from './token-files.ts';

const TOKEN_LIFETIME_MS = 3_607_000;
/** Conditions of others (the mesh's own) stay as they are. */
const OWN_CONDITIONS = ['PodScheduled', 'Initialized', 'ContainersReady', 'Ready'] as const;

export interface PodHost {
  readonly store: Store;
  readonly node: NodeLayout;
  readonly meshName: string;
  readonly tokens: TokenFiles;
  /** PEM of the trust anchors, given to pods as ca.crt. */
  readonly caCertificate: string;
  readonly prober: Prober;
  readonly log: Log;
  /** Limits how many sandboxes are made at once. */
  readonly sandboxes: Concurrency;
  /** Where programs start that name no workingDir. */
  readonly workingDir: string;
  /** The folder of the pinned Node.js, first in every PATH. */
  readonly nodeDir: string;
  readonly delay: (ms: number, signal: AbortSignal) => Promise<void>;
}

const timestamped = (
  present: readonly PodCondition[],
  type: (typeof OWN_CONDITIONS)[number],
  holds: boolean,
  now: string,
): PodCondition => {
  const status = holds ? 'True' : 'False';
  const before = present.find((condition) => condition.type === type);
  return before?.status === status ? before : { type, status, lastTransitionTime: now };
};

export class PodWorker {
  readonly pod: PodObject;
  readonly #host: PodHost;
  readonly #dir: string;
  readonly #abort = new AbortController();
  readonly #finished: Promise<void>;
  #sandbox: Sandbox | undefined;
  #initialized = false;
  #containers: ContainerWorker[] = [];
  #initContainers: ContainerWorker[] = [];
  #stopTokens: (() => void)[] = [];

  constructor(host: PodHost, pod: PodObject) {
    this.pod = pod;
    this.#host = host;
    this.#dir = join(host.node.podsDir, pod.metadata.uid);
    this.#finished = this.#run().catch((error: unknown) => {
      host.log.error({ pod: pod.metadata.name, error: errorMessage(error) }, 'the pod failed');
      this.#status({ phase: 'Failed', message: errorMessage(error) });
    });
  }

  /** A container by name, or the first. */
  container(name: string | undefined): ContainerWorker | undefined {
    return name === undefined ? this.#containers[0] : this.#containers.find((c) => c.spec.name === name);
  }

  containerNames(): string[] {
    return this.pod.spec.containers.map((container) => container.name);
  }

  logFile(container: string): string {
    return join(
      this.#host.node.logDir,
      `${namespaceOf(this.pod)}_${this.pod.metadata.name}_${this.pod.metadata.uid}`,
      `${container}.log`,
    );
  }

  /** Ends the pod within its grace period and removes it from the store. */
  async terminate(): Promise<void> {
    const graceMs = this.pod.spec.terminationGracePeriodSeconds * 1000;
    this.#abort.abort();
    for (const container of [...this.#initContainers, ...this.#containers]) container.stop(graceMs);
    await this.#finished;
    await this.#tearDown();
    rmSync(this.#dir, { recursive: true, force: true });
    const present = this.#host.store.get('Pod', namespaceOf(this.pod), this.pod.metadata.name);
    if (present !== undefined && present.metadata.uid === this.pod.metadata.uid)
      this.#host.store.remove(present);
  }

  /** Starts nothing more and kills what runs; what is left is the sweep's. Resolves when nothing moves any more. */
  async abandon(): Promise<void> {
    this.#abort.abort();
    for (const container of [...this.#initContainers, ...this.#containers]) container.stop(0);
    for (const stop of this.#stopTokens.splice(0)) stop();
    await this.#finished;
  }

  /** After `abandon`: CNI DEL for a sandbox that went down with its node, and the pod's files. */
  async clearAway(): Promise<void> {
    await this.#host.sandboxes.run(() => this.#tearDown());
    rmSync(this.#dir, { recursive: true, force: true });
  }

  async #run(): Promise<void> {
    const { node, store } = this.#host;
    const cgroup = join(node.podsCgroup, this.pod.metadata.uid);
    await makeCgroup(cgroup);
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    this.#status({
      startTime: store.now(),
      hostIP: node.address.v4,
      hostIPs: [{ ip: node.address.v4 }, { ip: node.address.v6 }],
    });
    const ips = await this.#network();
    if (ips === undefined) return;
    this.#status({ ...(ips[0] === undefined ? {} : { podIP: ips[0] }), podIPs: ips.map((ip) => ({ ip })) });
    const home = this.#prepareFiles(ips, cgroup);
    const worker = (spec: PodObject['spec']['containers'][number]): ContainerWorker =>
      new ContainerWorker(home, this.#current(), spec, () => this.#status({}));
    this.#initContainers = this.pod.spec.initContainers.map(worker);
    this.#containers = this.pod.spec.containers.map(worker);
    for (const init of this.#initContainers) {
      const code = await init.run(
        this.pod.spec.restartPolicy === 'Never' ? 'Never' : 'OnFailure',
        this.#abort.signal,
      );
      if (this.#abort.signal.aborted) return;
      if (code !== 0) return this.#end('Failed');
    }
    this.#initialized = true;
    this.#status({});
    const codes = await Promise.all(
      this.#containers.map((container) => container.run(this.pod.spec.restartPolicy, this.#abort.signal)),
    );
    if (this.#abort.signal.aborted) return;
    await this.#end(codes.every((code) => code === 0) ? 'Succeeded' : 'Failed');
  }

  async #end(phase: 'Succeeded' | 'Failed'): Promise<void> {
    this.#status({ phase });
    await this.#tearDown();
  }

  async #network(): Promise<readonly string[] | undefined> {
    const { node, meshName, log, delay } = this.#host;
    if (this.pod.spec.hostNetwork) return [node.address.v4, node.address.v6];
    this.#sandbox = await makeSandbox(
      { meshName, node, log, limit: this.#host.sandboxes },
      this.pod,
      this.#abort.signal,
      (message) => this.#status({ message }),
      delay,
    );
    return this.#sandbox?.ips;
  }

  /** The pod with its addresses, for fields that environment variables refer to. */
  #current(): PodObject {
    return this.#host.store.get('Pod', namespaceOf(this.pod), this.pod.metadata.name) ?? this.pod;
  }

  #prepareFiles(ips: readonly string[], cgroup: string): ContainerHost {
    const { store, node } = this.#host;
    const namespace = namespaceOf(this.pod);
    const hostname = this.pod.spec.hostname ?? this.pod.metadata.name;
    const files = { resolvConf: join(this.#dir, 'resolv.conf'), hosts: join(this.#dir, 'hosts') };
    writeFileSync(files.resolvConf, resolvConf(namespace), { mode: 0o644 });
    writeFileSync(files.hosts, podHosts(hostname, ips), { mode: 0o644 });
    const volumes = new Map<string, string>();
    for (const volume of this.pod.spec.volumes) {
      const path = join(this.#dir, 'volumes', volume.name);
      mkdirSync(path, { recursive: true });
      chmodSync(path, volume.projected === undefined ? 0o777 : 0o755);
      for (const source of volume.projected?.sources ?? []) {
        const { audience, expirationSeconds, path: file } = source.serviceAccountToken;
        this.#keepToken(join(path, file), audience ?? API_AUDIENCE, expirationSeconds * 1000);
      }
      volumes.set(volume.name, path);
    }
    const account = join(this.#dir, 'serviceaccount');
    if (this.pod.spec.automountServiceAccountToken) {
      this.#keepToken(join(account, 'token'), API_AUDIENCE, TOKEN_LIFETIME_MS);
      writeFileSync(join(account, 'ca.crt'), this.#host.caCertificate, { mode: 0o644 });
      writeFileSync(join(account, 'namespace'), namespace, { mode: 0o644 });
    }
    return {
      netns: this.#sandbox?.netns ?? node.netns,
      node,
      dir: this.#dir,
      cgroup,
      hostname,
      files,
      volumes,
      ...(this.pod.spec.automountServiceAccountToken ? { serviceAccountDir: account } : {}),
      probeHost: ips[0] ?? node.address.v4,
      prober: this.#host.prober,
      logFile: (container) => this.logFile(container),
      workingDir: this.#host.workingDir,
      nodeDir: this.#host.nodeDir,
      delay: this.#host.delay,
      now: () => store.now(),
    };
  }

  #keepToken(path: string, audience: string, lifetimeMs: number): void {
    const { store, node, tokens } = this.#host;
    const namespace = namespaceOf(this.pod);
    const account = store.require('ServiceAccount', namespace, this.pod.spec.serviceAccountName);
    const nodeObject = store.require('Node', '', node.name);
    this.#stopTokens.push(
      tokens.keep({
        path,
        audience,
        lifetimeMs,
        namespace,
        serviceAccount: { name: account.metadata.name, uid: account.metadata.uid },
        pod: { name: this.pod.metadata.name, uid: this.pod.metadata.uid },
        node: { name: node.name, uid: nodeObject.metadata.uid },
      }),
    );
  }

  async #tearDown(): Promise<void> {
    for (const stop of this.#stopTokens.splice(0)) stop();
    await removeCgroup(join(this.#host.node.podsCgroup, this.pod.metadata.uid));
    await this.#sandbox?.remove();
    this.#sandbox = undefined;
  }

  #status(change: Partial<PodStatus>): void {
    const { store } = this.#host;
    const now = store.now();
    store.updatePodStatus(this.pod, (before) => {
      const statuses = (workers: readonly ContainerWorker[]): ContainerStatus[] =>
        workers.map((w) => w.status());
      const containers = statuses(this.#containers);
      const phase = change.phase ?? phaseWith(before.phase, containers);
      const running = phase === 'Running';
      const ready = running && this.#initialized && containers.every((status) => status.ready);
      const foreign = before.conditions.filter(
        (condition) => !OWN_CONDITIONS.some((type) => type === condition.type),
      );
      const { message, ...rest } = { ...before, ...change };
      return {
        ...rest,
        phase,
        // Of the last failed attempt; it means nothing once the pod runs.
        ...(message === undefined || (running && change.message === undefined) ? {} : { message }),
        conditions: [
          timestamped(before.conditions, 'PodScheduled', true, now),
          timestamped(before.conditions, 'Initialized', this.#initialized, now),
          timestamped(before.conditions, 'ContainersReady', ready, now),
          timestamped(before.conditions, 'Ready', ready, now),
          ...foreign,
        ],
        ...(this.#initContainers.length === 0
          ? {}
          : { initContainerStatuses: statuses(this.#initContainers) }),
        ...(containers.length === 0 ? {} : { containerStatuses: containers }),
      };
    });
  }
}
