// SPDX-License-Identifier: Apache-2.0
// The identity service's process: settings, registry and token reviewer, signals. Everything else is identity.ts.

import { systemClock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { readText } from '#lib/files/watch-files.ts';
import { createLog } from '#lib/log/pino.ts';
import { createFolderRegistry } from '#lib/registry-folder/folder-registry.ts';
import { createLocalTokenReviewer } from '#lib/registry-folder/token-review.ts';
import { loadIdentityConfig } from './config.ts';
import { startIdentity } from './identity.ts';

const SHUTDOWN_GRACE_MS = 5000;

async function main(): Promise<void> {
  const config = loadIdentityConfig(process.env);
  const log = createLog('identity', config.logLevel);
  const clock = systemClock;
  const registry = createFolderRegistry({ folder: config.registry, cluster: config.cluster, clock, log });
  const reviewer = createLocalTokenReviewer({
    publicKeyPem: await readText(config.tokenKeyFile),
    registry,
    cluster: config.cluster,
    clock,
  });
  const identity = await startIdentity({
    config,
    registry,
    reviewer,
    clock,
    random: Math.random,
    log,
  });
  let stopping = false;
  const stop = async (): Promise<void> => {
    if (stopping) return;
    stopping = true;
    log.info({}, 'identity stops');
    await identity.close(SHUTDOWN_GRACE_MS);
    registry.close();
  };
  process.on('SIGTERM', () => void stop());
  process.on('SIGINT', () => void stop());
}

try {
  await main();
} catch (error) {
  process.stderr.write(`identity: ${errorMessage(error)}\n`);
  process.exitCode = 1;
}
