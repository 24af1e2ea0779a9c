// SPDX-License-Identifier: Apache-2.0
// The server's half of an exchange whose request is in a passage: what that side's proxy counts of it. An exchange that
// meets a passage keeps one for all its requests; outside of passages all of this does nothing.

import { FAILURE_CLIENT_GONE, FAILURE_NONE } from '../failure.ts';
import { NOT_RESET } from './http2-client.ts';
import type { RequestEnd } from './request-end.ts';
import { RouteMeter } from './route-meter.ts';
import { GRPC_NONE, type HttpMetrics, type ObservedExchange, type Passage, type Passenger } from './types.ts';

export class FarSide {
  #passage: Passage | null = null;
  /** Once its policy has let the request in. */
  #metrics: HttpMetrics | null = null;
  /** Who watches it, once it is let in. */
  observed: ObservedExchange | null = null;
  readonly #meter = new RouteMeter();

  get inside(): boolean {
    return this.#passage !== null;
  }

  enter(passage: Passage, passenger: Passenger): void {
    passage.enter(passenger);
    this.#passage = passage;
  }

  leave(passenger: Passenger): void {
    this.#passage?.leave(passenger);
    this.#passage = null;
    this.#metrics = null;
    this.observed = null;
  }

  /** `complete`: all of the request has come. */
  admitted(
    { application }: Passage,
    nowMs: number,
    complete: boolean,
    observed: ObservedExchange | null,
  ): void {
    this.observed = observed;
    observed?.dispatched(application);
    this.#metrics = application.metrics;
    application.metrics.requestStarted();
    this.#meter.begin();
    this.#meter.arrived(application.route, nowMs);
    this.#meter.attempted(nowMs, complete);
  }

  requestPart(bytes: number): void {
    if (this.#metrics !== null) this.#meter.requestPart(bytes);
  }

  requestEnded(nowMs: number): void {
    if (this.#metrics !== null) this.#meter.flushed(nowMs);
  }

  responsePart(bytes: number): void {
    if (this.#metrics === null) return;
    this.#meter.responsePart(bytes);
    this.observed?.passed(bytes);
  }

  firstBody(status: number, latencyMs: number): void {
    this.#metrics?.firstBody(status, latencyMs);
  }

  /** The application reset what it had not begun with: it gets the request again. */
  again(reset: number): void {
    this.#metrics?.responseReset(0, reset);
    this.#metrics?.requestStarted();
  }

  /** As the counts of the exchange's own side. */
  ended(end: RequestEnd): void {
    const metrics = this.#metrics;
    if (metrics === null) return;
    this.#metrics = null;
    const { status, failure, grpcStatus, reset } = end;
    this.observed?.ended(status, failure, grpcStatus, reset);
    this.observed = null;
    if (reset === NOT_RESET) metrics.responseEnded(status, failure, grpcStatus);
    else metrics.responseReset(status, reset);
    this.#meter.ended(end);
  }

  /** The request is over; `behind`: by a failure of this side, if by any. */
  over(end: RequestEnd, behind: boolean): void {
    if (end.failure === FAILURE_NONE) {
      this.ended({ ...end, reset: NOT_RESET, started: true });
    } else if (behind) {
      this.ended(end);
      if (!end.started) this.failed(end.failure);
    } else {
      this.abandoned(end.atMs, end.status, end.started);
    }
  }

  /** The client's side went away, whatever the reason. */
  abandoned(atMs: number, status: number, started: boolean): void {
    const failure = FAILURE_CLIENT_GONE;
    this.ended({ atMs, status, failure, grpcStatus: GRPC_NONE, reset: NOT_RESET, started });
  }

  /** The request was answered in the application's place. */
  failed(failure: number): void {
    this.#passage?.application.failed?.(failure);
  }
}
