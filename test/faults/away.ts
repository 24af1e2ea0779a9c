// SPDX-License-Identifier: Apache-2.0
// Takes a program of a local mesh's control plane away for a while: whatever its supervisor starts is killed before
// it can serve. The process is really gone, and connections to it are refused.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoName } from '#lib/core/errors.ts';
import type { LocalMesh } from '../../local/harness.ts';

const LOOK_MS = 40;

function processesOf(mesh: LocalMesh, main: string): number[] {
  const pids = readFileSync(`${mesh.layout.controlCgroup}/cgroup.procs`, 'utf8').split('\n').filter(Boolean);
  return pids.map(Number).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`/${main}`);
    } catch (error) {
      if (errnoName(error) === 'ENOENT' || errnoName(error) === 'ESRCH') return false;
      throw error;
    }
  });
}

export interface Absence {
  /** How many processes were killed. */
  readonly kills: number;
  /** Lets it come back. */
  end(): Promise<void>;
}

/** `main` as in the command line: `identity/main.ts`. */
export function takeAway(mesh: LocalMesh, main: string): Absence {
  const ended = new AbortController();
  let kills = 0;
  const loop = (async () => {
    while (!ended.signal.aborted) {
      for (const pid of processesOf(mesh, main)) {
        try {
          process.kill(pid, 'SIGKILL');
          kills++;
        } catch (error) {
          if (errnoName(error) !== 'ESRCH') throw error;
        }
      }
      await sleep(LOOK_MS);
    }
  })();
  return {
    get kills() {
      return kills;
    },
    async end() {
      ended.abort();
      await loop;
    },
  };
}
