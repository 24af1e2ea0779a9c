// SPDX-License-Identifier: Apache-2.0
// What a program needs to run: the sources that its entry points reach and the npm packages that those name, with
// everything that the packages need. An image holds that and nothing else.

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path/posix';
import { MeshError } from '#lib/core/errors.ts';
import { withoutComments } from '../tidy/imports.ts';

const loads = [
  /^\s*(?:import|export)\s+(?!type\b)(?:[^'";]*?\sfrom\s*)?['"]([^'"\n]+)['"]/gm,
  /\bimport\(\s*['"]([^'"\n]+)['"]/g,
  /\bnew URL\(\s*['"](\.[^'"\n]+\.ts)['"]/g,
];

export interface Reach {
  readonly files: readonly string[];
  readonly packages: readonly string[];
}

const packageOf = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

/** Paths are relative to `root`, the project. */
export function reachOf(root: string, entries: readonly string[]): Reach {
  const files = new Set<string>();
  const packages = new Set<string>();
  const queue = [...entries];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (files.has(file)) continue;
    files.add(file);
    const text = withoutComments(readFileSync(join(root, file), 'utf8'));
    for (const specifier of loads.flatMap((form) =>
      [...text.matchAll(form)].map((match) => match[1] ?? ''),
    )) {
      if (specifier.startsWith('node:')) continue;
      if (specifier.startsWith('#lib/')) queue.push(`lib/${specifier.slice('#lib/'.length)}`);
      else if (specifier.startsWith('.')) queue.push(normalize(join(dirname(file), specifier)));
      else packages.add(packageOf(specifier));
    }
  }
  return { files: [...files].sort(), packages: [...packages].sort() };
}

interface LockedPackage {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
}

/** Folders of node_modules, found as Node.js would: in the nearest node_modules above. */
export function packageFolders(root: string, names: readonly string[]): string[] {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, LockedPackage>>;
  };
  const found = new Set<string>();
  const visit = (from: string, name: string, required: boolean): void => {
    let base = from;
    let folder = join(base, 'node_modules', name);
    while (lock.packages[folder] === undefined && base !== '') {
      base = base.includes('/node_modules/') ? base.slice(0, base.lastIndexOf('/node_modules/')) : '';
      folder = join(base, 'node_modules', name);
    }
    const locked = lock.packages[folder];
    if (locked === undefined || !existsSync(join(root, folder))) {
      // Optional ones of other platforms are not installed.
      if (!required) return;
      throw new MeshError(
        'MESH_NOT_FOUND',
        `the package ${name} of ${from || 'the project'} is not installed`,
      );
    }
    if (found.has(folder)) return;
    found.add(folder);
    for (const one of Object.keys(locked.dependencies ?? {})) visit(folder, one, true);
    for (const one of Object.keys(locked.optionalDependencies ?? {})) visit(folder, one, false);
    for (const one of Object.keys(locked.peerDependencies ?? {}))
      visit(folder, one, locked.peerDependenciesMeta?.[one]?.optional !== true);
  };
  for (const name of names) visit('', name, true);
  return [...found].sort();
}
