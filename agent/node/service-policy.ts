// SPDX-License-Identifier: Apache-2.0
// What the clients of a service's port shall do: limits, breaker, routes. Our destination says all but the routes in the
// headers of Get, and whether there are any; a stock Linkerd says everything in OutboundPolicies, and there always is one.

import { type Metadata, status } from '@grpc/grpc-js';
import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import { CLIENT_POLICY_HEADER, type ClientPolicy, decodeClientPolicy } from '#lib/proto/client-policy.ts';
import { durationToMs } from '#lib/proto/durations.ts';
import type { OutboundPoliciesClient, OutboundPolicy } from '#lib/proto/gen/linkerd/outbound.ts';
import type { ClientRoutes, FailureAccrual } from '../proxy/model.ts';
import { clientRoutes } from './route-conversion.ts';
import { openRetryingStream, type RetryingStream } from './retrying-stream.ts';

export interface ServicePolicyOptions {
  readonly policies: OutboundPoliciesClient;
  /** Whether they are a stock Linkerd's. */
  readonly stock: boolean;
  readonly path: string;
  readonly contextToken: string;
  /** Something changed; may be called several times a tick. */
  readonly changed: () => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export class ServicePolicy {
  /** Stays, as the others do, while whoever said it is away. */
  routes: ClientRoutes | undefined;
  /** What the service asks of its clients. */
  limits: ClientPolicy = {};
  /** Nothing may be detected, whatever the profile says. */
  opaque = false;
  readonly #options: ServicePolicyOptions;
  #watch: RetryingStream | undefined;
  #answered = false;

  constructor(options: ServicePolicyOptions) {
    this.#options = options;
    if (options.stock) this.#watch = this.#open();
  }

  /** Whether all of it is known. */
  get complete(): boolean {
    return this.#options.stock ? this.#answered : this.limits.routed !== true || this.routes !== undefined;
  }

  /** Of an answer to Get. */
  headers(headers: Metadata): void {
    if (this.#options.stock) return;
    const limits = decodeClientPolicy(String(headers.get(CLIENT_POLICY_HEADER)[0] ?? ''));
    if (JSON.stringify(limits) === JSON.stringify(this.limits)) return;
    this.limits = limits;
    if (limits.routed !== true) {
      this.#watch?.close();
      this.#watch = undefined;
      this.routes = undefined;
    } else this.#watch ??= this.#open();
    this.#options.changed();
  }

  close(): void {
    this.#watch?.close();
  }

  #open(): RetryingStream {
    const { policies, path, contextToken, clock, random } = this.#options;
    const target = { $case: 'authority', authority: path } as const;
    return openRetryingStream<OutboundPolicy>({
      open: () => policies.watch({ sourceWorkload: contextToken, target }),
      onMessage: (policy) => this.#told(policy),
      onError: (code, details) => this.#ended(code, details),
      clock,
      random,
    });
  }

  #told(policy: OutboundPolicy): void {
    const { stock, log, path, changed } = this.#options;
    this.#answered = true;
    this.routes = clientRoutes(policy);
    if (stock) {
      this.opaque = policy.protocol?.kind?.$case === 'opaque';
      if (this.opaque) this.routes = undefined;
      const accrual = accrualOf(policy);
      this.limits = accrual === undefined ? {} : { accrual };
    }
    const { invalid } = this.routes ?? {};
    if (invalid !== undefined) {
      log.error(
        { path, reason: invalid },
        'the routes of a service cannot be used; its requests are refused',
      );
    }
    changed();
  }

  #ended(code: status, details: string): void {
    const { stock, log, path, changed } = this.#options;
    log.debug({ path, code: status[code], details }, 'policy stream ended; the last known one stays');
    // A definite answer: there is no policy (any more), and everything goes to the service itself.
    if (!stock || (code !== status.NOT_FOUND && code !== status.UNIMPLEMENTED)) return;
    this.#answered = true;
    this.routes = undefined;
    this.limits = {};
    this.opaque = false;
    changed();
  }
}

/** Undefined: none, or one of a kind that is not known here. */
function accrualOf({ protocol }: OutboundPolicy): FailureAccrual | undefined {
  const consecutive = accrualMessage(protocol?.kind)?.kind?.consecutiveFailures;
  const { minBackoff, maxBackoff, jitterRatio } = consecutive?.backoff ?? {};
  if (consecutive === undefined || minBackoff === undefined || maxBackoff === undefined) return undefined;
  const minPenaltyMs = durationToMs(minBackoff);
  const maxPenaltyMs = durationToMs(maxBackoff);
  const { maxFailures } = consecutive;
  if (maxFailures === 0 || minPenaltyMs <= 0 || maxPenaltyMs < minPenaltyMs) return undefined;
  return { maxFailures, minPenaltyMs, maxPenaltyMs, jitterRatio: Math.max(0, jitterRatio ?? 0) };
}

function accrualMessage(kind: NonNullable<OutboundPolicy['protocol']>['kind']) {
  switch (kind?.$case) {
    case 'detect':
      return kind.detect.http1?.failureAccrual;
    case 'http1':
      return kind.http1.failureAccrual;
    case 'http2':
      return kind.http2.failureAccrual;
    case 'grpc':
      return kind.grpc.failureAccrual;
    case 'opaque':
    case undefined:
      return undefined;
  }
}
