// SPDX-License-Identifier: Apache-2.0
// A circuit breaker of one endpoint: shut after failures in a row, tried again with one request after a pause that
// grows. Knows neither requests nor timers of its own making; who balances leaves out what does not admit.
//
//   OPEN ── n failures in a row ──► SHUT ── pause ──► READY ── a request ──► TRYING ── success ──► OPEN
//                                    ▲                  ▲                     │  └── no verdict ──► READY
//                                    └──────────────────┴───── failure ───────┘ (back to SHUT, a longer pause)

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import type { FailureAccrual } from '../model.ts';

const OPEN = 0;
const SHUT = 1;
const READY = 2;
const TRYING = 3;

export type Verdict = 'success' | 'failure' | 'none';

export interface BreakerOptions {
  readonly accrual: FailureAccrual;
  readonly clock: Clock;
  readonly random: Random;
  /** `admits` is another one now. */
  readonly changed: () => void;
}

export class Breaker {
  readonly #options: BreakerOptions;
  #state = OPEN;
  #failures = 0;
  /** Pauses since it was open last. */
  #pauses = 0;
  #timer: Timer | null = null;

  constructor(options: BreakerOptions) {
    this.#options = options;
  }

  /** Whether a request may go to the endpoint. */
  get admits(): boolean {
    return this.#state === OPEN || this.#state === READY;
  }

  /** A request goes to the endpoint; at once after it was picked, so that one only is tried. */
  started(): void {
    if (this.#state === READY) this.#become(TRYING);
  }

  ended(verdict: Verdict): void {
    switch (this.#state) {
      case OPEN:
        if (verdict === 'success') this.#failures = 0;
        else if (verdict === 'failure' && ++this.#failures >= this.#options.accrual.maxFailures) this.#shut();
        break;
      case TRYING:
        if (verdict === 'failure') this.#shut();
        else if (verdict === 'none') this.#become(READY);
        else {
          this.#failures = 0;
          this.#pauses = 0;
          this.#become(OPEN);
        }
        break;
      default:
        // What was under way when it shut says nothing about now.
        break;
    }
  }

  close(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#state = SHUT;
  }

  #shut(): void {
    const { accrual, clock, random } = this.#options;
    const { minPenaltyMs, maxPenaltyMs, jitterRatio } = accrual;
    const base = Math.min(maxPenaltyMs, minPenaltyMs * 2 ** Math.min(this.#pauses, 30));
    const pauseMs = Math.min(maxPenaltyMs, base + random() * base * jitterRatio);
    this.#pauses++;
    this.#timer = clock.after(pauseMs, () => this.#become(READY));
    this.#become(SHUT);
  }

  #become(state: number): void {
    const admitted = this.admits;
    this.#state = state;
    if (this.admits !== admitted) this.#options.changed();
  }
}
