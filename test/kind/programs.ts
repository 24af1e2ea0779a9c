// SPDX-License-Identifier: Apache-2.0
// The programs that a cluster runs and no Debian package has: Kubernetes with etcd (one binary, many names), CoreDNS
// and pause. Built once and kept in the user's cache folder, under a key of everything that they are built from.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { runChecked } from '../../local/command.ts';
import { cacheRoot } from './layout.ts';

const BUILD_MS_MAX = 3_600_000;
const here = import.meta.dirname;

/** Names that the one binary answers to. */
const PARTS = [
  'etcd',
  'kube-apiserver',
  'kube-controller-manager',
  'kube-scheduler',
  'kube-proxy',
  'kubelet',
  'kubectl',
] as const;

export interface Programs {
  /** The folder with all of `PARTS`. */
  readonly kubernetes: string;
  readonly coredns: string;
  readonly pause: string;
}

const versionIn = (folder: string, module: string): string => {
  const text = readFileSync(join(here, folder, 'go.mod'), 'utf8');
  const version = new RegExp(`^\\s*(?:require )?${module} (v\\S+)`, 'm').exec(text)?.[1];
  if (version === undefined) throw new MeshError('MESH_NOT_FOUND', `${folder}/go.mod has no ${module}`);
  return version;
};

export const kubernetesVersion = (): string => versionIn('cluster', 'k8s\\.io/kubernetes');
export const corednsVersion = (): string => versionIn('dns', 'github\\.com/coredns/coredns');

const goEnv = (): Record<string, string | undefined> => ({
  ...process.env,
  // Where Go's own archive and Debian's packages put it.
  PATH: `${process.env['PATH'] ?? ''}:/usr/local/go/bin:/usr/lib/go/bin`,
  CGO_ENABLED: '0',
});

async function goVersion(): Promise<string> {
  try {
    return (await runChecked(['go', 'version'], { env: goEnv() })).trim();
  } catch (error) {
    throw new MeshError('MESH_HOST_UNFIT', `Kubernetes cannot be built: ${errorMessage(error)}`, {
      cause: error,
      remedy: 'install Go 1.26 or newer from https://go.dev/dl (the package of Debian 12 is too old)',
    });
  }
}

/** What a binary says of itself; `kubectl version` and the API's /version show it. */
function linkFlags(version: string): string {
  const [, major, minor] = /^v(\d+)\.(\d+)\./.exec(version) ?? [];
  const settings = {
    gitVersion: version,
    gitMajor: major,
    gitMinor: minor,
    gitTreeState: 'clean',
    buildDate: '1970-01-01T00:00:00Z',
  };
  const flags = ['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version'].flatMap((module) =>
    Object.entries(settings).map(([name, value]) => `-X ${module}.${name}=${value}`),
  );
  return ['-s', '-w', ...flags].join(' ');
}

interface Recipe {
  readonly inputs: readonly string[];
  /** Part of the key where the inputs do not tell. */
  readonly flags: string;
  readonly slow: boolean;
  build(folder: string, flags: string): Promise<unknown>;
}

const go = (module: string, output: string, ldflags: string): Promise<string> =>
  runChecked(
    [
      'nice',
      'go',
      '-C',
      join(here, module),
      'build',
      '-trimpath',
      '-buildvcs=false',
      '-ldflags',
      ldflags,
      '-o',
      output,
      '.',
    ],
    { env: goEnv(), timeoutMs: BUILD_MS_MAX },
  );

const recipes = {
  kubernetes: {
    inputs: ['cluster/go.mod', 'cluster/go.sum', 'cluster/main.go'],
    flags: linkFlags(kubernetesVersion()),
    slow: true,
    build: async (folder, flags) => {
      await go('cluster', join(folder, 'kubernetes'), flags);
      for (const part of PARTS) symlinkSync('kubernetes', join(folder, part));
    },
  },
  coredns: {
    inputs: ['dns/go.mod', 'dns/go.sum', 'dns/main.go'],
    flags: '-s -w',
    slow: true,
    build: (folder, flags) => go('dns', join(folder, 'coredns'), flags),
  },
  pause: {
    inputs: ['pause.c'],
    flags: '-Os -Wall -Wextra -Werror -static -s',
    slow: false,
    build: (folder, flags) =>
      runChecked(['gcc', ...flags.split(' '), '-o', join(folder, 'pause'), join(here, 'pause.c')]),
  },
} satisfies Record<string, Recipe>;

/** Everything built; the first time on a machine that takes about ten minutes. */
export async function requirePrograms(say: (text: string) => void): Promise<Programs> {
  const compiler = await goVersion();
  const folders = new Map<string, string>();
  for (const [name, recipe] of Object.entries<Recipe>(recipes)) {
    const hash = createHash('sha256').update(`${compiler}\n${recipe.flags}\n`);
    for (const input of recipe.inputs) hash.update(readFileSync(join(here, input)));
    const folder = join(cacheRoot(process.env), `${name}-${hash.digest('hex').slice(0, 16)}`);
    if (!existsSync(folder)) {
      if (recipe.slow) say(`building ${name}; the first time on a machine that takes minutes`);
      await build(folder, recipe);
    }
    folders.set(name, folder);
  }
  const folderOf = (name: keyof typeof recipes): string => folders.get(name) ?? '';
  return {
    kubernetes: folderOf('kubernetes'),
    coredns: join(folderOf('coredns'), 'coredns'),
    pause: join(folderOf('pause'), 'pause'),
  };
}

async function build(folder: string, recipe: Recipe): Promise<void> {
  // A name of its own and then a rename: two builds at once waste time, but neither sees half of the other's.
  const unfinished = `${folder}.${process.pid}`;
  mkdirSync(unfinished, { recursive: true });
  try {
    await recipe.build(unfinished, recipe.flags);
    try {
      renameSync(unfinished, folder);
    } catch (error) {
      if (!existsSync(folder)) throw error; // else another build was first
    }
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
}
