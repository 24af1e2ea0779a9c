// SPDX-License-Identifier: Apache-2.0
// How the requests of one route are limited in time and sent again, and how people write it: in annotations of Services
// and routes, and in fields of requests. A service without routes has one such policy, that of its default route; a
// route that sets timeouts, or retries, replaces the service's set of them as a whole.

/** Limits of a request's time; absent: none. */
export interface RequestTimeouts {
  /** From its first dispatch to the end of its response, all attempts together. */
  readonly requestMs?: number | undefined;
  /** From its end to the end of its response. */
  readonly responseMs?: number | undefined;
  /** Between parts of the response. */
  readonly idleMs?: number | undefined;
}

/** First and last of a range of HTTP statuses. */
export type StatusRange = readonly [first: number, last: number];

/** Which answers count for nothing while there are attempts left. */
export interface RetryPolicy {
  readonly statuses: readonly StatusRange[];
  readonly grpcCodes: readonly number[];
  /** Beyond the first attempt; at least 1. */
  readonly maxRetries: number;
  /** How long each attempt but the last may take from the request's end to the response's head. */
  readonly timeoutMs?: number | undefined;
}

/** What one route asks of its clients. */
export interface RequestPolicy {
  readonly timeouts?: RequestTimeouts;
  readonly retry?: RetryPolicy;
  /** Whether a request may set all of this for itself (`l5d-retry-…`, `l5d-timeout`, …). */
  readonly allowL5dRequestHeaders?: boolean;
}

export const DEFAULT_MAX_RETRIES = 1;
export const MAX_RETRIES_MAX = 65_535;
/** What setTimeout can wait: stands for "no timeout". */
const LONGEST_MS = 0x7fff_ffff;

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** `0`, or a whole number with one unit: neither fractions nor `1m30s`. */
export function parsePolicyDurationMs(text: string): number | undefined {
  if (text === '0') return 0;
  const [, number, unit] = /^(\d+)(ms|s|m|h|d)$/.exec(text) ?? [];
  if (number === undefined || unit === undefined) return undefined;
  return Math.min(Number(number) * (unitMs[unit] as number), LONGEST_MS);
}

/** One item of a list of statuses: `5xx`, `gateway-error`, `503`, `500-504`. */
export function parseStatusRange(item: string): StatusRange | undefined {
  if (item === '5xx') return [500, 599];
  if (item === 'gateway-error') return [502, 504];
  const [, first, last = first] = /^(\d{3})(?:-(\d{3}))?$/.exec(item) ?? [];
  const range: StatusRange = [Number(first), Number(last)];
  return range[0] >= 100 && range[1] <= 599 && range[0] <= range[1] ? range : undefined;
}

const grpcCodes: Readonly<Record<string, number>> = {
  cancelled: 1,
  'deadline-exceeded': 4,
  'resource-exhausted': 8,
  internal: 13,
  unavailable: 14,
};

export const parseGrpcCode = (item: string): number | undefined =>
  Object.hasOwn(grpcCodes, item) ? grpcCodes[item] : undefined;

/** 0 counts as not set, as with Linkerd. */
export function parseMaxRetries(text: string): number | undefined {
  if (!/^\d{1,5}$/.test(text)) return undefined;
  const value = Number(text);
  return value > MAX_RETRIES_MAX ? undefined : value;
}
