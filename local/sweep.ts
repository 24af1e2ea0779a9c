// SPDX-License-Identifier: Apache-2.0
// Removes everything of a local mesh by looking at the machine, not at any memory of what was made: so it works
// after a crash, too. Order matters: processes, then namespaces, then mounts, then files.

import { existsSync, readdirSync, readFileSync, readlinkSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { errnoName } from '#lib/core/errors.ts';
import { cgroupProcesses, findCgroup2, removeCgroup } from './cgroups.ts';
import { runChecked } from './command.ts';
import { meshCgroup, meshDir, netnsPath, ownsNetns, STATE_ROOT } from './layout.ts';
import { removeNetns } from './network.ts';

/** An abstract socket: the kernel frees it when the daemon ends, however that happens. */
export const lockName = (name: string): string => `\0nodemesh-local/${name}`;

/** The process id of the daemon of this name, which it tells whoever connects to its lock; undefined: there is none. */
export function daemonPid(name: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const socket = connect(lockName(name));
    let text = '';
    socket.on('data', (chunk) => (text += String(chunk)));
    // One that ends just now may close without a word.
    socket.on('close', () => resolve(/^[1-9]\d+$/.test(text) ? Number(text) : undefined));
    socket.on('error', (error) => {
      if (['ECONNREFUSED', 'ECONNRESET'].includes(errnoName(error) ?? '')) resolve(undefined);
      else reject(error);
    });
  });
}

export interface Leftovers {
  readonly daemon: boolean;
  readonly netns: readonly string[];
  readonly mounts: readonly string[];
  readonly cgroups: readonly string[];
  readonly processes: readonly number[];
  readonly links: readonly string[];
  readonly files: readonly string[];
}

const namespaces = (name: string): string[] =>
  existsSync('/run/netns') ? readdirSync('/run/netns').filter((netns) => ownsNetns(name, netns)) : [];

function mountsBelow(folder: string): string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((target) => target.startsWith(`${folder}/`));
}

function readLinkOrEmpty(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ''; // the process has ended meanwhile, or is a kernel thread
  }
}

/** Processes inside the mesh's cgroups, and others that hold one of its network namespaces. */
function processes(cgroup: string | undefined, netns: readonly string[]): number[] {
  const inodes = new Set(netns.map((name) => `net:[${statSync(netnsPath(name)).ino}]`));
  const holders =
    inodes.size === 0
      ? []
      : readdirSync('/proc')
          .filter((entry) => /^\d+$/.test(entry) && inodes.has(readLinkOrEmpty(`/proc/${entry}/ns/net`)))
          .map(Number);
  return [...new Set([...(cgroup === undefined ? [] : cgroupProcesses(cgroup)), ...holders])];
}

/** Links with the names that the wire has: in the machine's own namespace there must never be one. */
async function strayLinks(): Promise<string[]> {
  const text = await runChecked(['ip', '-o', 'link', 'show', 'type', 'veth']);
  return [...text.matchAll(/^\d+: ([^@:]+)/gm)]
    .map((match) => match[1] ?? '')
    .filter((link) => /^(node\d+|control)$/.test(link));
}

const cgroupOf = (name: string): string | undefined => {
  const mount = findCgroup2(readFileSync('/proc/mounts', 'utf8'));
  return mount === undefined ? undefined : meshCgroup(name, mount);
};

/** What is still there of a local mesh; all empty after `down`. */
export async function leftovers(name: string): Promise<Leftovers> {
  const dir = meshDir(name);
  const cgroup = cgroupOf(name);
  const netns = namespaces(name);
  return {
    daemon: (await daemonPid(name)) !== undefined,
    netns,
    mounts: mountsBelow(dir),
    cgroups: cgroup !== undefined && existsSync(cgroup) ? [cgroup] : [],
    processes: processes(cgroup, netns),
    links: await strayLinks(),
    files: existsSync(dir) ? [dir] : [],
  };
}

export const nothingLeft = (left: Leftovers): boolean =>
  !left.daemon &&
  [left.netns, left.mounts, left.cgroups, left.processes, left.links, left.files].every(
    (list) => list.length === 0,
  );

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (errnoName(error) !== 'ESRCH') throw error;
  }
}

/** A folder that other meshes share goes with the last of them. */
function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch (error) {
    if (!['ENOENT', 'ENOTEMPTY', 'EBUSY'].includes(errnoName(error) ?? '')) throw error;
  }
}

/**
 * Removes all of it. The daemon of this name must not be running any more, except if it is the caller. True if
 * there was something.
 */
export async function sweep(name: string): Promise<boolean> {
  const dir = meshDir(name);
  const cgroup = cgroupOf(name);
  const netns = namespaces(name);
  const found = existsSync(dir) || netns.length > 0 || (cgroup !== undefined && existsSync(cgroup));
  if (cgroup !== undefined) await removeCgroup(cgroup);
  for (const pid of processes(undefined, netns)) if (pid !== process.pid) killQuietly(pid);
  for (const one of netns) await removeNetns(one);
  for (const target of mountsBelow(dir).reverse()) await runChecked(['umount', '-l', target]);
  rmSync(dir, { recursive: true, force: true });
  removeIfEmpty(STATE_ROOT);
  if (cgroup !== undefined) removeIfEmpty(dirname(cgroup));
  return found;
}
