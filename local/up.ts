// SPDX-License-Identifier: Apache-2.0
// Runs a daemon in this process until it is told to end: by a signal (`down` sends one), or for tests by the end
// of whoever started it.

import { errorMessage } from '#lib/core/errors.ts';
import { serveApi } from './api.ts';
import { Daemon, type DaemonOptions } from './daemon.ts';
import type { ManifestSource } from './manifests.ts';
import { parseManifests } from './manifests.ts';
import { createLocalLog } from './local-log.ts';
import { requireFitHost } from './preflight.ts';

export interface UpOptions extends Omit<DaemonOptions, 'log'> {
  readonly sources: readonly ManifestSource[];
  /** How long to wait until everything is ready; undefined does not wait. */
  readonly waitMs: number | undefined;
  readonly endWithParent: boolean;
}

/** Resolves when the mesh has been removed again. `onReady` is called once everything that was asked for is up. */
export async function runMesh(options: UpOptions, onReady: () => void): Promise<void> {
  requireFitHost(options.meshed);
  parseManifests(options.sources);
  const log = createLocalLog(options.logLevel, options.progress);
  process.on('uncaughtExceptionMonitor', (error) => {
    log.error({ error: error.stack ?? error.message }, 'the daemon broke');
  });
  const ended = Promise.withResolvers<void>();
  let stopping = false;
  const end = (): void => {
    stopping = true;
    ended.resolve();
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, end);
  if (options.endWithParent) process.once('disconnect', end);

  const daemon = await Daemon.start({ ...options, log });
  let closeApi: (() => void) | undefined;
  try {
    closeApi = await serveApi(daemon);
    if (options.sources.length > 0) {
      for (const object of daemon.apply(options.sources)) {
        options.progress(`${object.kind.toLowerCase()} ${object.name} ${object.action}`);
      }
    }
    const ready = options.waitMs === undefined ? Promise.resolve() : daemon.waitReady(options.waitMs);
    const outcome = await Promise.race([ready.then(() => 'ready' as const), ended.promise]);
    if (outcome === 'ready') {
      onReady();
      await ended.promise;
    }
  } catch (error) {
    if (!stopping) throw error;
    log.warn({ error: errorMessage(error) }, 'ended while starting');
  } finally {
    options.progress(`removing local mesh ${options.name}`);
    closeApi?.();
    await daemon.close();
  }
}
