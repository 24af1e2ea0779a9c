// SPDX-License-Identifier: Apache-2.0
// When a probe runs and what a row of results means (Kubernetes' thresholds). How it is made is the caller's.

import type { ProbeSpec } from './objects.ts';

export interface ProbeTimes {
  readonly initialDelayMs: number;
  readonly periodMs: number;
  /** The period before the first success: a pod that has just started shall not wait long for its first traffic. */
  readonly eagerPeriodMs: number;
  readonly successThreshold: number;
  readonly failureThreshold: number;
}

const EAGER_PERIOD_MS = 1000;

/** `eager`: of a probe whose failures have no consequence (readiness). */
export const probeTimes = (spec: ProbeSpec, eager: boolean): ProbeTimes => ({
  initialDelayMs: spec.initialDelaySeconds * 1000,
  periodMs: spec.periodSeconds * 1000,
  eagerPeriodMs: eager ? Math.min(EAGER_PERIOD_MS, spec.periodSeconds * 1000) : spec.periodSeconds * 1000,
  successThreshold: spec.successThreshold,
  failureThreshold: spec.failureThreshold,
});

/** The state of one probe: undecided until a threshold has been reached in a row. */
export class ProbeVerdict {
  readonly #times: ProbeTimes;
  #row = 0;
  #last: boolean | undefined;
  state: boolean | undefined;

  constructor(times: ProbeTimes) {
    this.#times = times;
  }

  /** Takes a result; true if the state has changed. */
  record(success: boolean): boolean {
    this.#row = success === this.#last ? this.#row + 1 : 1;
    this.#last = success;
    const threshold = success ? this.#times.successThreshold : this.#times.failureThreshold;
    if (this.#row < threshold || this.state === success) return false;
    this.state = success;
    return true;
  }
}

/**
 * Probes until `signal` aborts or `onState` answers 'stop'. `execute` resolves with the problem, or undefined for
 * success; `delay` resolves after the time or when aborted.
 */
export async function runProbe(
  times: ProbeTimes,
  execute: () => Promise<string | undefined>,
  onState: (success: boolean, problem: string | undefined) => 'go on' | 'stop',
  signal: AbortSignal,
  delay: (ms: number, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const verdict = new ProbeVerdict(times);
  if (times.initialDelayMs > 0) await delay(times.initialDelayMs, signal);
  while (!signal.aborted) {
    const problem = await execute();
    if (signal.aborted) return;
    if (verdict.record(problem === undefined) && onState(problem === undefined, problem) === 'stop') return;
    await delay(verdict.state === true ? times.periodMs : times.eagerPeriodMs, signal);
  }
}
