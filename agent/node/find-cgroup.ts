// SPDX-License-Identifier: Apache-2.0
// The cgroup (v2) that all pods of a Kubernetes node are below: the one that the agent's own pod is in, found by its
// uid, whatever driver and root the kubelet was given.

import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { errnoName, MeshError } from '#lib/core/errors.ts';

export interface FoundCgroup {
  readonly path: string;
  /** False where pods are in no cgroup of their own (some hosts with cgroup v1). */
  readonly hasAgent: boolean;
}

/** `/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/…-pod<uid>.slice`, and further ones above. */
const DEPTH_MAX = 8;
/** Where pods are without the uid being found, most common first. */
const usualNames = ['kubepods.slice', 'kubepods', 'kubelet.slice/kubelet-kubepods.slice'] as const;

/** `mount` is the node's /sys/fs/cgroup, where v2 may be a folder among those of v1. */
export function findPodsCgroup(mount: string, podUid: string): FoundCgroup {
  const root = [mount, join(mount, 'unified')].find((path) => existsSync(join(path, 'cgroup.controllers')));
  if (root === undefined) {
    throw new MeshError('MESH_HOST_UNFIT', `${mount} shows no cgroup of version 2`, {
      remedy:
        'mount it (mount -t cgroup2 none /sys/fs/cgroup/unified), or name the folder (NODEMESH_PODS_CGROUP)',
    });
  }
  const own = podUid === '' ? undefined : podFolder(root, podUid);
  if (own !== undefined) {
    const parent = dirname(own);
    // Guaranteed pods have no folder of their class between.
    const all = /(^|-)(besteffort|burstable)(\.slice)?$/.test(basename(parent)) ? dirname(parent) : parent;
    return { path: all, hasAgent: true };
  }
  const usual = usualNames.map((name) => join(root, name)).find((path) => existsSync(path));
  return { path: usual ?? root, hasAgent: false };
}

function podFolder(root: string, uid: string): string | undefined {
  const cgroupfs = `pod${uid}`;
  const systemd = `-pod${uid.replaceAll('-', '_')}.slice`;
  let level = [root];
  for (let depth = 0; depth < DEPTH_MAX && level.length > 0; depth++) {
    level = level.flatMap((folder) => foldersOf(folder).map((name) => join(folder, name)));
    const found = level.find((path) => basename(path) === cgroupfs || basename(path).endsWith(systemd));
    if (found !== undefined) return found;
  }
  return undefined;
}

function foldersOf(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
  } catch (error) {
    // A pod that ends takes its folders with it.
    if (errnoName(error) === 'ENOENT') return [];
    throw error;
  }
}
