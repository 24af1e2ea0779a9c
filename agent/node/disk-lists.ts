// SPDX-License-Identifier: Apache-2.0
// Two small files, neither with secrets: the sandboxes that the runtime has announced (a restarted agent takes
// them over), and the enrolled namespaces and pods (the CNI plugin reads them while the agent is away). The second must
// outlive a power cut. What could not be written is tried again.

import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, systemClock, type Timer } from '#lib/core/clock.ts';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { encodeEnrolledList, type ReadList, readEnrolledList } from '../../cni-plugin/logic/enrolled-list.ts';
import type { Sandbox } from './enrolment-model.ts';
import { ListFile } from './list-file.ts';

export interface DiskLists {
  /** Undefined if there is no list, or none that can be read. */
  readSandboxes(): readonly Sandbox[] | undefined;
  setSandboxes(sandboxes: readonly Sandbox[]): void;
  /** The list of the mesh as it was found. */
  readonly earlier: ReadList;
  setNamespaces(names: readonly string[]): void;
  /** Which pods shall be in the mesh; asked when the list is written. */
  podsChanged(wanted: () => readonly string[]): void;
  /** Destination has told every pod of the node: those that only the earlier list names are gone. */
  forgetEarlierPods(): void;
  /**
   * Of two agents of one node, one writes; true at first. What is outstanding is written before it is false, what is set
   * afterwards once it is true again.
   */
  setActive(active: boolean): void;
  /** Writes what is outstanding. */
  flush(): void;
  /** How often a list could not be written. */
  readonly failures: number;
}

export const ENROLLED_LIST = 'enrolled';
const SANDBOX_LIST = 'sandboxes.json';
const RETRY_MS = 5_000;
/** What a killed agent left half-written; one that lives is done with it by then. */
const STALE_MS = 60_000;

export interface DiskListsOptions {
  /** Gone after a reboot, as the sandboxes are. */
  readonly runDir: string;
  /** Kept over a reboot: no pod of an enrolled namespace may start outside the mesh then. */
  readonly stateDir: string;
  readonly log: Log;
  readonly clock?: Clock;
}

let instances = 0;

export function createDiskLists({ runDir, stateDir, log, clock = systemClock }: DiskListsOptions): DiskLists {
  const enrolledPath = join(stateDir, ENROLLED_LIST);
  const sandboxPath = join(runDir, SANDBOX_LIST);
  const unique = `${process.pid}-${instances++}-${clock.wallMs()}`;
  removeStale(stateDir, ENROLLED_LIST, clock);
  removeStale(runDir, SANDBOX_LIST, clock);
  const earlier = readEnrolledList(enrolledPath);
  if (earlier.state === 'damaged') {
    log.error(
      { path: enrolledPath, reason: earlier.reason },
      'the list of the mesh cannot be read; unknown pods wait until destination has told the namespaces',
    );
  }
  let sandboxes: readonly Sandbox[] = [];
  // What an earlier agent knew stays in force until destination has spoken. A damaged list stays as it is until
  // then: so the plugin goes on holding back what might be of the mesh.
  let namespaces: readonly string[] | undefined = earlier.state === 'whole' ? earlier.namespaces : undefined;
  let earlierPods: readonly string[] = earlier.state === 'whole' ? earlier.pods : [];
  let wantedPods: () => readonly string[] = () => [];
  let scheduled = false;
  let active = true;
  let failures = 0;
  let retry: Timer | undefined;

  const failed = (path: string, error: unknown): void => {
    failures++;
    log.error(
      { path, error: errorMessage(error) },
      'a list cannot be written and is tried again; free space or permissions are missing',
    );
    retry ??= clock.after(RETRY_MS, () => {
      retry = undefined;
      schedule();
    });
  };

  const enrolledFile = new ListFile({
    path: enrolledPath,
    synced: true,
    unique,
    text: () =>
      earlier.state === 'damaged' && namespaces === undefined
        ? undefined
        : encodeEnrolledList({
            namespaces: namespaces ?? [],
            pods: [...new Set([...earlierPods, ...wantedPods()])],
          }),
    failed: (error) => failed(enrolledPath, error),
  });
  const sandboxFile = new ListFile({
    path: sandboxPath,
    synced: false,
    unique,
    text: () => `${JSON.stringify(sandboxes)}\n`,
    failed: (error) => failed(sandboxPath, error),
  });

  const schedule = (): void => {
    if (scheduled || !active) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      if (!active) return;
      void sandboxFile.write();
      void enrolledFile.write();
    });
  };
  const enrolledChanged = (): void => {
    enrolledFile.changed();
    schedule();
  };
  const flush = (): void => {
    if (!active) return;
    sandboxFile.flush();
    enrolledFile.flush();
    retry?.cancel();
    retry = undefined;
  };

  return {
    earlier,
    readSandboxes() {
      const text = readText(sandboxPath);
      if (text === undefined) return undefined;
      try {
        const parsed: unknown = JSON.parse(text);
        if (!Array.isArray(parsed)) throw new Error('not a list');
        return parsed.filter(isSandbox);
      } catch (error) {
        log.error(
          { path: sandboxPath, error: errorMessage(error) },
          'the list of sandboxes cannot be read; it starts empty',
        );
        return undefined;
      }
    },
    setSandboxes(next) {
      sandboxes = next;
      sandboxFile.changed();
      schedule();
    },
    setNamespaces(next) {
      namespaces = [...next];
      enrolledChanged();
    },
    podsChanged(wanted) {
      wantedPods = wanted;
      enrolledChanged();
    },
    forgetEarlierPods() {
      earlierPods = [];
      enrolledChanged();
    },
    setActive(next) {
      if (!next) flush();
      active = next;
      schedule();
    },
    flush,
    get failures() {
      return failures;
    },
  };
}

function removeStale(folder: string, list: string, clock: Clock): void {
  for (const name of readdirSync(folder)) {
    if (!name.startsWith(`${list}.`)) continue;
    const path = join(folder, name);
    const age = clock.wallMs() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0);
    if (age > STALE_MS) rmSync(path, { force: true });
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function isSandbox(value: unknown): value is Sandbox {
  if (typeof value !== 'object' || value === null) return false;
  const fields = value as Record<string, unknown>;
  const texts = ['containerId', 'uid', 'namespace', 'name', 'netnsPath'];
  return texts.every((field) => typeof fields[field] === 'string') && Array.isArray(fields['addresses']);
}
