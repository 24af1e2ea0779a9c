// SPDX-License-Identifier: Apache-2.0
// Puts shim and configuration in place on a node, and takes them away. Every file appears whole (written beside,
// synced, renamed). Binary first when it comes, last when it goes: a configuration never names what is not there.

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  fchmodSync,
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
import { basename, dirname, join } from 'node:path';
import { errnoName, errorMessage, MeshError } from '#lib/core/errors.ts';
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

/** Files of ours under construction; no runtime takes the name for a configuration. Two installers use two names. */
const TEMPORARY = /^\.nodemesh-cni\.([^/]+\.)?new$/;
/** Whoever is so old was left by an installer that was killed. */
const STALE_MS = 60_000;

export function installCni({ confDir, binDir, shim, entry }: InstallOptions): Installed {
  try {
    mkdirSync(binDir, { recursive: true, mode: 0o755 });
    const shimChanged = putFile(binDir, PLUGIN_TYPE, readFileSync(shim), 0o755);
    const plan = planConflist(readConfFiles(confDir), entry, confDir);
    const mode = statSync(join(confDir, plan.primary)).mode & 0o777;
    const listChanged = putFile(confDir, plan.name, Buffer.from(plan.text), mode);
    const staleRemoved = removeOwn(confDir, plan);
    for (const folder of [confDir, binDir]) removeTemporary(folder, STALE_MS);
    return {
      conflist: join(confDir, plan.name),
      primary: join(confDir, plan.primary),
      warnings: plan.warnings,
      changed: shimChanged || listChanged || staleRemoved,
    };
  } catch (error) {
    throw explained(error, 'the CNI plugin cannot be installed');
  }
}

/** Leaves the folders as they were before `installCni`; nothing to remove is no error. */
export function uninstallCni({ confDir, binDir }: Pick<InstallOptions, 'confDir' | 'binDir'>): void {
  try {
    // In this order: no configuration ever names a plugin that is not there.
    removeConflist(confDir);
    rmSync(join(binDir, PLUGIN_TYPE), { force: true });
    for (const folder of [confDir, binDir]) removeTemporary(folder, 0);
  } catch (error) {
    throw explained(error, 'the CNI plugin cannot be removed');
  }
}

/** Only the configuration: the chain is the cluster's own from now on. */
export function removeConflist(confDir: string): void {
  if (removeOwn(confDir, undefined)) syncFolder(confDir);
}

/** Puts a configuration of ours back as it was. */
export function restoreConflist(path: string, text: Buffer, mode: number): void {
  putFile(dirname(path), basename(path), text, mode);
}

function explained(error: unknown, what: string): MeshError {
  const errno = errnoName(error);
  if (errno !== 'EROFS' && errno !== 'EACCES' && errno !== 'EPERM') {
    return MeshError.from(error, 'MESH_CONFIG_INVALID', what);
  }
  return new MeshError('MESH_HOST_UNFIT', `${what}: ${errorMessage(error)}`, {
    cause: error,
    remedy:
      'mount the folder writable, or name the one that the container runtime reads (NODEMESH_CNI_CONF_DIR, NODEMESH_CNI_BIN_DIR)',
  });
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
    if (!isOwnName(name) || name === keep?.name) continue;
    rmSync(join(confDir, name), { force: true });
    removed = true;
  }
  return removed;
}

function removeTemporary(folder: string, olderThanMs: number): void {
  for (const name of listed(folder)) {
    if (!TEMPORARY.test(name)) continue;
    const path = join(folder, name);
    const madeMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    if (Date.now() - madeMs >= olderThanMs) rmSync(path, { force: true });
  }
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
  const beside = join(folder, `.nodemesh-cni.${randomBytes(6).toString('hex')}.new`);
  const fd = openSync(beside, 'wx', mode);
  try {
    try {
      // The umask must not decide who may run it.
      fchmodSync(fd, mode);
      writeFileSync(fd, content);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(beside, path);
  } catch (error) {
    rmSync(beside, { force: true });
    throw error;
  }
  syncFolder(folder);
  return true;
}

function syncFolder(folder: string): void {
  const directory = openSync(folder, 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}
