// SPDX-License-Identifier: Apache-2.0
// Removes everything of a cluster by looking at the machine, not at any memory of what was made: so it works after a
// crash, too. Order matters: processes, then namespaces, then files.

import { existsSync, rmdirSync, rmSync } from 'node:fs';
import { errnoName } from '#lib/core/errors.ts';
import { findClusterCgroups, removeCgroups } from './cgroups.ts';
import { clusterDir, clusterOfNetns, STATE_ROOT } from './layout.ts';
import { forgetNetnsDir, namedNetns, removeNetns } from './network.ts';
import { readNotes } from './notes.ts';

/** True if there was something. */
export async function takeDown(name: string): Promise<boolean> {
  const dir = clusterDir(name);
  const cgroups = findClusterCgroups().get(name) ?? [];
  const netns = namedNetns().filter((one) => clusterOfNetns(one) === name);
  const wasThere = existsSync(dir) || cgroups.length > 0 || netns.length > 0;
  const notes = readNotes(name);
  await removeCgroups(cgroups);
  await removeNetns(netns);
  rmSync(dir, { recursive: true, force: true });
  if (existsSync(STATE_ROOT)) {
    try {
      rmdirSync(STATE_ROOT);
    } catch (error) {
      if (errnoName(error) !== 'ENOTEMPTY') throw error; // other clusters are there
    }
  }
  if (notes?.netnsDirWasMount === false) await forgetNetnsDir();
  return wasThere;
}
