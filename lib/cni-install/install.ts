// SPDX-License-Identifier: Apache-2.0
// Puts shim and configuration in place on a node, and takes them away. Every file appears whole (written beside,
// synced, renamed). Binary first when it comes, last when it goes: a configuration never names what is not there.

import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { errnoName, MeshError } from '#lib/core/errors.ts';
import {
  type ConfFile,
  type ConflistPlan,
  isConfName,
  isOwnName,
  PLUGIN_TYPE,
  type PluginEntry,
  planConflist,
} from './conflist.ts';

export interface InstallOptions {
  /** /etc/cni/net.d of the node. */
  readonly confDir: string;
  /** /opt/cni/bin of the node. */
  readonly binDir: string;
  /** The built shim. */
  readonly shim: string;
  readonly entry: PluginEntry;
}

export interface Installed {
  readonly conflist: string;
  readonly primary: string;
  readonly warnings: readonly string[];
  /** False: everything was in place already. */
  readonly changed: boolean;
}

/** Files of ours under construction; no runtime takes the name for a configuration. */
const TEMPORARY = '.nodemesh-cni.new';

export function installCni({ confDir, binDir, shim, entry }: InstallOptions): Installed {
  try {
    mkdirSync(binDir, { recursive: true, mode: 0o755 });
    const shimChanged = putFile(binDir, PLUGIN_TYPE, readFileSync(shim), 0o755);
    const plan = planConflist(readConfFiles(confDir), entry);
    const mode = statSync(join(confDir, plan.primary)).mode & 0o777;
    const listChanged = putFile(confDir, plan.name, Buffer.from(plan.text), mode);
    const staleRemoved = removeOwn(confDir, plan);
    return {
      conflist: join(confDir, plan.name),
      primary: join(confDir, plan.primary),
      warnings: plan.warnings,
      changed: shimChanged || listChanged || staleRemoved,
    };
  } catch (error) {
    throw MeshError.from(error, 'MESH_CONFIG_INVALID', 'the CNI plugin cannot be installed');
  }
}

/** Leaves the folders as they were before `installCni`; nothing to remove is no error. */
export function uninstallCni({ confDir, binDir }: Pick<InstallOptions, 'confDir' | 'binDir'>): void {
  try {
    removeOwn(confDir, undefined);
    for (const name of [PLUGIN_TYPE, TEMPORARY]) rmSync(join(binDir, name), { force: true });
  } catch (error) {
    throw MeshError.from(error, 'MESH_CONFIG_INVALID', 'the CNI plugin cannot be removed');
  }
}

/** Every configuration of the folder that can be read. */
export function readConfFiles(confDir: string): ConfFile[] {
  const files: ConfFile[] = [];
  for (const entry of listed(confDir)) {
    if (!isConfName(entry) || isOwnName(entry)) continue;
    try {
      files.push({ name: entry, text: readFileSync(join(confDir, entry), 'utf8') });
    } catch (error) {
      // It went away meanwhile, or is a folder: no configuration either way.
      if (errnoName(error) !== 'ENOENT' && errnoName(error) !== 'EISDIR') throw error;
    }
  }
  return files;
}

/** Removes our files except the planned one; tells whether there was any. */
function removeOwn(confDir: string, keep: ConflistPlan | undefined): boolean {
  let removed = false;
  for (const name of listed(confDir)) {
    if ((!isOwnName(name) && name !== TEMPORARY) || name === keep?.name) continue;
    rmSync(join(confDir, name), { force: true });
    removed = true;
  }
  return removed;
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return [];
    throw error;
  }
}

/** False if the very bytes and mode are there already: a rewritten file wakes every watcher of the folder. */
function putFile(folder: string, name: string, content: Buffer, mode: number): boolean {
  const path = join(folder, name);
  try {
    if ((statSync(path).mode & 0o777) === mode && readFileSync(path).equals(content)) return false;
  } catch (error) {
    if (errnoName(error) !== 'ENOENT') throw error;
  }
  const beside = join(folder, TEMPORARY);
  rmSync(beside, { force: true });
  const fd = openSync(beside, 'wx', mode);
  try {
    writeFileSync(fd, content);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(beside, path);
  const directory = openSync(folder, 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
  return true;
}
