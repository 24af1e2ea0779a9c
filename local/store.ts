// SPDX-License-Identifier: Apache-2.0
// The objects of a local mesh, in memory. Objects are replaced, never changed in place; whoever wants to react
// subscribes. Lives as long as the daemon: a new `up` starts from manifests.

import { randomUUID } from 'node:crypto';
import { MeshError } from '#lib/core/errors.ts';
import {
  type AnyObject,
  describeObject,
  type Kind,
  namespaceOf,
  type ObjectMeta,
  type ObjectTypes,
  type PodObject,
  type PodStatus,
} from './objects.ts';

const OBJECTS_MAX = 10_000;

export interface StoreChange {
  readonly object: AnyObject;
  readonly removed: boolean;
}

const keyOf = (kind: string, namespace: string, name: string): string => `${kind}/${namespace}/${name}`;

export const rfc3339 = (ms: number): string => new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');

export class Store {
  readonly #objects = new Map<string, AnyObject>();
  readonly #listeners = new Set<(change: StoreChange) => void>();
  readonly #wallMs: () => number;

  constructor(wallMs: () => number = Date.now) {
    this.#wallMs = wallMs;
  }

  now(): string {
    return rfc3339(this.#wallMs());
  }

  /** Metadata of an object that is being made. */
  newMeta(
    meta: Pick<ObjectMeta, 'name'> &
      Partial<Pick<ObjectMeta, 'namespace' | 'labels' | 'annotations' | 'ownerReferences'>>,
  ): ObjectMeta {
    return {
      name: meta.name,
      ...(meta.namespace === undefined ? {} : { namespace: meta.namespace }),
      uid: randomUUID(),
      labels: meta.labels ?? {},
      annotations: meta.annotations ?? {},
      creationTimestamp: this.now(),
      ...(meta.ownerReferences === undefined ? {} : { ownerReferences: meta.ownerReferences }),
    };
  }

  /** Calls `listener` after each change; returns what ends it. */
  subscribe(listener: (change: StoreChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get<K extends Kind>(kind: K, namespace: string, name: string): ObjectTypes[K] | undefined {
    return this.#objects.get(keyOf(kind, namespace, name)) as ObjectTypes[K] | undefined;
  }

  require<K extends Kind>(kind: K, namespace: string, name: string): ObjectTypes[K] {
    const found = this.get(kind, namespace, name);
    if (found !== undefined) return found;
    throw new MeshError(
      'MESH_NOT_FOUND',
      `there is no ${describeObject(kind, namespace || undefined, name)}`,
      { remedy: `"mesh local get" shows what there is` },
    );
  }

  list<K extends Kind>(kind: K): ObjectTypes[K][] {
    const found: ObjectTypes[K][] = [];
    for (const object of this.#objects.values())
      if (object.kind === kind) found.push(object as ObjectTypes[K]);
    return found;
  }

  all(): AnyObject[] {
    return [...this.#objects.values()];
  }

  put(object: AnyObject): void {
    const key = keyOf(object.kind, namespaceOf(object), object.metadata.name);
    if (!this.#objects.has(key) && this.#objects.size >= OBJECTS_MAX) {
      throw new MeshError('MESH_LIMIT', `a local mesh holds at most ${OBJECTS_MAX} objects`);
    }
    this.#objects.set(key, object);
    this.#tell({ object, removed: false });
  }

  remove(object: AnyObject): void {
    const key = keyOf(object.kind, namespaceOf(object), object.metadata.name);
    const present = this.#objects.get(key);
    if (present?.metadata.uid !== object.metadata.uid) return;
    this.#objects.delete(key);
    this.#tell({ object: present, removed: true });
  }

  /** Changes a pod's status, if the very pod (its uid) is still there. */
  updatePodStatus(pod: PodObject, change: (status: PodStatus) => PodStatus): void {
    const present = this.get('Pod', namespaceOf(pod), pod.metadata.name);
    if (present === undefined || present.metadata.uid !== pod.metadata.uid) return;
    const status = change(present.status);
    if (status !== present.status) this.put({ ...present, status });
  }

  /** Marks for deletion; pods are removed by their node once they have ended. */
  markDeleted(object: AnyObject): void {
    if (object.metadata.deletionTimestamp !== undefined) return;
    this.put({ ...object, metadata: { ...object.metadata, deletionTimestamp: this.now() } } as AnyObject);
  }

  #tell(change: StoreChange): void {
    for (const listener of this.#listeners) listener(change);
  }
}

/** Resolves as soon as `condition` holds for the store; rejects with MESH_TIMEOUT and `describe()` otherwise. */
export function waitForStore(
  store: Store,
  condition: () => boolean,
  timeoutMs: number,
  describe: () => string,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const finish = (settle: () => void): void => {
      clearTimeout(timer);
      unsubscribe();
      settle();
    };
    const timer = setTimeout(
      () =>
        finish(() =>
          reject(new MeshError('MESH_TIMEOUT', `after ${timeoutMs / 1000} s still waiting: ${describe()}`)),
        ),
      timeoutMs,
    );
    const unsubscribe = store.subscribe(() => {
      if (condition()) finish(resolve);
    });
    if (condition()) finish(resolve);
  });
}
