// SPDX-License-Identifier: Apache-2.0
// A cluster's control groups in every hierarchy that the machine has (several of version 1, or the one of version 2),
// below the caller's own, so that accounting of whoever runs the cluster still holds. Sets no limits.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoName, MeshError } from '#lib/core/errors.ts';
import { clusterOfCgroup } from './layout.ts';

const GONE_MS_MAX = 60_000;

interface Hierarchy {
  readonly mount: string;
  /** The caller's own group in it. */
  readonly own: string;
}

/** From the texts of /proc/self/mounts and /proc/self/cgroup. */
export function findHierarchies(mounts: string, own: string): Hierarchy[] {
  const found: Hierarchy[] = [];
  for (const line of mounts.split('\n')) {
    const [, mount = '', type = '', options = ''] = line.split(' ');
    if (type !== 'cgroup' && type !== 'cgroup2') continue;
    const names = new Set(options.split(','));
    for (const entry of own.split('\n')) {
      const [, number, controllers = '', path] = /^(\d+):([^:]*):(.*)$/.exec(entry) ?? [];
      if (path === undefined) continue;
      const matches =
        type === 'cgroup2'
          ? number === '0'
          : controllers !== '' && controllers.split(',').every((one) => names.has(one));
      if (matches) found.push({ mount, own: join(mount, path) });
    }
  }
  return found;
}

const hierarchies = (): Hierarchy[] =>
  findHierarchies(readFileSync('/proc/self/mounts', 'utf8'), readFileSync('/proc/self/cgroup', 'utf8'));

/** Version 1's cpuset starts empty, and then nothing may enter. */
function inheritCpuset(parent: string, group: string): void {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    const path = join(group, file);
    if (existsSync(path) && readFileSync(path, 'utf8').trim() === '')
      writeFileSync(path, readFileSync(join(parent, file), 'utf8'));
  }
}

/** Makes `path` (relative) in every hierarchy and returns the folders. */
export function makeCgroups(path: string): string[] {
  return hierarchies().map(({ own }) => {
    let group = own;
    for (const step of path.split('/')) {
      const parent = group;
      group = join(group, step);
      if (!existsSync(group)) mkdirSync(group);
      inheritCpuset(parent, group);
    }
    return group;
  });
}

const subfolders = (folder: string): string[] => {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(folder, entry.name));
  } catch (error) {
    if (['ENOENT', 'ENODEV'].includes(errnoName(error) ?? '')) return [];
    throw error;
  }
};

/** The top groups of clusters, by looking through all hierarchies: whoever made them, wherever. */
export function findClusterCgroups(): Map<string, string[]> {
  const found = new Map<string, string[]>();
  const walk = (folder: string): void => {
    const name = clusterOfCgroup(basename(folder));
    if (name !== undefined) found.set(name, [...(found.get(name) ?? []), folder]);
    else for (const inner of subfolders(folder)) walk(inner);
  };
  for (const { mount } of hierarchies()) walk(mount);
  return found;
}

function processesOf(folder: string): number[] {
  let text = '';
  try {
    text = readFileSync(join(folder, 'cgroup.procs'), 'utf8');
  } catch (error) {
    if (!['ENOENT', 'ENODEV'].includes(errnoName(error) ?? '')) throw error;
  }
  return [
    ...text.split('\n').filter(Boolean).map(Number),
    ...subfolders(folder).flatMap((inner) => processesOf(inner)),
  ];
}

export const processesIn = (folders: readonly string[]): number[] => [
  ...new Set(folders.flatMap((folder) => processesOf(folder))),
];

function removeTree(folder: string): void {
  for (const inner of subfolders(folder)) removeTree(inner);
  try {
    rmdirSync(folder);
  } catch (error) {
    if (errnoName(error) !== 'ENOENT') throw error;
  }
}

/** Kills everything in these groups and removes them. */
export async function removeCgroups(folders: readonly string[]): Promise<void> {
  const endMs = performance.now() + GONE_MS_MAX;
  for (;;) {
    for (const pid of processesIn(folders)) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        if (errnoName(error) !== 'ESRCH') throw error;
      }
    }
    try {
      for (const folder of folders) removeTree(folder);
      return;
    } catch (error) {
      if (errnoName(error) !== 'EBUSY' || performance.now() > endMs)
        throw MeshError.from(error, 'MESH_SYSCALL', `removing the cgroups ${folders.join(', ')}`);
    }
    await delay(20); // no event tells when the last process of a group is reaped
  }
}
