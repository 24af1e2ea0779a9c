// SPDX-License-Identifier: Apache-2.0
// The identity service's process: settings, registry and token reviewer, signals. Everything else is identity.ts.

import { Registry as MetricRegistry } from 'prom-client';
import { systemClock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { createLog } from '#lib/log/pino.ts';
import { openSource } from '#lib/registry-kubernetes/open-source.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { loadIdentityConfig } from './config.ts';
import { startIdentity } from './identity.ts';

const SHUTDOWN_GRACE_MS = 5000;

async function main(): Promise<void> {
  const config = loadIdentityConfig(process.env);
  const log = createLog('identity', config.logLevel);
  const clock = systemClock;
  const metrics = new MetricRegistry();
  const source = await openSource({
    config,
    name: 'linkerd-identity',
    kinds: ['Namespace', 'Pod'],
    version: ownVersion(),
    metrics,
    env: process.env,
    clock,
    random: Math.random,
    log,
  });
  const identity = await startIdentity({
    config,
    registry: source.registry,
    reviewer: source.reviewer,
    tell: source.tell,
    metrics,
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
    await source.close();
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
