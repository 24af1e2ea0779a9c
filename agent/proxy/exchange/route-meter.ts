// SPDX-License-Identifier: Apache-2.0
// What the families of routes and backends count of one request: its route sees it once, from its arrival to the end of
// its answer; the backend sees each attempt, from the end of the request to the end of its answer. An exchange keeps one
// for all its requests. Which route a request has is its target's to say; without one nothing is counted.
//
//   arrived ── waits? ── attempted ──► attemptEnded ─┬─ another attempt: attempted …
//                                                    └─ ended

import {
  FAILURE_ATTEMPT_TIMEOUT,
  FAILURE_CLIENT_GONE,
  FAILURE_FAILFAST,
  FAILURE_LIMIT,
  FAILURE_LOADSHED,
  FAILURE_NONE,
  FAILURE_RESPONSE_TIMEOUT,
  FAILURE_UPSTREAM_RESET,
} from '../failure.ts';
import { CANCEL, ENHANCE_YOUR_CALM, REFUSED_STREAM } from '#lib/http2/codes.ts';
import { NOT_RESET } from './http2-client.ts';
import type { RequestEnd } from './request-end.ts';
import type { TimeLimit } from './request-timer.ts';
import type { HttpRoute } from './types.ts';

export class RouteMeter {
  /** The limit of its time that the request has run into. */
  limit: TimeLimit = 'REQUEST_TIMEOUT';
  #route: HttpRoute | null = null;
  #receivedMs = 0;
  /** When all of the request had come; NaN: it has not. */
  #flushedMs = Number.NaN;
  /** Since when it waits for an endpoint; NaN: it does not. */
  #waitingMs = Number.NaN;
  #attempting = false;

  /** Another request begins. */
  begin(): void {
    this.#route = null;
    this.#flushedMs = Number.NaN;
    this.#waitingMs = Number.NaN;
    this.#attempting = false;
  }

  /** Its route is known; called for each attempt, but only the first counts. */
  arrived(route: HttpRoute | undefined, nowMs: number): void {
    if (this.#route !== null || route === undefined) return;
    this.#route = route;
    this.#receivedMs = nowMs;
  }

  /** No endpoint now. */
  waits(nowMs: number): void {
    if (this.#route === null || this.#attempting) return;
    this.#waitingMs = nowMs;
    this.#attempting = true;
    this.#route.backend.waits();
  }

  /** It goes to an endpoint; `complete`: all of it has come. */
  attempted(nowMs: number, complete: boolean): void {
    const route = this.#route;
    if (route === null) return;
    if (complete) this.#flushedMs = nowMs;
    if (this.#attempting) this.#leaveQueue(route, nowMs);
    else route.backend.started();
    this.#attempting = true;
  }

  #leaveQueue(route: HttpRoute, nowMs: number): void {
    if (Number.isNaN(this.#waitingMs)) return;
    route.backend.waited((nowMs - this.#waitingMs) / 1000);
    this.#waitingMs = Number.NaN;
  }

  flushed(nowMs: number): void {
    this.#flushedMs = nowMs;
  }

  requestPart(bytes: number): void {
    this.#route?.metrics.frame(bytes);
  }

  responsePart(bytes: number): void {
    this.#route?.backend.frame(bytes);
  }

  /** An attempt ended; the request goes on, or `ended` follows. */
  attemptEnded(end: RequestEnd): void {
    const route = this.#route;
    if (route === null || !this.#attempting) return;
    this.#leaveQueue(route, end.atMs);
    this.#attempting = false;
    if (isSilent(end)) return;
    const seconds = Number.isNaN(this.#flushedMs) ? 0 : (end.atMs - this.#flushedMs) / 1000;
    const error = this.#errorOf(end);
    route.backend.ended(seconds, shownStatus(end, error), end.grpcStatus, error);
  }

  ended(end: RequestEnd): void {
    const route = this.#route;
    if (route === null) return;
    this.attemptEnded(end);
    this.#route = null;
    if (isSilent(end)) return;
    const error = this.#errorOf(end);
    const seconds = (end.atMs - this.#receivedMs) / 1000;
    route.metrics.ended(seconds, shownStatus(end, error), end.grpcStatus, error);
  }

  /** Linkerd's names. What is answered in the endpoint's place (502, 504) counts as its answer, not as an error. */
  #errorOf({ failure, reset, started }: RequestEnd): string {
    if (reset !== NOT_RESET) {
      if (reset === CANCEL) return 'CANCEL';
      if (reset === REFUSED_STREAM) return 'REFUSED';
      return reset === ENHANCE_YOUR_CALM ? 'ENHANCE_YOUR_CALM' : 'RESET';
    }
    switch (failure) {
      case FAILURE_NONE:
        return '';
      case FAILURE_FAILFAST:
        return 'FAIL_FAST';
      case FAILURE_LOADSHED:
      case FAILURE_LIMIT:
        return 'LOAD_SHED';
      case FAILURE_RESPONSE_TIMEOUT:
        return this.limit;
      case FAILURE_ATTEMPT_TIMEOUT:
        return 'RESPONSE_HEADERS_TIMEOUT';
      case FAILURE_UPSTREAM_RESET:
        return started ? 'IO' : '';
      default:
        return started ? 'UNKNOWN' : '';
    }
  }
}

/** As Linkerd: a client that leaves before there is an answer is not counted. */
const isSilent = ({ failure, started }: RequestEnd): boolean => failure === FAILURE_CLIENT_GONE && !started;

/** An error in the place of an answer has no status; one in its middle keeps it. */
const shownStatus = ({ status, started }: RequestEnd, error: string): number =>
  error === '' || started ? status : 0;
