// SPDX-License-Identifier: Apache-2.0
// The objects and watches of a registry, without a source: implementations put and remove objects, the store
// tells watchers of real changes only. No I/O.

import {
  type AnyResource,
  type Kind,
  keyOf,
  keyText,
  kinds,
  type ResourceKey,
  type ResourceTypes,
} from './model.ts';
import type { Watch, WatchHandlers } from './registry.ts';

type Handlers = WatchHandlers<AnyResource>;

export class ResourceStore {
  readonly #objects = new Map<Kind, Map<string, AnyResource>>(kinds.map((kind) => [kind, new Map()]));
  readonly #watchers = new Map<Kind, Set<Handlers>>(kinds.map((kind) => [kind, new Set()]));

  list<K extends Kind>(kind: K): readonly ResourceTypes[K][] {
    return [...this.#of(kind).values()] as unknown as ResourceTypes[K][];
  }

  get<K extends Kind>(kind: K, key: ResourceKey): ResourceTypes[K] | undefined {
    return this.#of(kind).get(keyText(key)) as ResourceTypes[K] | undefined;
  }

  watch<K extends Kind>(kind: K, handlers: WatchHandlers<ResourceTypes[K]>): Watch {
    const told = handlers as unknown as Handlers;
    const entry: Handlers = {
      added: (resource) => told.added(resource),
      changed: (resource, previous) => told.changed(resource, previous),
      removed: (resource) => told.removed(resource),
    };
    this.#watchers.get(kind)?.add(entry);
    for (const resource of this.#of(kind).values()) entry.added(resource);
    return { close: () => void this.#watchers.get(kind)?.delete(entry) };
  }

  /** Adds or replaces; an equal object changes nothing and tells nobody. */
  put(resource: AnyResource): void {
    const objects = this.#of(resource.kind);
    const key = keyText(keyOf(resource));
    const previous = objects.get(key);
    if (previous !== undefined && equal(previous, resource)) return;
    if (previous !== undefined && previous.metadata.uid !== resource.metadata.uid) {
      // Another object under the same name: watchers must not carry anything over.
      objects.delete(key);
      this.#tell(resource.kind, (handlers) => handlers.removed(previous));
    }
    const current = objects.get(key);
    objects.set(key, resource);
    this.#tell(resource.kind, (handlers) =>
      current === undefined ? handlers.added(resource) : handlers.changed(resource, current),
    );
  }

  remove(kind: Kind, key: ResourceKey): void {
    const objects = this.#of(kind);
    const previous = objects.get(keyText(key));
    if (previous === undefined) return;
    objects.delete(keyText(key));
    this.#tell(kind, (handlers) => handlers.removed(previous));
  }

  #of(kind: Kind): Map<string, AnyResource> {
    return this.#objects.get(kind) ?? new Map<string, AnyResource>();
  }

  #tell(kind: Kind, run: (handlers: Handlers) => void): void {
    const watchers = this.#watchers.get(kind) ?? new Set<Handlers>();
    // A snapshot: a watch that a handler opens has been told already.
    for (const handlers of Array.from(watchers)) if (watchers.has(handlers)) run(handlers);
  }
}

/** Objects come out of one schema, so that their keys stand in the same order. */
const equal = (a: AnyResource, b: AnyResource): boolean => JSON.stringify(a) === JSON.stringify(b);
