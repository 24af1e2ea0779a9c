// SPDX-License-Identifier: Apache-2.0
// The destination service's process: settings, registry and token reviewer, signals. Everything else is
// destination.ts.

import { systemClock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { readText } from '#lib/files/watch-files.ts';
import { createLog } from '#lib/log/pino.ts';
import { createFolderRegistry } from '#lib/registry-folder/folder-registry.ts';
import { createLocalTokenReviewer } from '#lib/registry-folder/token-review.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { loadDestinationConfig } from './config.ts';
import { startDestination } from './destination.ts';

/** Streams never end by themselves: after a moment for what is on its way, agents connect elsewhere. */
const SHUTDOWN_GRACE_MS = 500;

async function main(): Promise<void> {
  const config = loadDestinationConfig(process.env);
  const log = createLog('destination', config.logLevel);
  const clock = systemClock;
  const registry = createFolderRegistry({ folder: config.registry, cluster: config.cluster, clock, log });
  const reviewer = createLocalTokenReviewer({
    publicKeyPem: await readText(config.tokenKeyFile),
    registry,
    cluster: config.cluster,
    clock,
  });
  // Also while the first certificate is still outstanding.
  let stop = (): Promise<void> => Promise.resolve();
  let stopping = false;
  const onSignal = async (): Promise<void> => {
    if (stopping) return;
    stopping = true;
    log.info({}, 'destination stops');
    await stop();
    registry.close();
    process.exit(0);
  };
  process.on('SIGTERM', () => void onSignal());
  process.on('SIGINT', () => void onSignal());
  const destination = await startDestination({
    config,
    registry,
    reviewer,
    version: ownVersion(),
    clock,
    random: Math.random,
    log,
  });
  stop = () => destination.close(SHUTDOWN_GRACE_MS);
}

try {
  await main();
} catch (error) {
  process.stderr.write(`destination: ${errorMessage(error)}\n`);
  process.exitCode = 1;
}
