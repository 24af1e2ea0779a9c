// SPDX-License-Identifier: Apache-2.0
// Follows one collection of the Kubernetes API: a list in pages, then a watch that is resumed where it stopped.
// Objects are handed on as the server's JSON; what they mean is the caller's business.
//
//   list --> watch --(ended, cut, silent, error)--> watch from the last version, after a pause
//    ^         |
//    |         '--(version forgotten: 410)--> list
//    |         A server that is away, however long, has forgotten nothing: no list for that.
//    '-- absent (404: the kind is not served): asked for again every minute
//
// Pauses grow with failures in a row and are random, so that replicas do not come back at the same moment.

import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import type { ApiCall, ApiStream, KubernetesApi } from './api-client.ts';
import { ApiFailure, asFailure, failureOf } from './api-failure.ts';

/** What Kubernetes calls an object, as far as a reflector looks into it. */
export interface RawObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly resourceVersion?: string;
  };
}

export interface ReflectorSink<Kept> {
  /** What is kept of an object: the rest of a page is forgotten before the next one. Undefined: nothing. */
  read(object: RawObject): Kept | undefined;
  /** Everything there is; what was told before and is not among it has gone. */
  replace(objects: readonly Kept[]): void;
  put(object: Kept): void;
  remove(object: RawObject): void;
  /** The kind is not served. `before`: it was. */
  absent(before: boolean): void;
}

export interface ReflectorCounts {
  listed(): void;
  watched(): void;
  relisted(): void;
  failed(what: 'list' | 'watch', failure: ApiFailure): void;
  pausing(pauseMs: number): void;
}

export interface ReflectorTimings {
  readonly firstPauseMs: number;
  readonly pauseMsMax: number;
  /** The server says something every minute: a bookmark if nothing else. */
  readonly silentMsMax: number;
  /** How long one watch lasts before the server ends it; random between this and twice as much. */
  readonly watchSeconds: number;
  readonly absentMs: number;
}

export const defaultTimings: ReflectorTimings = {
  firstPauseMs: 500,
  pauseMsMax: 30_000,
  silentMsMax: 150_000,
  watchSeconds: 300,
  absentMs: 60_000,
};

export interface ReflectorOptions<Kept> {
  readonly api: KubernetesApi;
  /** Of the collection, the preferred version first. */
  readonly paths: readonly string[];
  readonly query?: Readonly<Record<string, string>>;
  readonly listAccept: string;
  readonly watchAccept: string;
  readonly sink: ReflectorSink<Kept>;
  readonly counts: ReflectorCounts;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly timings?: ReflectorTimings;
}

export interface Reflector {
  /** Resolves after the first list, or when it is known that the kind is not served. */
  readonly synced: Promise<void>;
  /** Resolves once the first list has succeeded or failed. */
  readonly tried: Promise<void>;
  close(): void;
}

const PAGE_OBJECTS = 500;
/** A list of many pages may take as long. */
const PAGE_TIMEOUT_MS = 60_000;
/** Watches that are answered, and fail at the same version so often, are not going to succeed: list anew. */
const STUCK_MAX = 5;

interface Page<Item> {
  readonly version: string;
  readonly next: string;
  readonly items: readonly Item[];
}

export function startReflector<Kept>(options: ReflectorOptions<Kept>): Reflector {
  const reflector = new RunningReflector(options);
  void reflector.run();
  return reflector;
}

class RunningReflector<Kept> implements Reflector {
  readonly #options: ReflectorOptions<Kept>;
  readonly #timings: ReflectorTimings;
  readonly #synced = Promise.withResolvers<void>();
  readonly #tried = Promise.withResolvers<void>();
  #stream: ApiStream | undefined;
  #wake: (() => void) | undefined;
  #failures = 0;
  #version = '';
  #path = '';
  #served = false;
  #stuck = 0;
  #closed = false;

  constructor(options: ReflectorOptions<Kept>) {
    this.#options = options;
    this.#timings = options.timings ?? defaultTimings;
  }

  get synced(): Promise<void> {
    return this.#synced.promise;
  }

  get tried(): Promise<void> {
    return this.#tried.promise;
  }

  close(): void {
    this.#closed = true;
    this.#stream?.abort();
    this.#wake?.();
  }

  async run(): Promise<void> {
    while (!this.#closed) {
      if (this.#version === '') await this.#listOnce();
      else await this.#watchOnce();
    }
  }

  async #listOnce(): Promise<void> {
    const { sink, counts, log } = this.#options;
    try {
      const found = await this.#list();
      if (this.#closed) return;
      if (found === undefined) {
        sink.absent(this.#served);
        this.#served = false;
        this.#failures = 0;
        this.#synced.resolve();
        this.#tried.resolve();
        await this.#pause(this.#timings.absentMs * (0.75 + this.#options.random() / 2));
        return;
      }
      counts.listed();
      sink.replace(found.items);
      this.#version = found.version;
      this.#served = true;
      this.#failures = 0;
      this.#stuck = 0;
      this.#synced.resolve();
      this.#tried.resolve();
    } catch (error) {
      if (this.#closed) return;
      const failure = asFailure(error, 'list');
      counts.failed('list', failure);
      log.warn({ path: this.#path, status: failure.status, reason: failure.message }, 'list failed');
      this.#tried.resolve();
      await this.#backOff(failure);
    }
  }

  /** Undefined: no version of the kind is served. */
  async #list(): Promise<Page<Kept> | undefined> {
    for (const path of this.#options.paths) {
      this.#path = path;
      try {
        return await this.#pages(path, true);
      } catch (error) {
        const failure = asFailure(error, path);
        // A page came too late and the rest of the list is forgotten: take it whole.
        if (failure.expired) return await this.#pages(path, false);
        if (failure.status !== 404) throw failure;
      }
    }
    return undefined;
  }

  async #pages(path: string, inPages: boolean): Promise<Page<Kept>> {
    const { api, listAccept, query, sink } = this.#options;
    const items: Kept[] = [];
    let next = '';
    for (;;) {
      const page = readPage(
        await api.call({
          path,
          query: {
            ...query,
            ...(inPages ? { limit: String(PAGE_OBJECTS) } : {}),
            ...(next === '' ? {} : { continue: next }),
          },
          accept: listAccept,
          timeoutMs: PAGE_TIMEOUT_MS,
        }),
        path,
      );
      for (const item of page.items) {
        const kept = sink.read(item);
        if (kept !== undefined) items.push(kept);
      }
      next = page.next;
      if (next === '' || this.#closed) return { ...page, items };
    }
  }

  async #watchOnce(): Promise<void> {
    const { api, counts, random, log, clock } = this.#options;
    const seconds = Math.round(this.#timings.watchSeconds * (1 + random()));
    const call: ApiCall = {
      path: this.#path,
      query: {
        ...this.#options.query,
        watch: 'true',
        allowWatchBookmarks: 'true',
        resourceVersion: this.#version,
        timeoutSeconds: String(seconds),
      },
      accept: this.#options.watchAccept,
    };
    counts.watched();
    const beganMs = clock.nowMs();
    let heard = 0;
    this.#stream = api.stream(
      call,
      (value) => {
        if (this.#closed) return;
        this.#take(value);
        heard++;
        this.#failures = 0;
        this.#stuck = 0;
      },
      this.#timings.silentMsMax,
    );
    let failure: ApiFailure | undefined;
    try {
      await this.#stream.ended;
      // A server that ends every watch at once is a failing one.
      if (heard === 0 && clock.nowMs() - beganMs < QUICK_MS) {
        failure = new ApiFailure(0, 'Ended', `watch ${this.#path}: ended at once`);
      }
    } catch (error) {
      failure = asFailure(error, `watch ${this.#path}`);
    }
    this.#stream = undefined;
    if (failure === undefined || this.#closed) return;
    counts.failed('watch', failure);
    if (heard === 0 && !failure.away) this.#stuck++;
    if (failure.expired || failure.status === 404 || this.#stuck >= STUCK_MAX) {
      log.info(
        { path: this.#path, reason: failure.message },
        'watch cannot go on, everything is listed anew',
      );
      counts.relisted();
      this.#version = '';
      // 410 comes from a healthy server; at once, but not in step with other replicas.
      if (failure.expired) {
        await this.#pause(random() * this.#timings.firstPauseMs);
        return;
      }
    } else {
      log.warn({ path: this.#path, status: failure.status, reason: failure.message }, 'watch interrupted');
    }
    await this.#backOff(failure);
  }

  #take(value: unknown): void {
    const { type, object } = readEvent(value, this.#path);
    const { sink } = this.#options;
    switch (type) {
      case 'ADDED':
      case 'MODIFIED': {
        const kept = sink.read(object);
        if (kept !== undefined) sink.put(kept);
        break;
      }
      case 'DELETED':
        sink.remove(object);
        break;
      case 'BOOKMARK':
        break;
    }
    this.#version = object.metadata.resourceVersion ?? this.#version;
  }

  async #backOff(failure: ApiFailure): Promise<void> {
    const { firstPauseMs, pauseMsMax } = this.#timings;
    const grown = Math.min(pauseMsMax, firstPauseMs * 2 ** Math.min(this.#failures++, 20));
    const pauseMs = Math.max(failure.retryAfterMs, grown / 2) + this.#options.random() * grown;
    this.#options.counts.pausing(pauseMs);
    await this.#pause(pauseMs);
  }

  async #pause(ms: number): Promise<void> {
    if (this.#closed) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    const timer = this.#options.clock.after(ms, resolve);
    await promise;
    timer.cancel();
    this.#wake = undefined;
  }
}

const QUICK_MS = 1000;

function readPage(value: unknown, path: string): Page<RawObject> {
  const page = value as {
    readonly metadata?: { readonly resourceVersion?: unknown; readonly continue?: unknown };
    readonly items?: unknown;
  } | null;
  const version = page?.metadata?.resourceVersion;
  if (typeof version !== 'string' || version === '') {
    throw new ApiFailure(0, 'Garbage', `list ${path}: the answer has no resourceVersion`);
  }
  const items: unknown = page?.items ?? [];
  if (!Array.isArray(items) || !items.every(isObject)) {
    throw new ApiFailure(0, 'Garbage', `list ${path}: the answer has no list of objects`);
  }
  const next = page?.metadata?.continue;
  return { version, next: typeof next === 'string' ? next : '', items };
}

type EventType = 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
const eventTypes: ReadonlySet<string> = new Set<EventType>(['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK']);

function readEvent(value: unknown, path: string): { readonly type: EventType; readonly object: RawObject } {
  const event = value as { readonly type?: unknown; readonly object?: unknown } | null;
  const type = event?.type;
  if (type === 'ERROR') {
    const code = (event?.object as { readonly code?: unknown } | null | undefined)?.code;
    throw failureOf(typeof code === 'number' ? code : 0, event?.object, `watch ${path}`);
  }
  const object = event?.object;
  const named = type === 'BOOKMARK' ? isVersioned(object) : isObject(object);
  if (typeof type !== 'string' || !eventTypes.has(type) || !named) {
    throw new ApiFailure(0, 'Garbage', `watch ${path}: an event that cannot be read`);
  }
  return { type: type as EventType, object: object as RawObject };
}

const metadataOf = (value: unknown): Readonly<Record<string, unknown>> | undefined => {
  const metadata = (value as { readonly metadata?: unknown } | null | undefined)?.metadata;
  return typeof metadata === 'object' && metadata !== null
    ? (metadata as Readonly<Record<string, unknown>>)
    : undefined;
};

const isVersioned = (value: unknown): boolean => typeof metadataOf(value)?.['resourceVersion'] === 'string';

const isObject = (value: unknown): value is RawObject => {
  const metadata = metadataOf(value);
  const namespace = metadata?.['namespace'];
  return typeof metadata?.['name'] === 'string' && (namespace === undefined || typeof namespace === 'string');
};
