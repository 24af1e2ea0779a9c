// SPDX-License-Identifier: Apache-2.0
// The enrolment condition and Events of pods as files, `<folder>/.status/<uid>.json`: what a status subresource
// is in Kubernetes. Written atomically, at most every 50 ms a pod, the newest report wins.

import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import type { Clock } from '#lib/core/clock.ts';
import { errnoName, errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { ENROLLED_CONDITION, type PodCondition } from '#lib/registry/model.ts';
import type { PodRef, PodStatusReport } from '#lib/registry/registry.ts';

const WRITE_INTERVAL_MS = 50;
const EVENTS_MAX = 20;

const statusFile = v.object({
  cluster: v.string(),
  namespace: v.string(),
  name: v.string(),
  uid: v.string(),
  condition: v.optional(
    v.object({
      type: v.literal(ENROLLED_CONDITION),
      status: v.picklist(['True', 'False', 'Unknown']),
      reason: v.string(),
      message: v.string(),
      observedGeneration: v.number(),
      lastTransitionTime: v.string(),
    }),
  ),
  events: v.array(
    v.object({
      type: v.picklist(['Normal', 'Warning']),
      reason: v.string(),
      message: v.string(),
      count: v.number(),
      lastTimestamp: v.string(),
    }),
  ),
});

type StatusFile = v.InferOutput<typeof statusFile>;

interface OwnStatus {
  content: StatusFile;
  /** Resolves when `content` is on disk; one write runs at a time. */
  written: Promise<void>;
  pending: boolean;
  lastWriteMs: number;
}

export interface PodStatusOptions {
  readonly folder: string;
  readonly clock: Clock;
  readonly log: Log;
  /** A condition is written, or was found changed on disk. */
  readonly changed: (uid: string) => void;
}

export class PodStatusFiles {
  readonly folder: string;
  readonly #options: PodStatusOptions;
  /** What this process wrote wins over what it reads: nobody else writes these files then. */
  readonly #own = new Map<string, OwnStatus>();
  #read = new Map<string, StatusFile>();
  #closed = false;

  constructor(options: PodStatusOptions) {
    this.#options = options;
    this.folder = join(options.folder, '.status');
  }

  condition(uid: string): PodCondition | undefined {
    const condition = (this.#own.get(uid)?.content ?? this.#read.get(uid))?.condition;
    if (condition === undefined) return undefined;
    const { type, status, reason, message, observedGeneration } = condition;
    return { type, status, reason, message, observedGeneration };
  }

  /** Reads what others (or an earlier process) wrote. */
  async read(): Promise<void> {
    let names: string[];
    try {
      names = await readdir(this.folder);
    } catch (error) {
      if (errnoName(error) === 'ENOENT') return;
      throw error;
    }
    const found = new Map<string, StatusFile>();
    const own = new Set([...this.#own.keys()].map(fileNameOf));
    for (const name of names) {
      if (!/^[^.].*\.json$/.test(name) || own.has(name)) continue;
      const content = await this.#readOne(name);
      if (content !== undefined) found.set(content.uid, content);
    }
    const before = this.#read;
    this.#read = found;
    for (const uid of new Set([...before.keys(), ...found.keys()])) {
      if (this.#own.has(uid)) continue;
      if (JSON.stringify(before.get(uid)) !== JSON.stringify(found.get(uid))) this.#options.changed(uid);
    }
  }

  async #readOne(name: string): Promise<StatusFile | undefined> {
    const path = join(this.folder, name);
    try {
      return v.parse(statusFile, JSON.parse(await readFile(path, 'utf8')));
    } catch (error) {
      if (errnoName(error) !== 'ENOENT') {
        this.#options.log.error(
          { path, error: errorMessage(error) },
          'pod status cannot be read and is left out',
        );
      }
      return undefined;
    }
  }

  async report(pod: PodRef, report: PodStatusReport): Promise<void> {
    if (this.#closed) return;
    const own = this.#own.get(pod.uid) ?? this.#adopt(pod);
    const next = merge(own.content, report, new Date(this.#options.clock.wallMs()).toISOString());
    if (next === own.content) return own.written;
    own.content = next;
    if (own.pending) return own.written;
    own.pending = true;
    const wait = own.lastWriteMs + WRITE_INTERVAL_MS - this.#options.clock.nowMs();
    const earlier = own.written.catch(() => undefined);
    own.written = earlier.then(async () => {
      if (wait > 0) await new Promise<void>((resolve) => this.#options.clock.after(wait, resolve));
      own.pending = false;
      own.lastWriteMs = this.#options.clock.nowMs();
      await this.#write(own);
    });
    return own.written;
  }

  #adopt(pod: PodRef): OwnStatus {
    const { cluster, namespace, name, uid } = pod;
    const own: OwnStatus = {
      content: this.#read.get(uid) ?? { cluster, namespace, name, uid, events: [] },
      written: Promise.resolve(),
      pending: false,
      lastWriteMs: Number.NEGATIVE_INFINITY,
    };
    this.#own.set(uid, own);
    return own;
  }

  async #write(own: OwnStatus): Promise<void> {
    const { uid } = own.content;
    const path = this.#pathOf(uid);
    const temporary = join(this.folder, `.${encodeURIComponent(uid)}.${process.pid}.tmp`);
    try {
      await mkdir(this.folder, { recursive: true });
      await writeFile(temporary, `${JSON.stringify(own.content, undefined, 2)}\n`);
      await rename(temporary, path);
    } catch (error) {
      throw MeshError.from(error, 'MESH_SYSCALL', `writing the status of pod ${uid} to ${path}`);
    }
    this.#options.changed(uid);
  }

  /** The pod is gone: so is what this process wrote of it. */
  async forget(uid: string): Promise<void> {
    const own = this.#own.get(uid);
    if (own === undefined) return;
    this.#own.delete(uid);
    this.#read.delete(uid);
    await own.written.catch(() => undefined);
    await rm(this.#pathOf(uid), { force: true });
  }

  /** Resolves when what was reported is on disk, or failed to get there; later reports are not written. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled([...this.#own.values()].map(({ written }) => written));
  }

  #pathOf(uid: string): string {
    return join(this.folder, fileNameOf(uid));
  }
}

const fileNameOf = (uid: string): string => `${encodeURIComponent(uid)}.json`;

/** Returns `before` itself if the report says nothing new. */
function merge(before: StatusFile, report: PodStatusReport, now: string): StatusFile {
  let next = before;
  const { condition } = report;
  const old = before.condition;
  if (
    condition !== undefined &&
    (old?.status !== condition.status ||
      old.reason !== condition.reason ||
      old.message !== condition.message ||
      old.observedGeneration !== condition.generation)
  ) {
    next = {
      ...next,
      condition: {
        type: ENROLLED_CONDITION,
        status: condition.status,
        reason: condition.reason,
        message: condition.message,
        observedGeneration: condition.generation,
        lastTransitionTime: old?.status === condition.status ? old.lastTransitionTime : now,
      },
    };
  }
  // A new configuration of a pod that stays where it was is nothing to tell.
  const transition =
    condition !== undefined && (old?.status !== condition.status || old.reason !== condition.reason);
  for (const event of report.events ?? []) {
    const same = next.events.find(
      (known) =>
        known.type === event.type && known.reason === event.reason && known.message === event.message,
    );
    // Said before, and nothing happened since.
    if (same !== undefined && !transition) continue;
    const others = next.events.filter((known) => known !== same);
    const counted = { ...event, count: (same?.count ?? 0) + 1, lastTimestamp: now };
    next = { ...next, events: [...others, counted].slice(-EVENTS_MAX) };
  }
  return next;
}
