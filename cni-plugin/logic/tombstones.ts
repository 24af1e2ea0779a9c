// SPDX-License-Identifier: Apache-2.0
// Notes that a CNI DEL came while the agent was away: one file per container id, the pod's uid in it. The shim
// writes them (and alone.ts), the agent takes them when it is back.

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';

/** More are not left, nor taken in one go: what no note tells, the agent's reconciliation finds. */
export const TOMBSTONES_MAX = 4096;

/** Best effort, as in the shim: DEL must succeed. */
export function leaveTombstone(folder: string, containerId: string, uid: string): string | undefined {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    if (readdirSync(folder).length >= TOMBSTONES_MAX) return 'there are too many';
    writeFileSync(join(folder, containerId), uid, { mode: 0o600 });
    return undefined;
  } catch (error) {
    return errorMessage(error);
  }
}

/** For a container id that is added (again): what the note told is over. */
export function removeTombstone(folder: string, containerId: string): void {
  rmSync(join(folder, containerId), { force: true });
}

/** Hands every note to `remove` and deletes it afterwards, so that a failure leaves it for the next time. */
export async function takeTombstones(
  folder: string,
  remove: (containerId: string, uid: string) => Promise<void>,
  log: Log,
): Promise<void> {
  let names: string[];
  try {
    names = readdirSync(folder).slice(0, TOMBSTONES_MAX);
  } catch (error) {
    if (errnoName(error) !== 'ENOENT') {
      log.warn({ folder, error: errorMessage(error) }, 'tombstones cannot be read');
    }
    return;
  }
  for (const containerId of names) {
    const path = join(folder, containerId);
    try {
      const uid = readFileSync(path, 'utf8').slice(0, 256);
      await remove(containerId, uid);
      rmSync(path, { force: true });
      log.info({ containerId }, 'a pod was removed while the agent was away');
    } catch (error) {
      // An ADD of the same id took it back meanwhile.
      if (errnoName(error) === 'ENOENT') continue;
      log.warn(
        { containerId, error: errorMessage(error) },
        'a removal noted while away failed and is tried again',
      );
    }
  }
}
