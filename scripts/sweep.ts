// SPDX-License-Identifier: Apache-2.0
// Removes local meshes whose daemon was killed, and clusters that were killed half-way: namespaces, mounts, cgroups,
// files. Living ones are left alone.
// `make test` and `make sweep`.

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { errorMessage } from '#lib/core/errors.ts';
import { findCgroup2 } from '../local/cgroups.ts';
import { STATE_ROOT } from '../local/layout.ts';
import { daemonPid, sweep } from '../local/sweep.ts';
import { takeDown } from '../test/kind/down.ts';
import { clusterNames, clusterState } from '../test/kind/notes.ts';

const list = (dir: string | undefined): string[] =>
  dir === undefined || !existsSync(dir)
    ? []
    : readdirSync(dir, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));

function meshNames(): Set<string> {
  const cgroup2 = findCgroup2(readFileSync('/proc/self/mounts', 'utf8'));
  const names = [
    ...list(STATE_ROOT),
    ...list(cgroup2 === undefined ? undefined : join(cgroup2, 'nodemesh-local')),
  ];
  for (const line of execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).split('\n')) {
    const name = /^nm-([a-z0-9-]+?)-(?:wire|control|node\d+|pod\.\S+)(?:\s|$)/.exec(line)?.[1];
    if (name !== undefined) names.push(name);
  }
  return new Set(names);
}

for (const name of meshNames()) {
  try {
    if ((await daemonPid(name)) !== undefined) continue;
    if (await sweep(name)) console.log(`removed what an earlier run left of local mesh ${name}`);
  } catch (error) {
    console.error(`local mesh ${name} cannot be removed: ${errorMessage(error)}`);
    process.exitCode = 1;
  }
}

for (const name of clusterNames()) {
  try {
    if (clusterState(name) !== 'left over') continue;
    if (await takeDown(name)) console.log(`removed what an earlier run left of cluster ${name}`);
  } catch (error) {
    console.error(`cluster ${name} cannot be removed: ${errorMessage(error)}`);
    process.exitCode = 1;
  }
}
