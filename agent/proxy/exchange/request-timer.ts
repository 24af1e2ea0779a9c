// SPDX-License-Identifier: Apache-2.0
// The time limits of one request where its route sets any: one node of the wheel for all of them. An exchange keeps one
// for all its requests. Limits are looked at when the wheel says so, up to a fifth of a second late, never early.
//
//   dispatched ──────────────────── request limit ────────────────────► end of the response, of whatever attempt
//          └─ request complete ── attempt's limit ──► head
//          └─ request complete, or head ── response limit ────────────► end of the response
//                                   head ── idle limit, anew with each part of the body

import type { Clock } from '#lib/core/clock.ts';
import type { RequestTimeouts } from '#lib/core/request-policy.ts';
import type { TimeoutNode, TimerWheel } from '../timers/wheel.ts';

/** How often it is looked whether a request is complete that was not when it was dispatched. */
const LOOK_MS = 200;
const FAR = Number.POSITIVE_INFINITY;

/** As Linkerd names them in metrics. */
export type TimeLimit = 'REQUEST_TIMEOUT' | 'RESPONSE_STREAM_TIMEOUT' | 'IDLE_TIMEOUT';

export interface TimedRequest {
  /** Whether all of the request has come, or its response began. */
  readonly answerable: boolean;
  /** Whether the response's head came. */
  readonly answered: boolean;
  /** Whether the response's head was passed on. */
  readonly started: boolean;
  expired(limit: TimeLimit): void;
  attemptExpired(): void;
}

export class RequestTimer implements TimeoutNode {
  timeoutPrevious: TimeoutNode | null = null;
  timeoutNext: TimeoutNode | null = null;
  timeoutTick = 0;
  readonly #wheel: TimerWheel;
  readonly #clock: Clock;
  readonly #request: TimedRequest;
  #timeouts: RequestTimeouts = {};
  #attemptMs: number | undefined;
  #begunMs = 0;
  /** Whether an attempt is under way, and not the pause before one. */
  #attempting = false;
  /** Since when an answer is waited for; NaN: not yet. */
  #answerableMs = Number.NaN;
  #movedMs = 0;
  /** What `#left` found. */
  #nearest: TimeLimit = 'REQUEST_TIMEOUT';

  constructor(wheel: TimerWheel, clock: Clock, request: TimedRequest) {
    this.#wheel = wheel;
    this.#clock = clock;
    this.#request = request;
  }

  start(timeouts: RequestTimeouts, attemptMs: number | undefined, nowMs: number): void {
    this.#timeouts = timeouts;
    this.#begunMs = nowMs;
    this.attempt(attemptMs, nowMs);
  }

  /** The first attempt, or another one. */
  attempt(attemptMs: number | undefined, nowMs: number): void {
    this.#attemptMs = attemptMs;
    this.#attempting = true;
    this.#answerableMs = Number.NaN;
    this.#movedMs = Number.NaN;
    this.#schedule(nowMs);
  }

  /** The attempt is over, the request is not. */
  pause(): void {
    this.#attempting = false;
  }

  /** The head or a part of the response's body came. */
  moved(): void {
    if (this.#timeouts.idleMs !== undefined) this.#movedMs = this.#clock.nowMs();
  }

  stop(): void {
    this.#wheel.cancel(this);
  }

  onTimeout(): void {
    const now = this.#clock.nowMs();
    if (this.#requestLeft(now) <= 0) this.#request.expired(this.#nearest);
    else if (this.#attemptLeft(now) <= 0) this.#request.attemptExpired();
    else this.#schedule(now);
  }

  #schedule(nowMs: number): void {
    const left = Math.min(this.#requestLeft(nowMs), this.#attemptLeft(nowMs));
    if (left === FAR) this.#wheel.cancel(this);
    else this.#wheel.schedule(this, nowMs, left);
  }

  /** Milliseconds to the next limit that ends the request, or to the next look. */
  #requestLeft(nowMs: number): number {
    const { requestMs, responseMs, idleMs } = this.#timeouts;
    this.#nearest = 'REQUEST_TIMEOUT';
    let left = requestMs === undefined ? FAR : this.#begunMs + requestMs - nowMs;
    if (!this.#attempting) return left;
    if (responseMs !== undefined) {
      const own = this.#sinceAnswerable(responseMs, nowMs);
      if (own < left) this.#nearest = 'RESPONSE_STREAM_TIMEOUT';
      left = Math.min(left, own);
    }
    if (idleMs !== undefined) {
      if (Number.isNaN(this.#movedMs) && this.#request.started) this.#movedMs = nowMs;
      const own = Number.isNaN(this.#movedMs) ? LOOK_MS : this.#movedMs + idleMs - nowMs;
      if (own < left) this.#nearest = 'IDLE_TIMEOUT';
      left = Math.min(left, own);
    }
    return left;
  }

  #attemptLeft(nowMs: number): number {
    if (this.#attemptMs === undefined || !this.#attempting || this.#request.answered) return FAR;
    return this.#sinceAnswerable(this.#attemptMs, nowMs);
  }

  #sinceAnswerable(limitMs: number, nowMs: number): number {
    if (Number.isNaN(this.#answerableMs) && this.#request.answerable) this.#answerableMs = nowMs;
    return Number.isNaN(this.#answerableMs) ? LOOK_MS : this.#answerableMs + limitMs - nowMs;
  }
}
