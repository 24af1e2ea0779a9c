// SPDX-License-Identifier: Apache-2.0
// Looks for programs of others that would be switched off by ours, or keep ours out: those that hang on an ancestor
// cgroup without BPF_F_ALLOW_MULTI.

import { closeSync, existsSync, openSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import type { AttachPoint, BpfLoader } from './loader.ts';

/** The descriptor of a cgroup2 folder; the caller closes it. */
export function openCgroup(path: string): number {
  if (!existsSync(join(path, 'cgroup.controllers')))
    throw new MeshError('MESH_HOST_UNFIT', `${path} is no cgroup2 folder`, {
      remedy: 'mount cgroup2 and name a cgroup below it',
    });
  try {
    return openSync(path, 'r');
  } catch (error) {
    throw MeshError.from(error, 'MESH_HOST_UNFIT', `cannot open cgroup ${path}`);
  }
}

/** The cgroup and its ancestors up to the mount's root. */
export function withAncestors(path: string): string[] {
  const found: string[] = [];
  for (let at = path; existsSync(join(at, 'cgroup.controllers')); at = dirname(at)) found.push(at);
  return found;
}

/** Throws MESH_BPF_ATTACH naming the first foreign program in the way. */
export function refuseExclusive(loader: BpfLoader, cgroup: string, points: readonly AttachPoint[]): void {
  for (const path of withAncestors(cgroup)) {
    const fd = openCgroup(path);
    try {
      for (const point of points) {
        const [foreign] = loader.exclusivePrograms(fd, point);
        if (foreign !== undefined)
          throw new MeshError(
            'MESH_BPF_ATTACH',
            `${point}: program "${foreign.name}" (id ${foreign.id}) is attached to ${path} without BPF_F_ALLOW_MULTI and excludes all others`,
            { remedy: 'have its owner attach it with BPF_F_ALLOW_MULTI or as a link' },
          );
      }
    } finally {
      closeSync(fd);
    }
  }
}
