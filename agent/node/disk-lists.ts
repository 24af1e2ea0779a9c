// SPDX-License-Identifier: Apache-2.0
// Two small files, neither with secrets: the sandboxes that the runtime has announced (a restarted agent takes
// them over), and the enrolled namespaces and pods (the CNI shim reads them while the agent is away). Both are
// replaced atomically and written at most once per turn.

import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { Sandbox } from './enrolment.ts';

export interface DiskLists {
  /** Undefined if there is no list, or none that can be read. */
  readSandboxes(): readonly Sandbox[] | undefined;
  setSandboxes(sandboxes: readonly Sandbox[]): void;
  setNamespaces(names: readonly string[]): void;
  setEnrolledPods(uids: readonly string[]): void;
  /** Writes what is outstanding. */
  flush(): void;
}

export const ENROLLED_LIST = 'enrolled';
const SANDBOX_LIST = 'sandboxes.json';

export interface DiskListsOptions {
  /** Gone after a reboot, as the sandboxes are. */
  readonly runDir: string;
  /** Kept over a reboot: no pod of an enrolled namespace may start outside the mesh then. */
  readonly stateDir: string;
  readonly log: Log;
}

export function createDiskLists({ runDir, stateDir, log }: DiskListsOptions): DiskLists {
  const enrolledPath = join(stateDir, ENROLLED_LIST);
  const sandboxPath = join(runDir, SANDBOX_LIST);
  let sandboxes: readonly Sandbox[] | undefined;
  // What an earlier agent knew stays in force until destination has spoken.
  const earlier = readLines(enrolledPath);
  let namespaces = earlier.filter((line) => line.startsWith('ns ')).map((line) => line.slice(3));
  let pods = earlier.filter((line) => line.startsWith('pod ')).map((line) => line.slice(4));
  let enrolledDirty = false;
  let scheduled = false;

  const replace = (path: string, text: string): void => {
    try {
      writeFileSync(`${path}.new`, text, { mode: 0o600 });
      renameSync(`${path}.new`, path);
    } catch (error) {
      log.error(
        { path, error: errorMessage(error) },
        'a list cannot be written; free space or permissions are missing',
      );
    }
  };
  const flush = (): void => {
    scheduled = false;
    if (enrolledDirty) {
      enrolledDirty = false;
      const lines = [...namespaces.map((name) => `ns ${name}`), ...pods.map((uid) => `pod ${uid}`)];
      replace(enrolledPath, lines.map((line) => `${line}\n`).join(''));
    }
    if (sandboxes !== undefined) {
      replace(sandboxPath, `${JSON.stringify(sandboxes)}\n`);
      sandboxes = undefined;
    }
  };
  const schedule = (): void => {
    if (scheduled) return;
    scheduled = true;
    setImmediate(flush);
  };

  return {
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
      schedule();
    },
    setNamespaces(next) {
      namespaces = [...next];
      enrolledDirty = true;
      schedule();
    },
    setEnrolledPods(next) {
      pods = [...next];
      enrolledDirty = true;
      schedule();
    },
    flush,
  };
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return undefined;
    throw error;
  }
}

const readLines = (path: string): string[] =>
  (readText(path) ?? '').split('\n').filter((line) => line !== '');

function isSandbox(value: unknown): value is Sandbox {
  if (typeof value !== 'object' || value === null) return false;
  const fields = value as Record<string, unknown>;
  const texts = ['containerId', 'uid', 'namespace', 'name', 'netnsPath'];
  return texts.every((field) => typeof fields[field] === 'string') && Array.isArray(fields['addresses']);
}
