// SPDX-License-Identifier: Apache-2.0
// Which of two installers of one node works: during an upgrade the old one and the new one would undo each other. The
// one that started last does; when it ends, or is silent for a minute, the other one takes over.

import { mkdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoName } from '#lib/core/errors.ts';

/** An installer looks every 10 s. */
const SILENT_MS = 60_000;

export interface InstallerRole {
  /** Whether this one works; to be asked before each look. */
  holds(): boolean;
  /** Leaves the role to whoever wants it. */
  close(): void;
}

/** `path` is a file on the node; `owner` tells installers apart. */
export function takeInstallerRole(path: string, owner: string, wallMs: () => number): InstallerRole {
  const claim = (): void => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(`${path}.${owner}`, owner, { mode: 0o600 });
    renameSync(`${path}.${owner}`, path);
    touch();
  };
  const touch = (): void => utimesSync(path, wallMs() / 1000, wallMs() / 1000);
  const read = (): { readonly owner: string; readonly silentMs: number } | undefined => {
    try {
      return { owner: readFileSync(path, 'utf8'), silentMs: wallMs() - statSync(path).mtimeMs };
    } catch (error) {
      if (errnoName(error) === 'ENOENT') return undefined;
      throw error;
    }
  };
  claim();
  return {
    holds() {
      const found = read();
      if (found === undefined || (found.owner !== owner && found.silentMs > SILENT_MS)) claim();
      else if (found.owner === owner) touch();
      else return false;
      return true;
    },
    close() {
      if (read()?.owner === owner) rmSync(path, { force: true });
    },
  };
}
