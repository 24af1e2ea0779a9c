// SPDX-License-Identifier: Apache-2.0
// The cgroup2 tree of a local mesh: where it is mounted, making, killing and removing groups. Sets no limits.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readdir, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoName, MeshError } from '#lib/core/errors.ts';

/** The first cgroup2 mount of a /proc/mounts text. */
export function findCgroup2(mounts: string): string | undefined {
  for (const line of mounts.split('\n')) {
    const [, target, type] = line.split(' ');
    if (type === 'cgroup2' && target !== undefined) return target.replaceAll('\\040', ' ');
  }
  return undefined;
}

export function requireCgroup2(): string {
  const mount = findCgroup2(readFileSync('/proc/mounts', 'utf8'));
  if (mount !== undefined) return mount;
  throw new MeshError('MESH_HOST_UNFIT', 'no cgroup2 file system is mounted', {
    remedy: 'mount one: mount -t cgroup2 none /sys/fs/cgroup/unified',
  });
}

export async function makeCgroup(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
}

/** Process ids in the group and everything below it. */
export function cgroupProcesses(path: string): number[] {
  if (!existsSync(path)) return [];
  const pids: number[] = [];
  for (const group of [path, ...cgroupTree(path)]) {
    try {
      pids.push(...readFileSync(join(group, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number));
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  }
  return pids;
}

/** Kills every process in the group and below it; they end soon after. */
export async function killCgroup(path: string): Promise<void> {
  try {
    await writeFile(join(path, 'cgroup.kill'), '1');
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

/** Kills every process below `path` and removes the groups. Succeeds if there are none. */
export async function removeCgroup(path: string, timeoutMs = 10_000): Promise<void> {
  if (!existsSync(path)) return;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      await writeFile(join(path, 'cgroup.kill'), '1');
      await removeTree(path);
      return;
    } catch (error) {
      if (isGone(error)) return;
      if (errnoName(error) !== 'EBUSY' || performance.now() > deadline) {
        throw MeshError.from(error, 'MESH_SYSCALL', `removing the cgroup ${path}`);
      }
    }
    await delay(5); // the kernel has no event for "the last process is reaped" that both layouts know
  }
}

async function removeTree(path: string): Promise<void> {
  for (const entry of await readdir(path, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeTree(join(path, entry.name));
  }
  await rmdir(path);
}

function cgroupTree(path: string): string[] {
  const found: string[] = [];
  const walk = (folder: string): void => {
    for (const name of readGroupNames(folder)) {
      found.push(join(folder, name));
      walk(join(folder, name));
    }
  };
  walk(path);
  return found;
}

function readGroupNames(folder: string): string[] {
  try {
    return readdirNames(folder);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

const readdirNames = (folder: string): string[] =>
  readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);

const isGone = (error: unknown): boolean => {
  const name = errnoName(error);
  return name === 'ENOENT' || name === 'ENODEV';
};
