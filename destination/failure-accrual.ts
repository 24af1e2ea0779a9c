// SPDX-License-Identifier: Apache-2.0
// A Service's annotations balancer.linkerd.io/failure-accrual…: names, defaults and units are Linkerd's. What cannot be
// read means that no endpoint is left out: a typing error must not take endpoints away.

import type { ConsecutiveFailures } from '#lib/proto/failure-accrual.ts';
import { parseGoDurationMs } from '#lib/registry/annotations.ts';
import type { ObjectMeta } from '#lib/registry/model.ts';

const PREFIX = 'balancer.linkerd.io/failure-accrual';

export function failureAccrual({ annotations }: ObjectMeta): ConsecutiveFailures | undefined {
  if (annotations[PREFIX]?.trim() !== 'consecutive') return undefined;
  const text = (name: string, fallback: string): string =>
    annotations[`${PREFIX}-consecutive-${name}`]?.trim() ?? fallback;
  const failures = text('max-failures', '7');
  const jitter = text('jitter-ratio', '0.5');
  const minPenaltyMs = parseGoDurationMs(text('min-penalty', '1s'));
  const maxPenaltyMs = parseGoDurationMs(text('max-penalty', '1m'));
  if (!/^\d{1,9}$/.test(failures) || !/^\d+(\.\d+)?$/.test(jitter)) return undefined;
  if (minPenaltyMs === undefined || maxPenaltyMs === undefined) return undefined;
  const sound = Number(failures) >= 1 && minPenaltyMs > 0 && maxPenaltyMs >= minPenaltyMs;
  return sound
    ? {
        maxFailures: Number(failures),
        minPenaltyMs,
        maxPenaltyMs,
        jitterRatio: Math.min(Number(jitter), 100),
      }
    : undefined;
}
