// SPDX-License-Identifier: Apache-2.0
// How many requests a second a server takes: from everybody together, and from each client by its identity, as
// Linkerd's HTTPLocalRateLimitPolicy has it. Each bucket is one instant (GCRA): a second's worth of requests may come at
// once, and then they must come evenly. Kept per pod and server; a new policy starts with full buckets. Pure.

export interface RateLimits {
  /** Requests per second; absent: no limit. */
  readonly total?: number;
  /** For each identity, and for all clients without one together. */
  readonly identity?: number;
  /** In place of `identity` for clients that it names; the first that does. */
  readonly overrides: readonly {
    readonly requestsPerSecond: number;
    readonly identities: readonly string[];
  }[];
}

export const RATE_ALLOWED = 0;
export const RATE_TOTAL = 1;
export const RATE_IDENTITY = 2;

const SECOND_MS = 1000;
/** Clients beyond share the bucket of those without identity. */
const IDENTITIES_MAX = 10_000;

class Bucket {
  readonly #intervalMs: number;
  readonly #requestsPerSecond: number;
  /** When the bucket is full again. */
  fullMs = 0;

  constructor(requestsPerSecond: number) {
    this.#requestsPerSecond = requestsPerSecond;
    this.#intervalMs = SECOND_MS / requestsPerSecond;
  }

  take(nowMs: number): boolean {
    const full = Math.max(this.fullMs, nowMs);
    // A thousandth of a request for what sums of fractions lose.
    if (this.#requestsPerSecond < 1 || full - nowMs > SECOND_MS - this.#intervalMs * 0.999) return false;
    this.fullMs = full + this.#intervalMs;
    return true;
  }
}

export class RateLimiter {
  readonly limits: RateLimits;
  readonly #total: Bucket | null;
  readonly #overrides = new Map<string, Bucket>();
  readonly #identities = new Map<string, Bucket>();

  constructor(limits: RateLimits) {
    this.limits = limits;
    this.#total = limits.total === undefined ? null : new Bucket(limits.total);
    for (const { requestsPerSecond, identities } of limits.overrides) {
      // One bucket for all whom an override names.
      const bucket = new Bucket(requestsPerSecond);
      for (const identity of identities) {
        if (!this.#overrides.has(identity)) this.#overrides.set(identity, bucket);
      }
    }
  }

  /** RATE_ALLOWED, or which limit is used up. What the identity's limit refuses has been taken from the total. */
  check(identity: string, nowMs: number): number {
    if (this.#total !== null && !this.#total.take(nowMs)) return RATE_TOTAL;
    const bucket = this.#overrides.get(identity) ?? this.#bucketOf(identity, nowMs);
    return bucket === null || bucket.take(nowMs) ? RATE_ALLOWED : RATE_IDENTITY;
  }

  /** Of the limit that refused. */
  rateOf(verdict: number, identity: string): number {
    if (verdict === RATE_TOTAL) return this.limits.total ?? 0;
    const override = this.limits.overrides.find(({ identities }) => identities.includes(identity));
    return override?.requestsPerSecond ?? this.limits.identity ?? 0;
  }

  #bucketOf(identity: string, nowMs: number): Bucket | null {
    const rate = this.limits.identity;
    if (rate === undefined) return null;
    const known = this.#identities.get(identity);
    if (known !== undefined) return known;
    if (this.#identities.size >= IDENTITIES_MAX) this.#forgetFull(nowMs);
    if (this.#identities.size >= IDENTITIES_MAX && identity !== '') return this.#bucketOf('', nowMs);
    const bucket = new Bucket(rate);
    this.#identities.set(identity, bucket);
    return bucket;
  }

  /** A full bucket is as good as none. */
  #forgetFull(nowMs: number): void {
    for (const [identity, bucket] of this.#identities) {
      if (bucket.fullMs <= nowMs) this.#identities.delete(identity);
    }
  }
}
