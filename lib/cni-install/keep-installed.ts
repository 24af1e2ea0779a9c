// SPDX-License-Identifier: Apache-2.0
// Keeps shim and configuration in place while other programs write into the same folders: follows the cluster's own
// configuration when that changes, repairs what was tampered with and counts it. Whoever undoes every repair is not
// fought without end: the repairs become rarer and the log says so.

import { type FSWatcher, readFileSync, statSync, watch } from 'node:fs';
import { join } from 'node:path';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { errnoName, errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { isUsable, PLUGIN_TYPE } from './conflist.ts';
import {
  type Installed,
  type InstallOptions,
  installCni,
  readConfFiles,
  removeConflist,
  restoreConflist,
} from './install.ts';

/** Several writes of one program count as one. */
const GATHER_MS = 50;
/** In case a change was not announced. */
const LOOK_MS = 10_000;
/** So long a configuration may be half-written or away before another one, or none, is taken for the cluster's. */
const SETTLE_MS = 10_000;
/** Repairs that follow each other within this time are a fight, */
const QUIET_MS = 60_000;
/** from the sixth on it is said, and each waits twice as long as the one before. */
const FAST_REPAIRS = 5;
const WAIT_MIN_MS = 1_000;
const WAIT_MAX_MS = 300_000;

export interface KeepOptions extends InstallOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** Whether this installer is the one that works (installer-role.ts); always if absent. */
  readonly holds?: () => boolean;
  /** Calls `changed` when something in a folder changes; the answer ends the watch. */
  readonly watchFolders?: (folders: readonly string[], changed: () => void) => () => void;
}

export interface KeptInstallation {
  /** How often another program's change of our files was undone. */
  readonly repairs: number;
  readonly failures: number;
  close(): void;
}

export function keepInstalled(options: KeepOptions): KeptInstallation {
  const { clock, log, confDir, binDir } = options;
  const watchFolders = options.watchFolders ?? watchWithInotify;
  let repairs = 0;
  let failures = 0;
  let last:
    | { readonly installed: Installed; readonly list: Buffer; readonly mode: number; readonly shim: Buffer }
    | undefined;
  let lastError = '';
  let unsettledSinceMs: number | undefined;
  let fast = 0;
  let lastRepairMs = Number.NEGATIVE_INFINITY;
  let notBeforeMs = 0;
  let timer: Timer | undefined;
  let timerAtMs = Number.POSITIVE_INFINITY;
  let unwatch: () => void = () => undefined;
  let closed = false;

  const lookAfter = (ms: number): void => {
    if (closed) return;
    const at = Math.max(clock.nowMs() + ms, notBeforeMs);
    if (at >= timerAtMs) return;
    timer?.cancel();
    timerAtMs = at;
    timer = clock.after(at - clock.nowMs(), look);
  };

  /** Whether what we put there is there still. */
  const tampered = (): boolean =>
    last !== undefined &&
    !(
      contentOf(last.installed.conflist)?.equals(last.list) === true &&
      contentOf(join(binDir, PLUGIN_TYPE))?.equals(last.shim) === true
    );

  /** The cluster's configuration is being written, or on its way from one name to another. */
  const unsettled = (): boolean => {
    if (last === undefined) return false;
    const primary = readConfFiles(confDir).find(
      ({ name }) => join(confDir, name) === last?.installed.primary,
    );
    if (primary !== undefined && isUsable(primary)) {
      unsettledSinceMs = undefined;
      return false;
    }
    unsettledSinceMs ??= clock.nowMs();
    return clock.nowMs() - unsettledSinceMs < SETTLE_MS;
  };

  const countRepair = (installed: Installed): void => {
    repairs++;
    fast = clock.nowMs() - lastRepairMs < QUIET_MS ? fast + 1 : 1;
    lastRepairMs = clock.nowMs();
    log.warn(
      { repairs, conflist: installed.conflist },
      'another program changed the files of the CNI plugin; they are repaired',
    );
    if (fast <= FAST_REPAIRS) return;
    const waitMs = Math.min(WAIT_MAX_MS, WAIT_MIN_MS * 2 ** (fast - FAST_REPAIRS - 1));
    lastRepairMs += waitMs;
    notBeforeMs = clock.nowMs() + waitMs;
    log.error(
      { repairs, waitMs, remedy: "let it leave other configurations alone (Cilium: 'cni.exclusive: false')" },
      'another program undoes every repair of the CNI plugin; pods start outside the mesh in between',
    );
  };

  const install = (): void => {
    const wasTampered = tampered();
    // A half-written or vanished primary is given time, unless our own files need help: then the last ones go back.
    if (unsettled()) {
      if (wasTampered && last !== undefined) {
        restoreConflist(last.installed.conflist, last.list, last.mode);
        countRepair(last.installed);
      }
      lookAfter(WAIT_MIN_MS);
      return;
    }
    const installed = installCni(options);
    if (wasTampered) countRepair(installed);
    else if (installed.changed) log.info({ ...installed }, 'the CNI plugin is installed');
    last = {
      installed,
      list: readFileSync(installed.conflist),
      mode: statSync(installed.conflist).mode & 0o777,
      shim: readFileSync(join(binDir, PLUGIN_TYPE)),
    };
  };

  const look = (): void => {
    timerAtMs = Number.POSITIVE_INFINITY;
    if (closed) return;
    unwatch();
    // First the watch, then the look: nothing that comes in between is missed.
    unwatch = watchFolders([confDir, binDir], () => lookAfter(GATHER_MS));
    try {
      if (options.holds?.() === false) {
        if (last !== undefined) log.info({}, 'another installer of this node has taken over');
        // What that one puts there is no other program's harm.
        last = undefined;
      } else install();
      lastError = '';
    } catch (error) {
      failures++;
      const text = errorMessage(error);
      if (text !== lastError) log.error({ error: text, failures }, 'the CNI plugin cannot be kept installed');
      lastError = text;
      if (error instanceof MeshError && error.code === 'MESH_NOT_FOUND' && last !== undefined) {
        removeConflist(confDir);
        last = undefined;
        log.warn({ confDir }, 'the network plugin of the cluster is gone, and so is the chain after it');
      }
    }
    lookAfter(LOOK_MS);
  };
  look();

  return {
    get repairs() {
      return repairs;
    },
    get failures() {
      return failures;
    },
    close() {
      closed = true;
      timer?.cancel();
      unwatch();
    },
  };
}

function contentOf(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (errnoName(error) === 'ENOENT' || errnoName(error) === 'EISDIR') return undefined;
    throw error;
  }
}

function watchWithInotify(folders: readonly string[], changed: () => void): () => void {
  const watchers: FSWatcher[] = [];
  for (const folder of folders) {
    try {
      const watcher = watch(folder, { persistent: false }, changed);
      // The folder went away: the regular look finds out what is there instead.
      watcher.on('error', changed);
      watchers.push(watcher);
    } catch (error) {
      if (errnoName(error) !== 'ENOENT') throw error;
    }
  }
  return () => {
    for (const watcher of watchers) watcher.close();
  };
}
