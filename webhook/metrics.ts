// SPDX-License-Identifier: Apache-2.0
// The webhook's own metrics.

import { collectDefaultMetrics, Counter, Gauge, type Registry } from 'prom-client';
import type { Clock } from '#lib/core/clock.ts';

export interface WebhookMetrics {
  /** `invalid`: what came was no review, and has no kind. */
  reviewed(result: 'allowed' | 'refused' | 'invalid', kind?: string): void;
}

export function createWebhookMetrics(
  register: Registry,
  certificateEndMs: () => number,
  clock: Clock,
): WebhookMetrics {
  collectDefaultMetrics({ register });
  const registers = [register];
  const reviews = new Counter({
    name: 'webhook_reviews_total',
    help: 'Objects that were judged, by kind; invalid: what came was no review.',
    labelNames: ['kind', 'result'],
    registers,
  });
  const ttl: Gauge = new Gauge({
    name: 'webhook_cert_ttl_seconds',
    help: "Seconds until the webhook's certificate ends.",
    registers,
    collect: () => ttl.set(Math.round((certificateEndMs() - clock.wallMs()) / 1000)),
  });
  return { reviewed: (result, kind = '') => reviews.inc({ kind, result }) };
}
