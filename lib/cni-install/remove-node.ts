// SPDX-License-Identifier: Apache-2.0
// Takes the mesh off a node, in two steps: the plugin out of the chain while the agent still serves what was started
// with it, and when agent and keeper have ended everything else, the plugin itself last.

import { existsSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Log } from '#lib/core/log.ts';
import { removeConflist, uninstallCni } from './install.ts';
import { type InstallerRole, takeInstallerRole } from './installer-role.ts';

export interface NodeFolders {
  readonly confDir: string;
  readonly binDir: string;
  /** /run/nodemesh of the node: sockets, the installer's role. */
  readonly runDir: string;
  /** /var/lib/nodemesh of the node. */
  readonly stateDir: string;
  /** The pins' folder: eBPF programs end with the last name that they have. */
  readonly pins: string;
}

const OWNER = 'removal';
const LOOK_MS = 500;
const SAY_MS = 10_000;

const takeRole = ({ runDir }: NodeFolders): InstallerRole =>
  takeInstallerRole(join(runDir, 'installer'), OWNER, () => Date.now());

/** No installer puts it back: the role is taken, and held until it would fall back in a minute. */
export function unchain(folders: NodeFolders): void {
  takeRole(folders);
  removeConflist(folders.confDir);
}

export interface FinishOptions {
  readonly log: Log;
  readonly sleep: (ms: number) => Promise<unknown>;
}

export async function finish(folders: NodeFolders, { log, sleep }: FinishOptions): Promise<void> {
  const role = takeRole(folders);
  const sockets = ['cni.sock', 'agent.sock', 'keeper.sock'].map((name) => join(folders.runDir, name));
  for (let round = 0; ; round++) {
    const answering = await Promise.all(sockets.map(answers));
    const still = sockets.filter((_path, at) => answering[at]);
    if (still.length === 0) break;
    if ((round * LOOK_MS) % SAY_MS === 0) log.info({ still }, 'waiting for agent and keeper to end');
    role.holds();
    await sleep(LOOK_MS);
  }
  removeConflist(folders.confDir);
  for (const path of [folders.pins, folders.stateDir, folders.runDir]) {
    if (existsSync(path)) log.info({ path }, 'removed');
    rmSync(path, { recursive: true, force: true });
  }
  uninstallCni(folders);
}

/** Whether somebody takes connections there. */
const answers = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
