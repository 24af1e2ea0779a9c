// SPDX-License-Identifier: Apache-2.0
// Looks for the namespaces of pods that shall be in the mesh and that no CNI ADD announced (they ran before the
// plugin was installed, or the list of sandboxes was lost), again and again with growing pauses; and notices when a
// namespace that was found has lost its last process, so that nothing of ours keeps it.

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { findNamespaces, type FoundNamespace, type ProcessView, type WantedPod } from './find-namespace.ts';

const PAUSE_MIN_MS = 1_000;
const PAUSE_MAX_MS = 30_000;
const WATCH_MS = 5_000;
/** Pods that come within this time are looked for in one go. */
const GATHER_MS = 20;

export interface NamespaceSearchOptions {
  readonly view: ProcessView;
  /** Pods whose namespaces are missing now. */
  readonly missing: () => readonly WantedPod[];
  /** Pods that live in a namespace found here. */
  readonly placed: () => readonly WantedPod[];
  readonly found: (uid: string, netnsPath: string) => void;
  readonly notFound: (uid: string) => void;
  readonly gone: (uid: string) => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface NamespaceSearch {
  /** A pod may be missing since now. */
  wake(): void;
  close(): void;
}

interface Attempt {
  pauses: number;
  nextAtMs: number;
}

export function createNamespaceSearch(options: NamespaceSearchOptions): NamespaceSearch {
  const { clock, random, log, view } = options;
  const attempts = new Map<string, Attempt>();
  const namespaces = new Map<string, FoundNamespace>();
  let timer: Timer | undefined;
  let atMs = Number.POSITIVE_INFINITY;
  let running = false;
  let again = false;
  let watchedAtMs = clock.nowMs();
  let closed = false;

  const schedule = (afterMs: number): void => {
    if (closed) return;
    if (running) {
      again = true;
      return;
    }
    const at = clock.nowMs() + afterMs;
    if (at >= atMs) return;
    timer?.cancel();
    atMs = at;
    timer = clock.after(afterMs, () => {
      atMs = Number.POSITIVE_INFINITY;
      running = true;
      run()
        .catch((error: unknown) => log.error({ error: errorMessage(error) }, 'looking for namespaces failed'))
        .finally(() => {
          running = false;
          const due = again ? GATHER_MS : nextPause();
          again = false;
          if (due !== undefined) schedule(due);
        });
    });
  };

  const nextPause = (): number | undefined => {
    const now = clock.nowMs();
    const waits = [...attempts.values()].map(({ nextAtMs }) => Math.max(0, nextAtMs - now));
    if (namespaces.size > 0) waits.push(Math.max(0, watchedAtMs + WATCH_MS - now));
    return waits.length === 0 ? undefined : Math.min(...waits);
  };

  /** Processes come and go in a pod that lives on. */
  const watch = async (): Promise<void> => {
    watchedAtMs = clock.nowMs();
    const placed = new Map(options.placed().map((pod) => [pod.uid, pod]));
    for (const uid of namespaces.keys()) if (!placed.has(uid)) namespaces.delete(uid);
    const lost = [...placed.values()].filter(({ uid }) => {
      const known = namespaces.get(uid);
      const process = known?.path.split('/').at(-3) ?? '';
      return known === undefined || view.namespaceOf(process)?.inode !== known.inode;
    });
    if (lost.length === 0) return;
    const found = await findNamespaces(lost, view);
    for (const { uid } of lost) {
      const known = namespaces.get(uid);
      const now = found.get(uid);
      if (now !== undefined && (known === undefined || now.inode === known.inode)) namespaces.set(uid, now);
      else {
        namespaces.delete(uid);
        if (!closed) options.gone(uid);
      }
    }
  };

  const run = async (): Promise<void> => {
    if (namespaces.size > 0 && clock.nowMs() >= watchedAtMs + WATCH_MS) await watch();
    const missing = options.missing();
    const uids = new Set(missing.map(({ uid }) => uid));
    for (const uid of attempts.keys()) if (!uids.has(uid)) attempts.delete(uid);
    const now = clock.nowMs();
    const due = missing.filter(({ uid }) => (attempts.get(uid)?.nextAtMs ?? 0) <= now);
    if (due.length === 0) return;
    const found = await findNamespaces(due, view);
    if (closed) return;
    for (const { uid } of due) {
      const namespace = found.get(uid);
      if (namespace !== undefined) {
        attempts.delete(uid);
        namespaces.set(uid, namespace);
        options.found(uid, namespace.path);
        continue;
      }
      const pauses = attempts.get(uid)?.pauses ?? 0;
      const pause = Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** pauses) * (0.5 + random() / 2);
      attempts.set(uid, { pauses: pauses + 1, nextAtMs: clock.nowMs() + pause });
      options.notFound(uid);
    }
  };

  return {
    wake: () => schedule(GATHER_MS),
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}
