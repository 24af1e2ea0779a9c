// SPDX-License-Identifier: Apache-2.0
// The part of an exchange that takes its request to an endpoint: asks the routes, picks, waits where nobody is there, gets
// a connection or a stream or the way through a passage, and goes elsewhere as long as nothing was processed.

import type { RequestPolicy, RequestTimeouts } from '#lib/core/request-policy.ts';
import type { LoadEstimate } from '../balance/peak-ewma.ts';
import { chooseEndpoint } from '../balance/choose.ts';
import { pickEndpoint, pickOther } from '../balance/pick.ts';
import {
  FAILURE_IDENTITY_REQUIRED,
  FAILURE_LIMIT,
  FAILURE_LOADSHED,
  FAILURE_NONE,
  FAILURE_ROUTE,
  FAILURE_UPSTREAM_RESET,
} from '../failure.ts';
import type { RoutedRequest } from '../route/routed-request.ts';
import { CarriedRequest } from './carried-request.ts';
import { type EndpointSlot, slotOf } from './endpoint-slot.ts';
import {
  WANT_HTTP1,
  WANT_EITHER,
  WANT_HTTP2,
  PICKED_NONE,
  PICKED_HTTP1,
  PICKED_HTTP2,
  type ExchangeClient,
} from './exchange-client.ts';
import { FarSide } from './far-side.ts';
import { type ClientStream, NOT_RESET } from './http2-client.ts';
import type { ServerContext } from './server-context.ts';
import {
  GRPC_MISSING,
  GRPC_NONE,
  type HttpEndpoint,
  type HttpTarget,
  type ObservedExchange,
  type Passage,
  type Passenger,
  type RequestRouter,
  type Routed,
} from './types.ts';
import { UpstreamConnection } from './upstream-connection.ts';

/** For how long a request that finds no connection goes from endpoint to endpoint: as long as Linkerd's queues wait. */
const MOVING_MS = 3_000;

export abstract class DispatchedRequest extends CarriedRequest implements Passenger {
  /** The identity that the request wants of its endpoint; '': any. */
  requiredIdentity = '';
  /** What the routes say of the present request; null: its target has none. */
  routed: Routed | null = null;
  /** Of the server's side of a passage; set by the client's side before it connects. */
  observedBehind: ObservedExchange | null = null;
  /** How the request reaches the endpoint that was picked, if not over a connection. */
  passage: Passage | null = null;

  protected readonly client: ExchangeClient;
  protected endpoint: HttpEndpoint | null = null;
  protected grpcStatus = GRPC_NONE;
  /** What the request's route asks for. */
  protected timeouts: RequestTimeouts | undefined;
  /** Whether neither first byte nor end of the response's body came yet. */
  protected measuring = false;

  /** Of the connection. */
  readonly #target: HttpTarget;
  /** What is connected to: the endpoint, or the application behind a passage. */
  #via: HttpEndpoint | null = null;
  #slot: EndpointSlot | null = null;
  #load: LoadEstimate | null = null;
  #want = WANT_HTTP1;
  #kind = PICKED_NONE;
  #host: string | null = null;
  #pickedMs = 0;
  /** Counts waits, so that what comes too late is recognised. */
  #serial = 0;

  constructor(context: ServerContext, target: HttpTarget, client: ExchangeClient) {
    super(context);
    this.#target = target;
    this.client = client;
  }

  /** Another request begins. */
  protected clear(grpc: boolean): void {
    this.grpcStatus = grpc ? GRPC_MISSING : GRPC_NONE;
    this.requiredIdentity = '';
    this.observed = null;
    this.observedBehind = null;
    this.passage = null;
    this.routed = null;
    this.routeAnswer = null;
    this.timeouts = undefined;
    this.meter.begin();
    this.requestBytes = 0;
  }

  abstract fail(failure: number, reset?: number): void;
  abstract cut(): void;
  protected abstract attach(upstream: UpstreamConnection): void;
  protected abstract attachStream(stream: ClientStream): void;
  /** Sets the time limits of the attempt that begins. */
  protected abstract limit(timeouts: RequestTimeouts, nowMs: number): void;

  /** Whether the request goes on: where a route answers it, `onFailure` was called. */
  route(router: RequestRouter, request: RoutedRequest): boolean {
    this.routed = router.route(request);
    this.routeAnswer = this.routed.answer;
    if (this.routeAnswer === null) return true;
    this.#answerByRoute(this.context.clock.nowMs());
    return false;
  }

  #answerByRoute(nowMs: number): void {
    this.passage = null;
    this.meter.arrived(this.to.route, nowMs);
    this.fail(FAILURE_ROUTE);
  }

  /** What the route of the present request asks for. */
  get policy(): RequestPolicy | undefined {
    return this.to.policy;
  }

  /** Where the present request goes. */
  protected get to(): HttpTarget {
    return this.routed === null ? this.#target : this.routed.target;
  }

  /** Of where it goes, whatever the request names. */
  get authority(): string {
    return this.to.authority;
  }

  /** Finds an endpoint. PICKED_NONE: `onPicked` or `onFailure` follows, the latter perhaps before this returns. */
  pick(want: number, now: number = this.context.clock.nowMs()): number {
    this.#want = want;
    this.routeAnswer = this.routed?.inject?.() ?? null;
    if (this.routeAnswer === null) return this.#pick(now);
    if (this.timeouts !== undefined) this.limit(this.timeouts, now);
    this.#answerByRoute(now);
    return PICKED_NONE;
  }

  #pick(now: number): number {
    const want = this.#want;
    const target = this.to;
    this.meter.arrived(target.route, now);
    if (target.endpoints.length === 0) {
      if (target.failfast) {
        this.fail(FAILURE_LOADSHED);
        return PICKED_NONE;
      }
      this.meter.waits(now);
      const serial = ++this.#serial;
      target.whenAvailable((failure) => {
        if (serial !== this.#serial) return;
        if (failure !== FAILURE_NONE) {
          this.fail(failure);
          return;
        }
        const kind = this.#pick(this.context.clock.nowMs());
        if (kind !== PICKED_NONE) this.client.onPicked(kind);
      });
      return PICKED_NONE;
    }
    this.meter.attempted(now, this.client.requestDone);
    this.#pickedMs = now;
    if (this.timeouts !== undefined) this.limit(this.timeouts, now);
    const { endpoints } = target;
    const endpoint =
      want === WANT_HTTP1
        ? pickEndpoint(endpoints, now, this.context.random)
        : chooseEndpoint(endpoints, want === WANT_HTTP2, now, this.context);
    this.#dispatch(endpoint, now);
    if (this.#suits(endpoint)) return this.#kind;
    this.fail(FAILURE_IDENTITY_REQUIRED);
    return PICKED_NONE;
  }

  #suits({ identity }: HttpEndpoint): boolean {
    return this.requiredIdentity === '' || this.requiredIdentity === identity;
  }

  #dispatch(endpoint: HttpEndpoint, nowMs: number): void {
    const slot = slotOf(endpoint, nowMs);
    const { passage } = endpoint;
    this.passage = passage;
    this.endpoint = endpoint;
    this.#via = endpoint;
    this.#slot = slot;
    this.#load = slot.load;
    this.dispatchedMs = nowMs;
    this.measuring = true;
    slot.load.started();
    const over2 =
      this.#want === WANT_HTTP2 || (this.#want === WANT_EITHER && passage === null && endpoint.multiplexed);
    this.#kind = over2 ? PICKED_HTTP2 : PICKED_HTTP1;
    endpoint.metrics.requestStarted();
    if (this.observed !== null) this.observed.dispatched(endpoint);
  }

  /** Gets a connection to the endpoint that was picked; `host` is the pool's key, null: one of its own. */
  connect(host: string | null): void {
    this.#host = host;
    const { passage } = this;
    if (passage === null) this.#connect();
    else if (passage.open) this.#enter(passage);
    else {
      const serial = ++this.#serial;
      passage.whenOpen((failure) => {
        if (serial !== this.#serial) return;
        if (failure === FAILURE_NONE) this.#enter(passage);
        else if (failure === FAILURE_LIMIT || !this.client.movable || !this.#move()) this.fail(failure);
      });
    }
  }

  /** As a connection's other end would take the request. */
  #enter(passage: Passage): void {
    this.far ??= new FarSide();
    this.far.enter(passage, this);
    const failure = this.client.judge(passage.gate);
    if (failure !== FAILURE_NONE) {
      this.fail(failure);
      return;
    }
    const { application } = passage;
    this.#via = application;
    this.#slot = slotOf(application, this.dispatchedMs);
    this.far.admitted(passage, this.dispatchedMs, this.client.requestDone, this.observedBehind);
    if (this.requestBytes > 0) this.far.requestPart(this.requestBytes);
    this.#connect();
  }

  #connect(): void {
    const host = this.#host;
    const slot = this.#slot as EndpointSlot;
    if (this.#kind === PICKED_HTTP2) {
      this.connectHttp2();
      return;
    }
    const pooled = host === null ? null : this.context.pool.take(slot, host);
    if (pooled !== null) this.attach(pooled);
    else this.dial();
  }

  protected connectHttp2(): void {
    const { streams } = this.context;
    const slot = this.#slot as EndpointSlot;
    const serial = ++this.#serial;
    const stream = streams.take(slot);
    if (stream !== null) {
      this.attachStream(stream);
      return;
    }
    streams.wait(this.#via as HttpEndpoint, slot, {
      ready: (failure, given) => {
        if (serial !== this.#serial) return;
        if (given !== null) this.attachStream(given);
        else if (failure === FAILURE_LIMIT || !this.#move()) this.fail(failure);
      },
      leaves: () => serial !== this.#serial || this.#move(),
    });
  }

  /** Another endpoint for a request that got no stream, or whose stream did nothing; null if there is none. */
  #other(nowMs: number): HttpEndpoint | null {
    const { endpoints } = this.to;
    const http2 = this.#want === WANT_HTTP2;
    // What was prepared for HTTP/2 stays with it; what did not get into a passage may be prepared anew.
    const anyhow = http2 || this.passage !== null;
    const able = endpoints.filter(
      (endpoint) => (anyhow || (endpoint.multiplexed && endpoint.passage === null)) && this.#suits(endpoint),
    );
    return pickOther(able, this.endpoint as HttpEndpoint, http2, nowMs, this.context.random);
  }

  /** Gives up waiting for a connection to the present endpoint, if there is another one. */
  #move(): boolean {
    // There is one application behind a passage.
    if (this.far?.inside === true) return false;
    const now = this.context.clock.nowMs();
    const other = now - this.#pickedMs < MOVING_MS ? this.#other(now) : null;
    if (other === null) return false;
    this.#return(now, NOT_RESET);
    this.#goOn(other, now);
    return true;
  }

  #goOn(endpoint: HttpEndpoint, nowMs: number): void {
    const before = this.passage;
    this.#dispatch(endpoint, nowMs);
    if (before === null && this.passage === null) this.connectHttp2();
    else this.client.onPicked(this.#kind);
  }

  /** The present endpoint did nothing with the request. */
  #return(nowMs: number, reset: number): void {
    const { metrics } = this.endpoint as HttpEndpoint;
    if (this.measuring) this.unload(nowMs);
    if (reset === NOT_RESET) {
      metrics.requestReturned();
      return;
    }
    metrics.responseReset(0, reset);
    const { grpcStatus } = this;
    const failure = FAILURE_UPSTREAM_RESET;
    this.meter.attemptEnded({ atMs: nowMs, status: 0, failure, grpcStatus, reset, started: false });
    this.meter.attempted(nowMs, this.client.requestDone);
  }

  protected dial(): void {
    const serial = ++this.#serial;
    const host = this.#host;
    const context = this.context;
    const endpoint = this.#via as HttpEndpoint;
    const slot = this.#slot as EndpointSlot;
    endpoint.connect(false, (failure, source) => {
      if (source === null) {
        if (serial === this.#serial) this.fail(failure);
        return;
      }
      if (serial === this.#serial) {
        this.attach(new UpstreamConnection(context, slot, host, source));
      } else if (host === null) {
        source.socket.destroy();
      } else {
        // The client left meanwhile: the next request will be glad of the connection.
        new UpstreamConnection(context, slot, host, source).release(true);
      }
    });
  }

  /** The endpoint has begun with its answer, or will give none; milliseconds since it got the request. */
  protected unload(nowMs: number): number {
    this.measuring = false;
    const latency = nowMs - this.dispatchedMs;
    (this.#load as LoadEstimate).finished(nowMs, latency);
    return latency;
  }

  /** The endpoint did nothing with the request and resets its stream: another gets it, or the same again. */
  protected goElsewhere(nowMs: number, reset: number): void {
    this.#return(nowMs, reset);
    this.#goOn(this.#other(nowMs) ?? (this.endpoint as HttpEndpoint), nowMs);
  }

  /** Once more from the start. */
  protected pickAgain(): void {
    const kind = this.pick(this.#want);
    if (kind !== PICKED_NONE) this.client.onPicked(kind);
  }

  /** Lets go of the connection, and of whatever is waited for. */
  protected release(reusable: boolean): void {
    this.#serial++;
    const upstream = this.http1;
    this.http1 = null;
    upstream?.release(reusable);
    const stream = this.http2;
    this.http2 = null;
    stream?.release();
  }
}
