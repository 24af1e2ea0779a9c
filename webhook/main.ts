// SPDX-License-Identifier: Apache-2.0
// The policy webhook's process: settings, Kubernetes API, signals. Everything else is webhook.ts.

import { Registry } from 'prom-client';
import { systemClock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { createLog } from '#lib/log/pino.ts';
import { podAccess } from '#lib/registry-kubernetes/api-access.ts';
import { createApiClient } from '#lib/registry-kubernetes/api-client.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { loadWebhookConfig } from './config.ts';
import { startWebhook } from './webhook.ts';

/** The nodes take a moment to learn that a pod ends, and the API server would fail what it sends there. */
const SHUTDOWN_GRACE_MS = 3000;

async function main(): Promise<void> {
  const config = loadWebhookConfig(process.env);
  const log = createLog('webhook', config.logLevel);
  const api = createApiClient({
    access: podAccess(process.env, systemClock),
    clock: systemClock,
    userAgent: `linkerd-policy-validator/${ownVersion()} (nodemesh)`,
  });
  const webhook = await startWebhook({ config, api, metrics: new Registry(), clock: systemClock, log });
  let stopping = false;
  const stop = async (): Promise<void> => {
    if (stopping) return;
    stopping = true;
    log.info({}, 'webhook stops');
    await webhook.close(SHUTDOWN_GRACE_MS);
    api.close();
  };
  process.on('SIGTERM', () => void stop());
  process.on('SIGINT', () => void stop());
}

try {
  await main();
} catch (error) {
  process.stderr.write(`webhook: ${errorMessage(error)}\n`);
  process.exitCode = 1;
}
