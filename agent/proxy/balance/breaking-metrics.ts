// SPDX-License-Identifier: Apache-2.0
// Tells an endpoint's breaker how its responses end, on the way to the metrics, which see each of them anyway.

import type { HttpMetrics } from '../exchange/types.ts';
import { FAILURE_CLIENT_GONE } from '../failure.ts';
import { isFailure } from '../metrics/http-metrics.ts';
import type { Breaker } from './breaker.ts';

export class BreakingMetrics implements HttpMetrics {
  readonly #metrics: HttpMetrics;
  readonly #breaker: Breaker;

  constructor(metrics: HttpMetrics, breaker: Breaker) {
    this.#metrics = metrics;
    this.#breaker = breaker;
  }

  requestStarted(): void {
    this.#metrics.requestStarted();
    this.#breaker.started();
  }

  firstBody(status: number, latencyMs: number): void {
    this.#metrics.firstBody(status, latencyMs);
  }

  responseEnded(status: number, failure: number, grpcStatus: number): void {
    this.#metrics.responseEnded(status, failure, grpcStatus);
    // A client that left says nothing about the endpoint.
    if (failure === FAILURE_CLIENT_GONE) this.#breaker.ended('none');
    else this.#breaker.ended(isFailure(status, failure, grpcStatus) ? 'failure' : 'success');
  }

  responseReset(status: number, code: number): void {
    this.#metrics.responseReset(status, code);
    this.#breaker.ended('failure');
  }

  requestReturned(): void {
    this.#metrics.requestReturned();
    this.#breaker.ended('none');
  }
}
