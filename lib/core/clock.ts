// SPDX-License-Identifier: Apache-2.0
// Time as a parameter: programs pass `systemClock`, tests pass a virtual one. Not a scheduler.

export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Wall-clock milliseconds since the epoch: for certificates and logs, never for measuring. */
  wallMs(): number;
  /** Monotonic milliseconds with a fraction: for latencies and deadlines. */
  nowMs(): number;
  /** Calls `run` once after `delayMs`; timers do not keep the process alive. */
  after(delayMs: number, run: () => void): Timer;
}

/** The global is a getter, and this is asked for each request. */
const { performance } = globalThis;

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  nowMs: () => performance.now(),
  after(delayMs, run) {
    const handle = setTimeout(run, delayMs);
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
};

/** A clock that moves only when told to; due timers run in order of their time. */
export class VirtualClock implements Clock {
  #now = 0;
  readonly #epochMs: number;
  #timers: { at: number; sequence: number; run: () => void }[] = [];
  #sequence = 0;
  #setByMs = 0;

  constructor(epochMs = Date.UTC(2026, 0, 1)) {
    this.#epochMs = epochMs;
  }

  wallMs(): number {
    return this.#epochMs + this.#now + this.#setByMs;
  }

  nowMs(): number {
    return this.#now;
  }

  after(delayMs: number, run: () => void): Timer {
    const timer = { at: this.#now + Math.max(0, delayMs), sequence: this.#sequence++, run };
    this.#timers.push(timer);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
      },
    };
  }

  /** Moves time forward by `ms`, running every timer that falls due on the way, also ones set meanwhile. */
  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const due = this.#timers
        .filter((timer) => timer.at <= end)
        .sort((a, b) => a.at - b.at || a.sequence - b.sequence)[0];
      if (due === undefined) break;
      this.#timers = this.#timers.filter((timer) => timer !== due);
      this.#now = Math.max(this.#now, due.at);
      due.run();
    }
    this.#now = end;
  }

  /** Nothing runs for `ms`, as when the machine is paused; then every timer that fell due, late. */
  stall(ms: number): void {
    this.#now += ms;
    this.advance(0);
  }

  /** Somebody sets the wall clock; timers know nothing of it. */
  setWallBy(ms: number): void {
    this.#setByMs += ms;
  }

  get pendingTimers(): number {
    return this.#timers.length;
  }
}

/** Random numbers in [0, 1) as a parameter; `seededRandom` repeats itself for tests. */
export type Random = () => number;

export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
