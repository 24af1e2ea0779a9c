// SPDX-License-Identifier: Apache-2.0
// The registry over the Kubernetes API: a reflector for each kind fills the shared store. Kinds of Custom Resource
// Definitions that are absent are no hindrance; when a definition vanishes, the last policy stays in force.

import type { Clock, Random } from '#lib/core/clock.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import {
  type AnyResource,
  clusterScopedKinds,
  ENROLLED_CONDITION,
  type Kind,
  keyOf,
  keyText,
  kinds as allKinds,
  type Pod,
  podCondition,
} from '#lib/registry/model.ts';
import type { EnrolledCondition, PodEvent, Registry } from '#lib/registry/registry.ts';
import { ResourceStore } from '#lib/registry/resource-store.ts';
import type { KubernetesApi } from './api-client.ts';
import { ApiFailure, asFailure } from './api-failure.ts';
import type { KubernetesCounts } from './counts.ts';
import { type KindSource, kindSources, listAccept, readObject, watchAccept } from './kinds.ts';
import {
  type RawObject,
  type Reflector,
  type ReflectorSink,
  type ReflectorTimings,
  startReflector,
} from './reflector.ts';
import { StatusWriter, type StatusWriterLimits } from './status-writer.ts';

export interface KubernetesRegistryOptions {
  readonly api: KubernetesApi;
  /** The cluster part of every key. */
  readonly cluster: string;
  /** What the program reads: nothing else is asked for. All if absent. */
  readonly kinds?: readonly Kind[];
  readonly counts: KubernetesCounts;
  /** Tells people of what concerns the program as a whole. */
  readonly tell: (event: PodEvent) => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly timings?: ReflectorTimings;
  readonly statusLimits?: StatusWriterLimits;
}

export function createKubernetesRegistry(options: KubernetesRegistryOptions): Registry {
  return new WatchedCluster(options);
}

class WatchedCluster implements Registry {
  readonly #options: KubernetesRegistryOptions;
  readonly #store = new ResourceStore();
  readonly #status: StatusWriter;
  readonly #reflectors: Reflector[] = [];
  readonly #synced: Promise<void>;
  #closed = false;

  constructor(options: KubernetesRegistryOptions) {
    this.#options = options;
    this.#status = new StatusWriter({
      ...options,
      condition: (ref) => {
        const pod = this.#store.get('Pod', ref);
        return pod?.metadata.uid === ref.uid ? conditionOf(pod) : undefined;
      },
      ...(options.statusLimits === undefined ? {} : { limits: options.statusLimits }),
    });
    this.#synced = this.#start();
  }

  synced(): Promise<void> {
    return this.#synced;
  }

  list: Registry['list'] = (kind) => this.#store.list(kind);
  get: Registry['get'] = (kind, key) => this.#store.get(kind, key);
  watch: Registry['watch'] = (kind, handlers) => this.#store.watch(kind, handlers);

  reportStatus: Registry['reportStatus'] = async (ref, report) => {
    if (this.#store.get('Pod', ref)?.metadata.uid !== ref.uid) {
      throw new MeshError('MESH_NOT_FOUND', `pod ${ref.namespace}/${ref.name} (uid ${ref.uid}) is not there`);
    }
    await this.#status.report(ref, report);
  };

  close(): void {
    this.#closed = true;
    for (const reflector of this.#reflectors) reflector.close();
  }

  /** One kind after the other, so that what others refer to is there first; a failing kind holds up none. */
  async #start(): Promise<void> {
    const wanted = new Set(this.#options.kinds ?? allKinds);
    for (const kind of allKinds) {
      if (!wanted.has(kind) || this.#closed) continue;
      const reflector = this.#follow(kind);
      this.#reflectors.push(reflector);
      await reflector.tried;
    }
    await Promise.all(this.#reflectors.map(({ synced }) => synced));
  }

  #follow(kind: Kind): Reflector {
    const { api, clock, random, log, counts, timings } = this.#options;
    const source = kindSources[kind];
    const sink = new KindSink({ ...this.#options, kind, source, store: this.#store, status: this.#status });
    return startReflector<AnyResource>({
      api,
      paths: source.paths,
      listAccept: listAccept(source),
      watchAccept: watchAccept(source),
      sink,
      counts: counts.of(kind),
      clock,
      random,
      log: log.child({ kind }),
      ...(timings === undefined ? {} : { timings }),
    });
  }
}

interface KindSinkOptions extends KubernetesRegistryOptions {
  readonly kind: Kind;
  readonly source: KindSource;
  readonly store: ResourceStore;
  readonly status: StatusWriter;
}

/** Puts one kind's objects into the store. */
class KindSink implements ReflectorSink<AnyResource> {
  readonly #options: KindSinkOptions;
  readonly #keys = new Set<string>();
  /** Objects of which something could not be read, so that each is told once. */
  readonly #bad = new Map<string, string>();
  /** What waits for the word whether the definition is being deleted; undefined: nothing does. */
  #deferred: (() => void)[] | undefined;
  #vanished = false;

  constructor(options: KindSinkOptions) {
    this.#options = options;
  }

  read(object: RawObject): AnyResource | undefined {
    const { kind, cluster, store, log, counts } = this.#options;
    const parsed = readObject(kind, object, cluster);
    const key = this.#keyOf(object);
    const text = keyText(key);
    if (parsed.ok) {
      this.#bad.delete(text);
      return parsed.resource;
    }
    const problem = parsed.problems.map(({ path, message }) => `${path}: ${message}`).join('; ');
    if (this.#bad.get(text) !== problem) {
      if (this.#bad.size >= BAD_MAX) this.#bad.clear();
      this.#bad.set(text, problem);
      counts.unreadable(kind);
      log.warn({ kind, object: text, problem }, 'object cannot be read, its last good state stays');
    }
    return store.get(kind, key);
  }

  replace(objects: readonly AnyResource[]): void {
    const present = new Set(objects.map((resource) => keyText(keyOf(resource))));
    const gone = [...this.#keys].filter((key) => !present.has(key));
    const apply = (): void => {
      this.#vanished = false;
      for (const resource of this.#options.store.list(this.#options.kind)) {
        if (!present.has(keyText(keyOf(resource)))) this.#remove(resource);
      }
      for (const resource of objects) this.#put(resource);
    };
    this.#run(apply, gone.length > 0);
  }

  put(resource: AnyResource): void {
    this.#run(() => this.#put(resource), false);
  }

  remove(object: RawObject): void {
    const { store, kind } = this.#options;
    this.#run(() => {
      const found = store.get(kind, this.#keyOf(object));
      if (found !== undefined) this.#remove(found);
    }, true);
  }

  absent(before: boolean): void {
    if (before) this.#vanish();
  }

  /** In order; what takes policy away waits for the word that its definition stays. */
  #run(apply: () => void, takesAway: boolean): void {
    const { definition } = this.#options.source;
    if (this.#deferred !== undefined) {
      this.#deferred.push(apply);
      return;
    }
    if (definition === undefined || !takesAway) {
      apply();
      return;
    }
    this.#deferred = [apply];
    void this.#afterAsking(definition);
  }

  async #afterAsking(definition: string): Promise<void> {
    const going = await this.#isGoing(definition);
    const waiting = this.#deferred ?? [];
    this.#deferred = undefined;
    if (going) this.#vanish();
    else for (const apply of waiting) apply();
  }

  /** Deleting a definition deletes its objects first: that is no decision about policy. */
  async #isGoing(definition: string): Promise<boolean> {
    try {
      const found = (await this.#options.api.call({
        path: `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${definition}`,
        accept: 'application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json',
      })) as RawObject & { readonly metadata: { readonly deletionTimestamp?: string } };
      return found.metadata.deletionTimestamp !== undefined;
    } catch (error) {
      if (error instanceof ApiFailure && error.status === 404) return true;
      this.#options.log.warn(
        { definition, reason: errorMessage(asFailure(error, definition)) },
        'it is not known whether a definition is being deleted: what was deleted counts',
      );
      return false;
    }
  }

  #vanish(): void {
    if (this.#vanished) return;
    this.#vanished = true;
    const { source, store, kind, log } = this.#options;
    const kept = store.list(kind).length;
    const message = `The definition ${source.definition ?? kind} was deleted; ${kept} objects of it stay in force as they were`;
    log.warn({ definition: source.definition, kept }, 'a definition vanished, the last policy stays');
    this.#options.tell({ type: 'Warning', reason: 'DefinitionVanished', message });
  }

  #put(resource: AnyResource): void {
    const { store, status, counts, kind } = this.#options;
    const key = keyText(keyOf(resource));
    const previous = resource.kind === 'Pod' ? store.get('Pod', keyOf(resource)) : undefined;
    if (previous !== undefined && previous.metadata.uid !== resource.metadata.uid) {
      status.forget(previous.metadata.uid);
    }
    this.#keys.add(key);
    store.put(resource);
    counts.objects(kind, this.#keys.size);
    if (resource.kind !== 'Pod') return;
    const condition = conditionOf(resource);
    if (condition !== undefined) status.observed(resource.metadata.uid, condition);
  }

  #remove(resource: AnyResource): void {
    const { store, status, counts, kind } = this.#options;
    const key = keyOf(resource);
    this.#keys.delete(keyText(key));
    this.#bad.delete(keyText(key));
    store.remove(kind, key);
    counts.objects(kind, this.#keys.size);
    if (kind === 'Pod') status.forget(resource.metadata.uid);
  }

  #keyOf({ metadata }: RawObject) {
    const { kind, cluster } = this.#options;
    const namespace = clusterScopedKinds.has(kind) ? '' : (metadata.namespace ?? '');
    return { cluster, namespace, name: metadata.name };
  }
}

const BAD_MAX = 10_000;

function conditionOf(pod: Pod): EnrolledCondition | undefined {
  const found = podCondition(pod, ENROLLED_CONDITION);
  if (found === undefined) return undefined;
  const { status, reason, message, observedGeneration } = found;
  return {
    status: status === 'True' || status === 'False' ? status : 'Unknown',
    reason,
    message,
    generation: observedGeneration,
  };
}
