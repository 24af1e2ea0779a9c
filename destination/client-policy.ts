// SPDX-License-Identifier: Apache-2.0
// What a Service's annotations ask of its clients: balancer.linkerd.io/failure-accrual…, timeout.linkerd.io/… and
// retry.linkerd.io/…, with Linkerd's names, defaults and units. Of a group in which one value cannot be read none
// counts, as with Linkerd: a typing error must not take endpoints away, end requests or send them again.

import {
  DEFAULT_MAX_RETRIES,
  parseGrpcCode,
  parseMaxRetries,
  parsePolicyDurationMs,
  parseStatusRange,
  type RequestPolicy,
  type RetryPolicy,
} from '#lib/core/request-policy.ts';
import { type ClientPolicy, timeoutsOf } from '#lib/proto/client-policy.ts';
import type { ObjectMeta } from '#lib/registry/model.ts';

const ACCRUAL = 'balancer.linkerd.io/failure-accrual';

type Annotations = ObjectMeta['annotations'];

/** `allowL5dRequestHeaders`: the cluster lets requests set limits and retries for themselves. */
export function clientPolicy({ annotations }: ObjectMeta, allowL5dRequestHeaders = false): ClientPolicy {
  const accrual = failureAccrual(annotations);
  return {
    ...(accrual === undefined ? {} : { accrual }),
    ...requestPolicy(annotations),
    ...(allowL5dRequestHeaders ? { allowL5dRequestHeaders } : {}),
  };
}

/** Of a Service, or of a route, whose `timeouts` and `retry` each replace its Service's. */
export function requestPolicy(annotations: Annotations): RequestPolicy {
  const retry = retryPolicy(annotations);
  return { ...timeouts(annotations), ...(retry === undefined ? {} : { retry }) };
}

function timeouts(annotations: Annotations): RequestPolicy {
  const limits = ['request', 'response', 'idle'].map((name) => {
    const text = annotations[`timeout.linkerd.io/${name}`]?.trim();
    return text === undefined ? 0 : parsePolicyDurationMs(text);
  });
  if (limits.includes(undefined)) return {};
  const [requestMs, responseMs, idleMs] = limits.map((ms) => (ms === 0 ? undefined : ms));
  return timeoutsOf({ requestMs, responseMs, idleMs });
}

function retryPolicy(annotations: Annotations): RetryPolicy | undefined {
  const text = (name: string): string | undefined => annotations[`retry.linkerd.io/${name}`]?.trim();
  const [http, grpc, limit, timeout] = ['http', 'grpc', 'limit', 'timeout'].map(text);
  if (http === undefined && grpc === undefined && limit === undefined && timeout === undefined) return;
  const statuses = http === undefined ? [] : http.split(',').map(parseStatusRange);
  const grpcCodes = grpc === undefined ? [] : grpc.split(',').map(parseGrpcCode);
  const maxRetries = limit === undefined ? 0 : parseMaxRetries(limit);
  const timeoutMs = timeout === undefined ? 0 : parsePolicyDurationMs(timeout);
  if (!allRead(statuses) || !allRead(grpcCodes) || maxRetries === undefined || timeoutMs === undefined)
    return;
  return {
    statuses,
    grpcCodes,
    maxRetries: maxRetries || DEFAULT_MAX_RETRIES,
    ...(timeoutMs === 0 ? {} : { timeoutMs }),
  };
}

const allRead = <T>(items: readonly (T | undefined)[]): items is readonly T[] => !items.includes(undefined);

function failureAccrual(annotations: Annotations): ClientPolicy['accrual'] {
  if (annotations[ACCRUAL]?.trim() !== 'consecutive') return undefined;
  const text = (name: string, fallback: string): string =>
    annotations[`${ACCRUAL}-consecutive-${name}`]?.trim() ?? fallback;
  const failures = text('max-failures', '7');
  const jitter = text('jitter-ratio', '0.5');
  const minPenaltyMs = parsePolicyDurationMs(text('min-penalty', '1s'));
  const maxPenaltyMs = parsePolicyDurationMs(text('max-penalty', '1m'));
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
