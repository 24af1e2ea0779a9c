// SPDX-License-Identifier: Apache-2.0
// The time limits of one request where its service sets any: one node of the wheel for all three. An exchange keeps one
// for all its requests. Limits are looked at when the wheel says so, up to a fifth of a second late, never early.
//
//   dispatched ──────────────────── request limit ────────────────────► end of the response
//          └─ request complete, or head ── response limit ────────────► end of the response
//                                   head ── idle limit, anew with each part of the body

import type { Clock } from '#lib/core/clock.ts';
import type { RequestTimeouts } from '#lib/core/request-policy.ts';
import type { TimeoutNode, TimerWheel } from '../timers/wheel.ts';

/** How often it is looked whether a request is complete that was not when it was dispatched. */
const LOOK_MS = 200;

/** As Linkerd names them in metrics. */
export type TimeLimit = 'REQUEST_TIMEOUT' | 'RESPONSE_STREAM_TIMEOUT' | 'IDLE_TIMEOUT';

export interface TimedRequest {
  /** Whether all of the request has come, or its response began. */
  readonly answerable: boolean;
  /** Whether the response's head was passed on. */
  readonly started: boolean;
  expired(limit: TimeLimit): void;
}

export class RequestTimer implements TimeoutNode {
  timeoutPrevious: TimeoutNode | null = null;
  timeoutNext: TimeoutNode | null = null;
  timeoutTick = 0;
  readonly #wheel: TimerWheel;
  readonly #clock: Clock;
  readonly #request: TimedRequest;
  #timeouts: RequestTimeouts = {};
  #begunMs = 0;
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

  start(timeouts: RequestTimeouts, nowMs: number): void {
    this.#timeouts = timeouts;
    this.#begunMs = nowMs;
    this.#answerableMs = Number.NaN;
    this.#movedMs = Number.NaN;
    this.#schedule(nowMs);
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
    if (this.#left(now) <= 0) this.#request.expired(this.#nearest);
    else this.#schedule(now);
  }

  #schedule(nowMs: number): void {
    this.#wheel.schedule(this, nowMs, this.#left(nowMs));
  }

  /** Milliseconds to the next limit, or to the next look. */
  #left(nowMs: number): number {
    const { requestMs, responseMs, idleMs } = this.#timeouts;
    let left = Number.POSITIVE_INFINITY;
    this.#nearest = 'REQUEST_TIMEOUT';
    if (requestMs !== undefined) left = this.#begunMs + requestMs - nowMs;
    if (responseMs !== undefined) {
      if (Number.isNaN(this.#answerableMs) && this.#request.answerable) this.#answerableMs = nowMs;
      const own = Number.isNaN(this.#answerableMs) ? LOOK_MS : this.#answerableMs + responseMs - nowMs;
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
}
