// SPDX-License-Identifier: Apache-2.0
// Every setting of the policy webhook. Nothing else reads the environment.

import {
  asDurationMs,
  asListen,
  asOneOf,
  asText,
  type ConfigOf,
  loadConfig,
  setting,
} from '#lib/core/config.ts';

export const webhookSettings = {
  listen: setting('NODEMESH_LISTEN', '[::]:9443', asListen, 'Where the API server asks, ip:port.'),
  adminListen: setting(
    'NODEMESH_ADMIN_LISTEN',
    '[::]:9991',
    asListen,
    'Where /live, /ready and /metrics are served, ip:port.',
  ),
  namespace: setting('NODEMESH_NAMESPACE', 'nodemesh', asText, 'The namespace the mesh is installed in.'),
  certificateLifetimeMs: setting(
    'NODEMESH_WEBHOOK_CERTIFICATE_LIFETIME',
    '90d',
    asDurationMs,
    "How long the webhook's certificate lasts; a new one is made when a third of it is left.",
  ),
  logLevel: setting('NODEMESH_LOG_LEVEL', 'info', asOneOf('error', 'warn', 'info', 'debug'), 'Log level.'),
} as const;

export type WebhookConfig = ConfigOf<typeof webhookSettings>;

export const loadWebhookConfig = (env: Readonly<Record<string, string | undefined>>): WebhookConfig =>
  loadConfig(webhookSettings, env);
