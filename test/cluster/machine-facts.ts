// SPDX-License-Identifier: Apache-2.0
// What a machine has of the kinds of things that a cluster makes, for comparing before and after.

import { execFileSync } from 'node:child_process';
import { type Dirent, existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { errnoName } from '#lib/core/errors.ts';

const lines = (argv: readonly [string, ...string[]]): string[] => {
  const [program, ...args] = argv;
  return execFileSync(program, args, { encoding: 'utf8' }).split('\n').filter(Boolean);
};

/** Names as deep as that; what vanishes meanwhile is not there. */
function pathsIn(folder: string, levels: number, kinds: 'all' | 'folders'): string[] {
  let entries: Dirent[] = [];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (!['ENOENT', 'ENODEV'].includes(errnoName(error) ?? '')) throw error;
  }
  return entries
    .filter((entry) => kinds === 'all' || entry.isDirectory())
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      return [path, ...(entry.isDirectory() && levels > 1 ? pathsIn(path, levels - 1, kinds) : [])];
    });
}

function namespaces(): string[] {
  const found = new Set<string>();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      for (const kind of readdirSync(`/proc/${pid}/ns`)) found.add(readlinkSync(`/proc/${pid}/ns/${kind}`));
    } catch {
      continue; // it has ended meanwhile
    }
  }
  return [...found];
}

function cgroups(): string[] {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, , type]) => type === 'cgroup' || type === 'cgroup2')
    .map(([, target = '']) => target);
  return mounts.flatMap((mount) => pathsIn(mount, Number.POSITIVE_INFINITY, 'folders'));
}

const bpf = (kind: 'prog' | 'map' | 'link'): string[] =>
  (
    JSON.parse(execFileSync('bpftool', ['--json', kind, 'list'], { encoding: 'utf8' })) as { id: number }[]
  ).map(({ id }) => `BPF ${kind} ${id}`);

/** Settings of the whole kernel that a kubelet would like to change. */
const sysctls = ['vm/overcommit_memory', 'vm/panic_on_oom', 'kernel/panic', 'kernel/panic_on_oops'];

export function machineFacts(): Set<string> {
  return new Set([
    ...namespaces(),
    ...cgroups().map((path) => `cgroup ${path}`),
    ...readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => `mount ${line}`),
    ...lines(['ip', '-oneline', 'link', 'show']).map((line) => `link ${line.split(':')[1]}`),
    ...lines(['ip', 'route', 'show', 'table', 'all']).map((line) => `route ${line}`),
    ...lines(['nft', 'list', 'ruleset']),
    ...bpf('prog'),
    ...bpf('map'),
    ...bpf('link'),
    ...pathsIn('/run', 2, 'all').map((path) => `file ${path}`),
    ...pathsIn('/var/lib', 2, 'all').map((path) => `file ${path}`),
    ...['/etc/cni', '/opt/cni', '/var/run/netns'].map((path) => `${path} ${existsSync(path)}`),
    ...sysctls.map((name) => `${name} ${readFileSync(`/proc/sys/${name}`, 'utf8').trim()}`),
  ]);
}

export const difference = (before: ReadonlySet<string>, after: ReadonlySet<string>): string[] => [
  ...[...after].filter((fact) => !before.has(fact)).map((fact) => `+ ${fact}`),
  ...[...before].filter((fact) => !after.has(fact)).map((fact) => `- ${fact}`),
];
