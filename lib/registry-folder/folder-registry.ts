// SPDX-License-Identifier: Apache-2.0
// The registry over a folder of Kubernetes YAML that is watched. Editing, adding or removing a file is told at
// once. The folder stands for the API server: whoever may write to it is trusted as a cluster's admin.

import { type FSWatcher, watch as watchFolder } from 'node:fs';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { errnoName, errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { type AnyResource, ENROLLED_CONDITION, keyOf, kinds, type Pod } from '#lib/registry/model.ts';
import type { Registry } from '#lib/registry/registry.ts';
import { ResourceStore } from '#lib/registry/resource-store.ts';
import { FolderScan } from './folder-scan.ts';
import { PodStatusFiles } from './pod-status.ts';

/** One write makes several notifications. */
const SETTLE_MS = 5;
/** Fresh files are read once more after this. */
const AGAIN_MS = 110;
/** The kernel drops notifications when its queue is full, and a replaced folder has no watch: look anyway. */
const SWEEP_MS = 2_000;

export interface FolderRegistryOptions {
  readonly folder: string;
  /** The cluster part of every key. */
  readonly cluster: string;
  readonly clock: Clock;
  readonly log: Log;
}

export interface FolderRegistry extends Omit<Registry, 'close'> {
  /** What is wrong with the folder's files now. */
  readonly problems: readonly string[];
  /** Resolves when nothing more is written to the folder; what was reported until now is. */
  close(): Promise<void>;
}

export function createFolderRegistry(options: FolderRegistryOptions): FolderRegistry {
  return new WatchedFolder(options);
}

class WatchedFolder implements FolderRegistry {
  problems: readonly string[] = [];
  readonly #options: FolderRegistryOptions;
  readonly #store = new ResourceStore();
  readonly #scan: FolderScan;
  readonly #status: PodStatusFiles;
  readonly #watchers = new Map<string, FSWatcher>();
  readonly #synced = Promise.withResolvers<void>();
  /** As read, without our condition. */
  #objects: ReadonlyMap<string, AnyResource> = new Map();
  #timer: Timer | undefined;
  #timerAtMs = Number.POSITIVE_INFINITY;
  #scanning = false;
  #dirty = false;
  #closed = false;

  constructor(options: FolderRegistryOptions) {
    this.#options = options;
    const { folder, cluster, clock, log } = options;
    this.#scan = new FolderScan({ folder, cluster, log, wallMs: () => clock.wallMs() });
    this.#status = new PodStatusFiles({ folder, clock, log, changed: (uid) => this.#statusChanged(uid) });
    this.#schedule(0);
  }

  synced(): Promise<void> {
    return this.#synced.promise;
  }

  list: Registry['list'] = (kind) => this.#store.list(kind);
  get: Registry['get'] = (kind, key) => this.#store.get(kind, key);
  watch: Registry['watch'] = (kind, handlers) => this.#store.watch(kind, handlers);

  reportStatus: Registry['reportStatus'] = async (ref, report) => {
    const pod = this.#store.get('Pod', ref);
    if (pod?.metadata.uid !== ref.uid) {
      throw new MeshError(
        'MESH_NOT_FOUND',
        `pod ${ref.namespace}/${ref.name} (uid ${ref.uid}) is not in ${this.#options.folder}`,
      );
    }
    await this.#status.report(ref, report);
  };

  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    await this.#status.close();
  }

  #schedule(delayMs: number): void {
    if (this.#closed) return;
    if (this.#scanning) {
      this.#dirty = true;
      return;
    }
    const { clock } = this.#options;
    const at = clock.nowMs() + delayMs;
    if (at >= this.#timerAtMs) return;
    this.#timer?.cancel();
    this.#timerAtMs = at;
    this.#timer = clock.after(delayMs, () => {
      this.#timerAtMs = Number.POSITIVE_INFINITY;
      void this.#rescan();
    });
  }

  async #rescan(): Promise<void> {
    this.#scanning = true;
    this.#dirty = false;
    let next = SWEEP_MS;
    try {
      // Before reading, so that nothing is missed in between.
      this.#watchFolder(this.#options.folder);
      this.#watchFolder(this.#status.folder);
      await this.#status.read();
      const found = await this.#scan.read();
      if (!this.#closed && found !== undefined) {
        this.problems = found.problems;
        this.#apply(found.objects);
        this.#synced.resolve();
        if (found.again) next = AGAIN_MS;
      }
    } catch (error) {
      this.#options.log.error(
        { folder: this.#options.folder, error: errorMessage(error) },
        'reading the folder failed',
      );
    }
    this.#scanning = false;
    this.#schedule(this.#dirty ? SETTLE_MS : next);
  }

  #apply(objects: ReadonlyMap<string, AnyResource>): void {
    const before = this.#objects;
    this.#objects = objects;
    const gone = [...before].filter(([key]) => !objects.has(key)).map(([, resource]) => resource);
    for (const kind of kinds.toReversed()) {
      for (const resource of gone) if (resource.kind === kind) this.#remove(resource);
    }
    // What a file that was not read again says is the very same object.
    const present = [...objects].flatMap(([key, resource]) =>
      before.get(key) === resource ? [] : [resource],
    );
    for (const kind of kinds) {
      for (const resource of present) if (resource.kind === kind) this.#put(resource);
    }
  }

  #put(resource: AnyResource): void {
    this.#store.put(resource.kind === 'Pod' ? this.#withCondition(resource) : resource);
  }

  #remove(resource: AnyResource): void {
    this.#store.remove(resource.kind, keyOf(resource));
    if (resource.kind !== 'Pod') return;
    this.#status.forget(resource.metadata.uid).catch((error: unknown) => {
      this.#options.log.warn(
        { uid: resource.metadata.uid, error: errorMessage(error) },
        'pod status was not removed',
      );
    });
  }

  /** Our condition comes from the status files alone: a manifest cannot claim to be enrolled. */
  #withCondition(pod: Pod): Pod {
    const others = pod.status.conditions.filter((condition) => condition.type !== ENROLLED_CONDITION);
    const own = this.#status.condition(pod.metadata.uid);
    return { ...pod, status: { ...pod.status, conditions: own === undefined ? others : [...others, own] } };
  }

  #statusChanged(uid: string): void {
    if (this.#closed) return;
    for (const resource of this.#objects.values()) {
      if (resource.kind === 'Pod' && resource.metadata.uid === uid) this.#put(resource);
    }
  }

  #watchFolder(folder: string): void {
    if (this.#closed || this.#watchers.has(folder)) return;
    try {
      const watcher = watchFolder(folder, { persistent: false }, (event, name) => {
        // The folder itself was moved or removed: watch its successor from the next sweep on.
        if (event === 'rename' && name !== null && folder.endsWith(`/${name}`)) this.#unwatch(folder);
        this.#schedule(SETTLE_MS);
      });
      watcher.on('error', () => this.#unwatch(folder));
      this.#watchers.set(folder, watcher);
    } catch (error) {
      if (errnoName(error) === 'ENOENT') return;
      this.#options.log.warn(
        { folder, error: errorMessage(error) },
        'folder is not watched, only read every 2 s',
      );
    }
  }

  #unwatch(folder: string): void {
    this.#watchers.get(folder)?.close();
    this.#watchers.delete(folder);
  }
}
