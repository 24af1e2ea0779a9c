// SPDX-License-Identifier: Apache-2.0
// Notes that a CNI DEL came while the agent was away: one file per container id, the pod's uid in it. The shim
// writes them (and alone.ts), the agent takes them when it is back.

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';

/** Best effort, as in the shim: DEL must succeed. */
export function leaveTombstone(folder: string, containerId: string, uid: string): string | undefined {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileSync(join(folder, containerId), uid, { mode: 0o600 });
    return undefined;
  } catch (error) {
    return errorMessage(error);
  }
}

/** Hands every note to `remove` and deletes it afterwards, so that a failure leaves it for the next time. */
export async function takeTombstones(
  folder: string,
  remove: (containerId: string, uid: string) => Promise<void>,
  log: Log,
): Promise<void> {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if (errnoName(error) !== 'ENOENT') {
      log.warn({ folder, error: errorMessage(error) }, 'tombstones cannot be read');
    }
    return;
  }
  for (const containerId of names) {
    const path = join(folder, containerId);
    try {
      await remove(containerId, readFileSync(path, 'utf8').slice(0, 256));
      rmSync(path, { force: true });
      log.info({ containerId }, 'a pod was removed while the agent was away');
    } catch (error) {
      log.warn(
        { containerId, error: errorMessage(error) },
        'a removal noted while away failed and is tried again',
      );
    }
  }
}
