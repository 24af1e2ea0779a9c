// SPDX-License-Identifier: Apache-2.0
// For tests with real sockets: time passes as it does, but of a pause of this process (a busy or stalled machine) hardly
// anything counts. So a short time limit ends because nobody spoke, not because nobody was given a turn.

import type { Clock, Timer } from './clock.ts';

const TICK_MS = 5;
/** What counts of the time between two ticks. */
const STEP_MAX_MS = 10;

interface Due {
  readonly atMs: number;
  readonly run: () => void;
}

export class PatientClock implements Clock {
  readonly #epochMs = Date.now();
  readonly #real: () => number;
  #countedMs = 0;
  #tickedMs: number;
  #timers: Due[] = [];

  /** It ticks for as long as the process lives, which it does not prolong. */
  constructor(real: () => number = () => performance.now()) {
    this.#real = real;
    this.#tickedMs = real();
    setInterval(() => this.tick(), TICK_MS).unref();
  }

  wallMs(): number {
    return this.#epochMs + this.nowMs();
  }

  nowMs(): number {
    return this.#countedMs + Math.min(this.#real() - this.#tickedMs, STEP_MAX_MS);
  }

  after(delayMs: number, run: () => void): Timer {
    const due: Due = { atMs: this.nowMs() + delayMs, run };
    this.#timers.push(due);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== due);
      },
    };
  }

  /** So much passes at once, besides. */
  advance(ms: number): void {
    this.#countedMs += ms;
    this.tick();
  }

  tick(): void {
    this.#countedMs = this.nowMs();
    this.#tickedMs = this.#real();
    const due = this.#timers
      .filter(({ atMs }) => atMs <= this.#countedMs)
      .sort((left, right) => left.atMs - right.atMs);
    for (const one of due) {
      // One of those before it may have cancelled it.
      if (!this.#timers.includes(one)) continue;
      this.#timers = this.#timers.filter((other) => other !== one);
      one.run();
    }
  }
}
