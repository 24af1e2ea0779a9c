// SPDX-License-Identifier: Apache-2.0
// The attempts at one request whose route retries: which ends of one count for nothing, how many there may be, and the
// pause before the next. Made for a request only where its route, or the request itself, asks for retries.

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import type { RetryPolicy } from '#lib/core/request-policy.ts';
import {
  FAILURE_ATTEMPT_TIMEOUT,
  FAILURE_FAILFAST,
  FAILURE_NONE,
  FAILURE_ROUTE,
  isOfEndpoint,
} from '../failure.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { ExchangeClient } from './exchange-client.ts';
import { NOT_RESET } from './http2-client.ts';
import type { RequestEnd } from './request-end.ts';
import { GRPC_NONE, type HttpTarget } from './types.ts';
import { WithheldResponse } from './withheld-response.ts';

/** As Linkerd's; up to as much again is added at random. */
const PAUSE_MIN_MS = 25;
const PAUSE_MAX_MS = 250;
const DOUBLINGS_MAX = 4;

/** The exchange whose request it is. */
export interface AttemptHost {
  /** Whether all of the request has come and is sent. */
  readonly sent: boolean;
  /** Counts the end of the attempt. */
  endAttempt(status: number, failure: number, grpcStatus: number, reset: number): void;
}

export class Attempts {
  /** Of the attempt under way, from 1. */
  number = 1;
  /** Of an HTTP/2 response of which its client sees nothing yet. */
  withheld: WithheldResponse | null = null;
  readonly #policy: RetryPolicy;
  readonly #host: AttemptHost;
  readonly #client: Pick<ExchangeClient, 'repeatable'>;
  readonly #target: HttpTarget;
  #pause: Timer | null = null;
  /** What comes of the present attempt is its client's. */
  #decided = false;

  constructor(
    policy: RetryPolicy,
    host: AttemptHost,
    client: Pick<ExchangeClient, 'repeatable'>,
    target: HttpTarget,
  ) {
    this.#policy = policy;
    this.#host = host;
    this.#client = client;
    this.#target = target;
  }

  /** How long this one may wait for the response's head; the last may wait as long as the request. */
  get timeoutMs(): number | undefined {
    return this.#last ? undefined : this.#policy.timeoutMs;
  }

  get #last(): boolean {
    return this.number > this.#policy.maxRetries;
  }

  /** Whether another attempt follows an answer. */
  follows(status: number, grpcStatus: number): boolean {
    if (this.#decided) return false;
    if (!this.#coversStatus(status) && !this.#policy.grpcCodes.includes(grpcStatus)) {
      this.settle();
      return false;
    }
    // Some of the request may still be on its way to who has answered already.
    if (this.#host.sent) return this.#ends(status, FAILURE_NONE, grpcStatus, NOT_RESET);
    this.#decided = true;
    return false;
  }

  /**
   * Whether another attempt follows a failure, which the client would be told with the end's `status`, or of gRPC
   * `grpcStatus`. What fails at the endpoint, by a filter of the route, or `behind` a passage, is a response, and covered as
   * such; `refused`: the endpoint did nothing with the request.
   */
  followsFailure(
    { failure, status, grpcStatus, reset }: Omit<RequestEnd, 'atMs' | 'started'>,
    behind: boolean,
    refused: boolean,
  ): boolean {
    if (this.#decided || this.withheld !== null) return false;
    const grpc = grpcStatus !== GRPC_NONE;
    let covered = refused || failure === FAILURE_FAILFAST || failure === FAILURE_ATTEMPT_TIMEOUT;
    if (!covered && reset === NOT_RESET && (behind || failure === FAILURE_ROUTE || isOfEndpoint(failure))) {
      covered = grpc ? this.#policy.grpcCodes.includes(grpcStatus) : this.#coversStatus(status);
    }
    if (!covered) return false;
    return this.#ends(reset === NOT_RESET ? status : 0, failure, grpcStatus, reset);
  }

  /** Whether a response's head waits for what comes after it: gRPC may tell a status in trailers. */
  withholds(head: HeaderList): boolean {
    const { sent } = this.#host;
    if (this.#decided || !sent || this.#policy.grpcCodes.length === 0) return false;
    if (this.#coversStatus(head.status)) return false;
    this.withheld = new WithheldResponse(head);
    return true;
  }

  /** The client gets what came of this attempt, and it is what the route wants. */
  settle(): void {
    if (this.#decided) return;
    this.#decided = true;
    if (this.number > 1) this.#target.route?.retries?.succeeded();
  }

  /**
   * Whether a part of a body whose head is withheld is kept too: trailers decide if they come right after the first one,
   * else the head did.
   */
  keeps(buffer: Buffer, start: number, end: number, passOn: () => void): boolean {
    const { withheld } = this;
    if (withheld === null) return false;
    if (!withheld.keep(buffer, start, end)) {
      passOn();
      return false;
    }
    setImmediate(() => {
      if (this.withheld === withheld) passOn();
    });
    return true;
  }

  /** What was withheld is the client's now. */
  release(): WithheldResponse | null {
    const { withheld } = this;
    this.withheld = null;
    if (withheld !== null) this.settle();
    return withheld;
  }

  /** Calls when the next attempt shall be made. */
  pause(clock: Clock, random: Random, next: () => void): void {
    this.withheld = null;
    const base = Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** Math.min(this.number - 1, DOUBLINGS_MAX));
    this.#pause = clock.after(Math.min(PAUSE_MAX_MS, base + random() * base), () => {
      this.#pause = null;
      this.number++;
      this.#target.route?.retries?.retried();
      next();
    });
  }

  /** The request is over. */
  cancel(): void {
    this.#pause?.cancel();
    this.#pause = null;
  }

  #coversStatus(status: number): boolean {
    return this.#policy.statuses.some(([first, last]) => status >= first && status <= last);
  }

  /** Ends the attempt, if there can be another one. */
  #ends(status: number, failure: number, grpcStatus: number, reset: number): boolean {
    const retries = this.#target.route?.retries;
    this.#decided = true;
    if (this.#last) {
      retries?.limitExceeded();
      return false;
    }
    if (!this.#client.repeatable) return false;
    // First: it may have been the failure that shuts out the last endpoint.
    this.#host.endAttempt(status, failure, grpcStatus, reset);
    if (this.#target.endpoints.length === 0) {
      retries?.overflowed();
      return false;
    }
    this.#decided = false;
    return true;
  }
}
