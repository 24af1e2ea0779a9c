// SPDX-License-Identifier: Apache-2.0
// The destination service's process: settings, registry and token reviewer, signals. Everything else is
// destination.ts.

import { Registry as MetricRegistry } from 'prom-client';
import { systemClock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { createLog } from '#lib/log/pino.ts';
import { openSource } from '#lib/registry-kubernetes/open-source.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { INDEXED_KINDS } from './cluster-index.ts';
import { loadDestinationConfig } from './config.ts';
import { startDestination } from './destination.ts';

/** Streams never end by themselves: after a moment for what is on its way, agents connect elsewhere. */
const SHUTDOWN_GRACE_MS = 500;

async function main(): Promise<void> {
  const config = loadDestinationConfig(process.env);
  const log = createLog('destination', config.logLevel);
  const clock = systemClock;
  const metrics = new MetricRegistry();
  const source = await openSource({
    config,
    name: 'linkerd-destination',
    lease: 'linkerd-destination',
    kinds: INDEXED_KINDS,
    version: ownVersion(),
    metrics,
    env: process.env,
    clock,
    random: Math.random,
    log,
  });
  // Also while the first certificate is still outstanding.
  let stop = (): Promise<void> => Promise.resolve();
  let stopping = false;
  const onSignal = async (): Promise<void> => {
    if (stopping) return;
    stopping = true;
    log.info({}, 'destination stops');
    await stop();
    await source.close();
    process.exit(0);
  };
  process.on('SIGTERM', () => void onSignal());
  process.on('SIGINT', () => void onSignal());
  const destination = await startDestination({
    config,
    registry: source.registry,
    reviewer: source.reviewer,
    leadership: source.leadership,
    ...(source.removeTaint === undefined ? {} : { removeTaint: source.removeTaint }),
    version: ownVersion(),
    metrics,
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
