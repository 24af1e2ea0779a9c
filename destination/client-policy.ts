// SPDX-License-Identifier: Apache-2.0
// What a Service's annotations ask of its clients: balancer.linkerd.io/failure-accrual… and timeout.linkerd.io/…, with
// Linkerd's names, defaults and units. What cannot be read counts as not set: a typing error must not take endpoints
// away or end requests.

import { type ClientPolicy, timeoutsOf } from '#lib/proto/client-policy.ts';
import { parseGoDurationMs } from '#lib/registry/annotations.ts';
import type { ObjectMeta } from '#lib/registry/model.ts';

const ACCRUAL = 'balancer.linkerd.io/failure-accrual';

export function clientPolicy({ annotations }: ObjectMeta): ClientPolicy {
  const accrual = failureAccrual(annotations);
  const limit = (name: string): number | undefined => {
    const ms = parseGoDurationMs(annotations[`timeout.linkerd.io/${name}`]?.trim() ?? '');
    return ms === undefined || ms <= 0 ? undefined : ms;
  };
  return {
    ...(accrual === undefined ? {} : { accrual }),
    ...timeoutsOf({ requestMs: limit('request'), responseMs: limit('response'), idleMs: limit('idle') }),
  };
}

function failureAccrual(annotations: ObjectMeta['annotations']): ClientPolicy['accrual'] {
  if (annotations[ACCRUAL]?.trim() !== 'consecutive') return undefined;
  const text = (name: string, fallback: string): string =>
    annotations[`${ACCRUAL}-consecutive-${name}`]?.trim() ?? fallback;
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
