// SPDX-License-Identifier: Apache-2.0
// How clients of a service balance and limit their requests, as a header field of the answer to Get: Linkerd's messages
// of Destination have no place for it. JSON; what another version adds is passed over.

import type { RequestPolicy, RequestTimeouts, RetryPolicy } from '#lib/core/request-policy.ts';

export const CLIENT_POLICY_HEADER = 'nodemesh-client-policy';

/** That of requests is the default route's: for what no other route takes. */
export interface ClientPolicy extends RequestPolicy {
  /** There are routes besides: OutboundPolicies tells them. */
  readonly routed?: boolean;
  /** When an endpoint that fails is left out for a while. */
  readonly accrual?: {
    readonly maxFailures: number;
    readonly minPenaltyMs: number;
    readonly maxPenaltyMs: number;
    readonly jitterRatio: number;
  };
}

/** '' if the policy says nothing. */
export function encodeClientPolicy(policy: ClientPolicy): string {
  return Object.keys(policy).length === 0 ? '' : JSON.stringify(policy);
}

export function decodeClientPolicy(text: string): ClientPolicy {
  if (text === '') return {};
  const policy = objectOf(parse(text));
  const accrual = objectOf(policy['accrual']);
  const maxFailures = positive(accrual['maxFailures']);
  const minPenaltyMs = positive(accrual['minPenaltyMs']);
  const maxPenaltyMs = positive(accrual['maxPenaltyMs']);
  const jitterRatio = Number(accrual['jitterRatio']);
  const sound =
    maxFailures !== undefined &&
    minPenaltyMs !== undefined &&
    maxPenaltyMs !== undefined &&
    maxPenaltyMs >= minPenaltyMs &&
    jitterRatio >= 0;
  return {
    ...(sound ? { accrual: { maxFailures, minPenaltyMs, maxPenaltyMs, jitterRatio } } : {}),
    ...decodeRequestPolicy(policy),
    ...(policy['routed'] === true ? { routed: true } : {}),
  };
}

/** Of one route. */
export function decodeRequestPolicy(policy: Readonly<Record<string, unknown>>): RequestPolicy {
  const timeouts = objectOf(policy['timeouts']);
  const retry = retryOf(objectOf(policy['retry']));
  return {
    ...timeoutsOf({
      requestMs: positive(timeouts['requestMs']),
      responseMs: positive(timeouts['responseMs']),
      idleMs: positive(timeouts['idleMs']),
    }),
    ...(retry === undefined ? {} : { retry }),
    ...(policy['allowL5dRequestHeaders'] === true ? { allowL5dRequestHeaders: true } : {}),
  };
}

/** Without those that are not set; nothing if none is. */
export function timeoutsOf(timeouts: RequestTimeouts): RequestPolicy {
  const set = Object.entries(timeouts).filter(([, value]) => value !== undefined);
  return set.length === 0 ? {} : { timeouts: Object.fromEntries(set) };
}

function retryOf(retry: Readonly<Record<string, unknown>>): RetryPolicy | undefined {
  const maxRetries = positive(retry['maxRetries']);
  const timeoutMs = positive(retry['timeoutMs']);
  if (maxRetries === undefined) return undefined;
  return {
    statuses: listOf(retry['statuses']).flatMap((item) => {
      const [first, last] = listOf(item);
      return typeof first === 'number' && typeof last === 'number' ? [[first, last] as const] : [];
    }),
    grpcCodes: listOf(retry['grpcCodes']).filter((code) => typeof code === 'number'),
    maxRetries,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Of a destination that writes something else here: it says nothing to us.
    return undefined;
  }
}

const objectOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {};

const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

const positive = (value: unknown): number | undefined =>
  typeof value === 'number' && value > 0 ? value : undefined;
