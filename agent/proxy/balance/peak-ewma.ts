// SPDX-License-Identifier: Apache-2.0
// Peak EWMA: an estimate of an endpoint's latency that jumps up at once and decays slowly, times the requests in
// flight. As tower's load module computes it, but for what the decay time means (docs/decisions/014-decay-time.md). Allocates nothing
// after construction; time is passed in.

export const DEFAULT_RTT_MS = 30;
/** In this time an estimate that nothing confirms falls to a tenth. */
export const DEFAULT_DECAY_MS = 10_000;

export class LoadEstimate {
  #rttMs: number;
  #updatedMs: number;
  #inFlight: number;
  /** Time in which it falls to the e-th part. */
  readonly #foldMs: number;

  constructor(nowMs: number, rttMs = DEFAULT_RTT_MS, decayMs = DEFAULT_DECAY_MS) {
    this.#rttMs = Math.max(1, rttMs);
    this.#updatedMs = nowMs;
    this.#inFlight = 0;
    this.#foldMs = decayMs / Math.LN10;
  }

  /** A request was dispatched; `finished` follows exactly once. */
  started(): void {
    this.#inFlight++;
  }

  /** First body frame, end, error or cancellation: whatever came first. */
  finished(nowMs: number, latencyMs: number): void {
    this.#inFlight--;
    this.#observe(nowMs, latencyMs);
  }

  /** Cost of one more request. Reading lets the estimate decay towards zero. */
  load(nowMs: number): number {
    this.#observe(nowMs, 0);
    return this.#rttMs * (this.#inFlight + 1);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get rttMs(): number {
    return this.#rttMs;
  }

  #observe(nowMs: number, latencyMs: number): void {
    if (latencyMs > this.#rttMs) {
      this.#rttMs = latencyMs;
    } else {
      const elapsed = nowMs - this.#updatedMs;
      if (elapsed > 0) {
        const weight = Math.exp(-elapsed / this.#foldMs);
        this.#rttMs = this.#rttMs * weight + latencyMs * (1 - weight);
      }
    }
    this.#updatedMs = nowMs;
  }
}
