// SPDX-License-Identifier: Apache-2.0
// One request and its response, between the side of its client and the side of its endpoint, whatever each of them
// speaks: picks the endpoint, gets a connection or a stream, sends again what was provably not processed, measures,
// and says what failed. Bytes and heads pass through here only as calls. An HTTP/1 connection keeps one for all its
// requests, so everything is a kept field; nothing is allocated per request but what a dial needs.
//
//   pick ──► connect ──► onHttp1 / onHttp2 of the client ──► heads, body ──► onEnd
//     └─ nobody there: waits, then onPicked      └──── failure ──► onFailure, answered or reset by the client's side
//
// An endpoint of this node may have a passage: then `connect` lets the request into the server's side right here (its
// policy, its counts, its connections to the application), and one exchange is both sides'.

import type { RequestTimeouts } from '#lib/core/request-policy.ts';
import type { LoadEstimate } from '../balance/peak-ewma.ts';
import { isConnected, pickEndpoint, pickOther } from '../balance/pick.ts';
import {
  FAILURE_IDENTITY_REQUIRED,
  FAILURE_LIMIT,
  FAILURE_LOADSHED,
  FAILURE_NONE,
  FAILURE_RESPONSE_TIMEOUT,
  FAILURE_ROUTE,
  FAILURE_UPSTREAM_PROTOCOL,
  FAILURE_UPSTREAM_RESET,
  type Failure,
  failures,
  isBehind,
} from '../failure.ts';
import { type Head, INCOMPLETE } from '../http1/head.ts';
import { HEAD_BYTES_MAX } from '../http1/limits.ts';
import type { HeaderList } from '../http2/hpack/header-list.ts';
import { FLAG_PROXY_RESPONSE, NAME_GRPC_STATUS } from '../http2/hpack/names.ts';
import type { RoutedRequest } from '../route/routed-request.ts';
import { type EndpointSlot, slotOf } from './endpoint-slot.ts';
import { grpcStatusOf } from './error-response.ts';
import { FarSide } from './far-side.ts';
import { type ClientStream, NOT_RESET, type StreamHolder } from './http2-client.ts';
import { RequestTimer, type TimedRequest, type TimeLimit } from './request-timer.ts';
import { RouteMeter } from './route-meter.ts';
import type { ServerContext } from './server-context.ts';
import {
  GRPC_MISSING,
  GRPC_NONE,
  type HttpEndpoint,
  type HttpTarget,
  type ObservedExchange,
  type Passage,
  type Passenger,
  type RequestGate,
  type RequestRouter,
  type RouteAnswer,
  type Routed,
} from './types.ts';
import { UpstreamConnection, type UpstreamHolder } from './upstream-connection.ts';

/** What the request may travel over: its own HTTP/1 connection, HTTP/2 if the endpoint has it, or only HTTP/2. */
export const WANT_HTTP1 = 0;
export const WANT_EITHER = 1;
export const WANT_HTTP2 = 2;

/** Nobody yet, or the request has failed already. */
export const PICKED_NONE = 0;
export const PICKED_HTTP1 = 1;
export const PICKED_HTTP2 = 2;

/** How often a request is sent again that no endpoint has processed. */
const ATTEMPTS_MAX = 3;
/** For how long a request that finds no connection goes from endpoint to endpoint: as long as Linkerd's queues wait. */
const MOVING_MS = 3_000;
/** gRPC tells errors in an answer that is well. */
const GRPC_HTTP_STATUS = 200;
/** Codes above are nobody's. */
const GRPC_STATUS_MAX = 16;

/** The client's side. */
export interface ExchangeClient {
  /** There is an endpoint, after waiting: go on as after `pick`. */
  onPicked(kind: number): void;
  /** What the gate says to the request. */
  judge(gate: RequestGate): number;
  /** Send the request; the first time, or again on another connection. */
  onHttp1(upstream: UpstreamConnection): void;
  onHttp2(stream: ClientStream): void;
  /** Whether the request can be given to another stream from its beginning. */
  readonly repeatable: boolean;
  /** Whether the request is HTTP/2 from its client on. */
  readonly http2: boolean;
  /** Whether all of the request has come. */
  readonly requestDone: boolean;
  /** Everything that `onHttp1` and later calls wrote: nothing of it left, and `onHttp1` follows again. */
  onTakenBack(text: string): void;
  /** An interim response that ends at `end`. */
  onInterim1(head: Head, buffer: Buffer, end: number): void;
  /** A final one; `buffer[bodyStart, end)` came with it. The client starts the body's decoder. */
  onHead1(upstream: UpstreamConnection, head: Head, buffer: Buffer, bodyStart: number, end: number): void;
  onInterim2(list: HeaderList): void;
  onHead2(list: HeaderList, endStream: boolean): void;
  onResponsePart(buffer: Buffer, start: number, end: number): void;
  /** A trailer field, from HTTP/1 when its decoder gives the payload only. */
  onTrailerLine(buffer: Buffer, start: number, end: number): void;
  /** A trailer section from HTTP/2; `onEnd` follows. */
  onTrailers(list: HeaderList): void;
  onEnd(): void;
  onTunnelBytes(buffer: Buffer, end: number): void;
  onTunnelEnd(): void;
  onTunnelClosed(failed: boolean): void;
  /** `started`: part of the response is out; `reset`: with what the endpoint reset its stream, for HTTP/2. */
  onFailure(failure: number, started: boolean, reset: number): void;
  /** The endpoint's side takes no more of the request, or takes it again. */
  onUpstreamBlocked(): void;
  onUpstreamDrain(): void;
}

export class Exchange implements UpstreamHolder, StreamHolder, TimedRequest, Passenger {
  /** Carries the request now; at most one of the two. */
  http1: UpstreamConnection | null = null;
  http2: ClientStream | null = null;
  status = 0;
  /** Whether the head of a final response was passed on. */
  started = false;
  /** Whether the endpoint keeps its HTTP/1 connection open after this response. */
  reusable = false;
  tunnel = false;
  /** The endpoint's proxy asks that the client connects anew. */
  clientEnds = false;
  /** The identity that the request wants of its endpoint; '': any. */
  requiredIdentity = '';
  /** What the routes say of the present request; null: its target has none. */
  routed: Routed | null = null;
  /** Whether neither first byte nor end of the response's body came yet. */
  measuring = false;
  /** Null as long as nobody listens; set by the client's side after `begin`. */
  observed: ObservedExchange | null = null;
  /** Of the server's side of a passage; set by the client's side before it connects. */
  observedBehind: ObservedExchange | null = null;
  /** How the request reaches the endpoint that was picked, if not over a connection. */
  passage: Passage | null = null;
  /** Of a failure: the server's side of a passage failed, and answers as it would over a connection. */
  behind = false;

  readonly #context: ServerContext;
  /** Of the connection. */
  readonly #target: HttpTarget;
  readonly #client: ExchangeClient;
  /** Drop what only our own side's proxy may say to the client. */
  readonly #strips: boolean;
  #endpoint: HttpEndpoint | null = null;
  /** What is connected to: the endpoint, or the application behind a passage. */
  #via: HttpEndpoint | null = null;
  /** The server's side of passages; made for the first. */
  #far: FarSide | null = null;
  #slot: EndpointSlot | null = null;
  #load: LoadEstimate | null = null;
  #want = WANT_HTTP1;
  #kind = PICKED_NONE;
  #host: string | null = null;
  #pickedMs = 0;
  /** To the present endpoint. */
  #dispatchedMs = 0;
  #attempts = 0;
  #grpcStatus = GRPC_NONE;
  /** Made for the first request that has a limit. */
  #timer: RequestTimer | null = null;
  readonly #meter = new RouteMeter();
  /** Counts waits, so that what comes too late is recognised. */
  #serial = 0;

  constructor(context: ServerContext, target: HttpTarget, strips: boolean, client: ExchangeClient) {
    this.#context = context;
    this.#target = target;
    this.#strips = strips;
    this.#client = client;
  }

  /** Before the request is known to be well. */
  begin(grpc = false): void {
    this.#grpcStatus = grpc ? GRPC_MISSING : GRPC_NONE;
    this.status = 0;
    this.started = false;
    this.tunnel = false;
    this.clientEnds = false;
    this.requiredIdentity = '';
    this.observed = null;
    this.observedBehind = null;
    this.passage = null;
    this.#attempts = 0;
    this.routed = null;
    this.#meter.begin();
  }

  /** Whether the request goes on: where a route answers it, `onFailure` was called. */
  route(router: RequestRouter, request: RoutedRequest): boolean {
    this.routed = router.route(request);
    if (this.routed.answer === null) return true;
    this.passage = null;
    this.#meter.arrived(this.routed.target.route, this.#context.clock.nowMs());
    this.fail(FAILURE_ROUTE);
    return false;
  }

  /** Where the present request goes. */
  get #to(): HttpTarget {
    return this.routed === null ? this.#target : this.routed.target;
  }

  /** Finds an endpoint. PICKED_NONE: `onPicked` or `onFailure` follows, the latter perhaps before this returns. */
  pick(want: number): number {
    const target = this.#to;
    const now = this.#context.clock.nowMs();
    this.#meter.arrived(target.route, now);
    if (target.endpoints.length === 0) {
      if (target.failfast) {
        this.fail(FAILURE_LOADSHED);
        return PICKED_NONE;
      }
      this.#meter.waits(now);
      const serial = ++this.#serial;
      target.whenAvailable((failure) => {
        if (serial !== this.#serial) return;
        if (failure !== FAILURE_NONE) {
          this.fail(failure);
          return;
        }
        const kind = this.pick(want);
        if (kind !== PICKED_NONE) this.#client.onPicked(kind);
      });
      return PICKED_NONE;
    }
    this.#meter.attempted(now, this.#client.requestDone);
    this.#want = want;
    this.#pickedMs = now;
    const timeouts = target.policy?.timeouts;
    if (timeouts !== undefined) this.#limit(timeouts, now);
    const endpoint = this.#choose(target.endpoints, now);
    this.#dispatch(endpoint, now);
    if (this.#suits(endpoint)) return this.#kind;
    this.fail(FAILURE_IDENTITY_REQUIRED);
    return PICKED_NONE;
  }

  #choose(endpoints: readonly HttpEndpoint[], nowMs: number): HttpEndpoint {
    const { random, streams } = this.#context;
    const picked = pickEndpoint(endpoints, nowMs, random);
    const http2 = this.#want === WANT_HTTP2;
    if (this.#want === WANT_HTTP1 || endpoints.length === 1 || isConnected(picked, http2)) return picked;
    const other = pickOther(endpoints, picked, http2, nowMs, random);
    if (other === null) return picked;
    const slot = slotOf(picked, nowMs);
    if (!isConnected(other, http2)) return slot.shunnedUntilMs <= nowMs ? picked : other;
    streams.prepare(picked, slot);
    return other;
  }

  #suits({ identity }: HttpEndpoint): boolean {
    return this.requiredIdentity === '' || this.requiredIdentity === identity;
  }

  #dispatch(endpoint: HttpEndpoint, nowMs: number): void {
    const slot = slotOf(endpoint, nowMs);
    const { passage } = endpoint;
    this.passage = passage;
    this.#endpoint = endpoint;
    this.#via = endpoint;
    this.#slot = slot;
    this.#load = slot.load;
    this.#dispatchedMs = nowMs;
    this.measuring = true;
    slot.load.started();
    const over2 =
      this.#want === WANT_HTTP2 || (this.#want === WANT_EITHER && passage === null && endpoint.multiplexed);
    this.#kind = over2 ? PICKED_HTTP2 : PICKED_HTTP1;
    endpoint.metrics.requestStarted();
    if (this.observed !== null) this.observed.dispatched(endpoint);
  }

  #limit(timeouts: RequestTimeouts, nowMs: number): void {
    this.#timer ??= new RequestTimer(this.#context.wheel, this.#context.clock, this);
    this.#timer.start(timeouts, nowMs);
  }

  get answerable(): boolean {
    return this.started || this.#client.requestDone;
  }

  expired(limit: TimeLimit): void {
    this.#meter.limit = limit;
    this.fail(FAILURE_RESPONSE_TIMEOUT);
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
        else this.fail(failure);
      });
    }
  }

  /** As a connection's other end would take the request. */
  #enter(passage: Passage): void {
    this.#far ??= new FarSide();
    this.#far.enter(passage, this);
    const failure = this.#client.judge(passage.gate);
    if (failure !== FAILURE_NONE) {
      this.fail(failure);
      return;
    }
    const { application } = passage;
    this.#via = application;
    this.#slot = slotOf(application, this.#dispatchedMs);
    this.#far.admitted(passage, this.#dispatchedMs, this.#client.requestDone, this.observedBehind);
    this.#connect();
  }

  cut(): void {
    if (this.tunnel) {
      this.leaveTunnel(true);
      this.#client.onTunnelClosed(true);
      return;
    }
    this.#far?.abandoned(this.#context.clock.nowMs(), this.status, this.started);
    this.#far?.leave(this);
    this.fail(FAILURE_UPSTREAM_RESET);
  }

  #connect(): void {
    const host = this.#host;
    const slot = this.#slot as EndpointSlot;
    if (this.#kind === PICKED_HTTP2) {
      this.#connectHttp2();
      return;
    }
    const pooled = host === null ? null : this.#context.pool.take(slot, host);
    if (pooled !== null) this.#attach(pooled);
    else this.#dial();
  }

  #connectHttp2(): void {
    const { streams } = this.#context;
    const slot = this.#slot as EndpointSlot;
    const serial = ++this.#serial;
    const stream = streams.take(slot);
    if (stream !== null) {
      this.#attachStream(stream);
      return;
    }
    streams.wait(this.#via as HttpEndpoint, slot, {
      ready: (failure, given) => {
        if (serial !== this.#serial) return;
        if (given !== null) this.#attachStream(given);
        else if (failure === FAILURE_LIMIT || !this.#move()) this.fail(failure);
      },
      leaves: () => serial !== this.#serial || this.#move(),
    });
  }

  #attachStream(stream: ClientStream): void {
    this.http2 = stream;
    stream.holder = this;
    this.#client.onHttp2(stream);
  }

  /** Another endpoint for a request that got no stream, or whose stream did nothing; null if there is none. */
  #other(nowMs: number): HttpEndpoint | null {
    const { endpoints } = this.#to;
    const http2 = this.#want === WANT_HTTP2;
    // What was prepared for HTTP/2 stays with it.
    const able = endpoints.filter(
      (endpoint) => (http2 || (endpoint.multiplexed && endpoint.passage === null)) && this.#suits(endpoint),
    );
    return pickOther(able, this.#endpoint as HttpEndpoint, http2, nowMs, this.#context.random);
  }

  /** Gives up waiting for a connection to the present endpoint, if there is another one. */
  #move(): boolean {
    // There is one application behind a passage.
    if (this.#far?.inside === true) return false;
    const now = this.#context.clock.nowMs();
    const other = now - this.#pickedMs < MOVING_MS ? this.#other(now) : null;
    if (other === null) return false;
    this.#return(now, NOT_RESET);
    this.#goOn(other, now);
    return true;
  }

  #goOn(endpoint: HttpEndpoint, nowMs: number): void {
    this.#dispatch(endpoint, nowMs);
    if (this.passage === null) this.#connectHttp2();
    else this.#client.onPicked(this.#kind);
  }

  /** The present endpoint did nothing with the request. */
  #return(nowMs: number, reset: number): void {
    const { metrics } = this.#endpoint as HttpEndpoint;
    if (this.measuring) {
      this.measuring = false;
      (this.#load as LoadEstimate).finished(nowMs, nowMs - this.#dispatchedMs);
    }
    if (reset === NOT_RESET) {
      metrics.requestReturned();
      return;
    }
    metrics.responseReset(0, reset);
    this.#meter.attemptEnded(nowMs, 0, FAILURE_UPSTREAM_RESET, this.#grpcStatus, reset, false);
    this.#meter.attempted(nowMs, this.#client.requestDone);
  }

  #dial(): void {
    const serial = ++this.#serial;
    const host = this.#host;
    const context = this.#context;
    const endpoint = this.#via as HttpEndpoint;
    const slot = this.#slot as EndpointSlot;
    endpoint.connect(false, (failure, source) => {
      if (source === null) {
        if (serial === this.#serial) this.fail(failure);
        return;
      }
      if (serial === this.#serial) {
        this.#attach(new UpstreamConnection(context, slot, host, source));
      } else if (host === null) {
        source.socket.destroy();
      } else {
        // The client left meanwhile: the next request will be glad of the connection.
        new UpstreamConnection(context, slot, host, source).release(true);
      }
    });
  }

  #attach(upstream: UpstreamConnection): void {
    this.http1 = upstream;
    upstream.begin(this);
    this.#client.onHttp1(upstream);
  }

  // ---- towards the endpoint

  /** Whether the endpoint's side takes no more of the request now. */
  get blocked(): boolean {
    if (this.http1 !== null) return this.http1.out.blocked;
    return this.http2 !== null && this.http2.blocked;
  }

  /** Part of the request's body passes. */
  requestPart(bytes: number): void {
    this.#meter.requestPart(bytes);
    this.#far?.requestPart(bytes);
  }

  /** All of the request has come. */
  requestEnded(): void {
    const now = this.connected ? this.#context.clock.nowMs() : this.#dispatchedMs;
    this.#meter.flushed(now);
    this.#far?.requestEnded(now);
  }

  /** Part of the response's body passes that came with its head. */
  responsePart(bytes: number): void {
    this.#meter.responsePart(bytes);
    this.#far?.responsePart(bytes);
    if (this.observed !== null) this.observed.passed(bytes);
  }

  get connected(): boolean {
    return this.http1 !== null || this.http2 !== null;
  }

  /** The client takes no more of the response, or takes it again. */
  pause(): void {
    this.http1?.pause();
    this.http2?.pause();
  }

  resume(): void {
    this.http1?.resume();
    this.http2?.resume();
  }

  // ---- an HTTP/1 endpoint

  onHeadBytes(buffer: Buffer, end: number): void {
    const upstream = this.http1 as UpstreamConnection;
    const head = this.#context.responseHead;
    let at = 0;
    while (at < end) {
      const next = head.parseResponse(buffer, at, end, this.#strips);
      if (next === INCOMPLETE && end - at <= HEAD_BYTES_MAX) {
        upstream.keep(buffer, at, end);
        return;
      }
      if (next <= 0) {
        this.fail(FAILURE_UPSTREAM_PROTOCOL);
        return;
      }
      if (head.status >= 200 || head.status === 101) {
        if (head.proxyErrorField >= 0) this.#peerError(head.value(buffer, head.proxyErrorField));
        if (head.proxyCloseField >= 0) this.#peerCloses(head.value(buffer, head.proxyCloseField));
        if (this.observed !== null) this.observed.answeredHttp1(head, buffer);
        this.#far?.observed?.answeredHttp1(head, buffer);
        this.#client.onHead1(upstream, head, buffer, next, end);
        return;
      }
      // Interim responses (RFC 9110 15.2) travel on, so that `100 Continue` comes from who will read the body.
      head.dropContentLength();
      head.dropTransferEncoding();
      this.#client.onInterim1(head, buffer, next);
      at = next;
    }
  }

  /** What another proxy tells this one stays here; people find it in the log. */
  #peerError(error: string): void {
    const endpoint = this.#endpoint?.name;
    this.#context.log.info({ endpoint, error }, 'the proxy of an endpoint answered in its place');
  }

  #peerCloses(value: string): void {
    this.clientEnds = value === 'close' && this.#endpoint?.endsClients === true;
  }

  onResponseBody(buffer: Buffer, start: number, end: number): void {
    if (end === start) return;
    if (this.measuring) this.measured();
    this.#timer?.moved();
    this.responsePart(end - start);
    this.#client.onResponsePart(buffer, start, end);
  }

  onResponseTrailer(buffer: Buffer, start: number, end: number): void {
    if (this.observed !== null) this.observed.trailer(buffer, start, end);
    this.#far?.observed?.trailer(buffer, start, end);
    this.#client.onTrailerLine(buffer, start, end);
  }

  /** The response is complete; `clean`: nothing came after it. */
  onResponseEnd(clean: boolean): void {
    this.#answered();
    const upstream = this.http1;
    this.http1 = null;
    upstream?.release(clean && this.reusable && this.#client.requestDone);
    this.#client.onEnd();
  }

  onResponseInvalid(): void {
    this.fail(FAILURE_UPSTREAM_PROTOCOL);
  }

  onTunnelBytes(buffer: Buffer, end: number): void {
    this.#client.onTunnelBytes(buffer, end);
  }

  onUpstreamEnd(): void {
    const upstream = this.http1;
    if (upstream === null) return;
    if (this.tunnel) this.#client.onTunnelEnd();
    else if (this.started && upstream.body.untilClose) this.onResponseEnd(false);
    else this.#onLost(upstream);
  }

  onUpstreamClosed(): void {
    const upstream = this.http1;
    if (upstream === null) return;
    if (this.tunnel) {
      this.http1 = null;
      this.#far?.leave(this);
      this.#client.onTunnelClosed(upstream.failed);
    } else {
      this.#onLost(upstream);
    }
  }

  #onLost(upstream: UpstreamConnection): void {
    const unwritten = upstream.reused && !this.started ? upstream.out.unwritten() : null;
    if (unwritten === null) {
      this.fail(FAILURE_UPSTREAM_RESET);
      return;
    }
    // Nothing of the request was written: it cannot have been processed.
    this.http1 = null;
    upstream.release(false);
    this.#client.onTakenBack(unwritten);
    this.#dial();
  }

  onUpstreamBlocked(): void {
    this.#client.onUpstreamBlocked();
  }

  onUpstreamDrain(): void {
    this.#client.onUpstreamDrain();
  }

  /** A 101 or a 2xx to CONNECT was passed on: this was the response. */
  tunnelled(): void {
    this.tunnel = true;
    this.#answered();
  }

  /** The client's end of the tunnel closed; `failed`: by an error, which the endpoint must see too. */
  leaveTunnel(failed: boolean): void {
    const upstream = this.http1;
    this.http1 = null;
    this.#far?.leave(this);
    if (failed) upstream?.reset();
    upstream?.release(false);
  }

  // ---- an HTTP/2 endpoint

  onStreamHead(list: HeaderList, endStream: boolean): void {
    if (this.#strips && (list.flags & FLAG_PROXY_RESPONSE) !== 0) {
      const error = list.get('l5d-proxy-error');
      if (error !== null) this.#peerError(error.value);
      this.#peerCloses(list.get('l5d-proxy-connection')?.value ?? '');
      list.drop(FLAG_PROXY_RESPONSE);
    }
    if (list.status < 200) {
      this.#client.onInterim2(list);
      return;
    }
    this.#classify(list);
    this.status = list.status;
    this.started = true;
    if (this.observed !== null) this.observed.answeredHttp2(list);
    this.#far?.observed?.answeredHttp2(list);
    this.#client.onHead2(list, endStream);
  }

  #classify(list: HeaderList): void {
    if (this.#grpcStatus === GRPC_NONE) return;
    const status = Number(list.find(NAME_GRPC_STATUS)?.value ?? Number.NaN);
    if (Number.isInteger(status) && status >= 0 && status <= GRPC_STATUS_MAX) this.#grpcStatus = status;
  }

  onStreamTrailers(list: HeaderList): void {
    this.#classify(list);
    if (this.observed !== null) this.observed.trailers(list);
    this.#far?.observed?.trailers(list);
    this.#client.onTrailers(list);
  }

  onStreamEnd(): void {
    this.#answered();
    const stream = this.http2;
    this.http2 = null;
    stream?.release();
    this.#client.onEnd();
  }

  /** `unprocessed`: the endpoint did nothing with the request. */
  onStreamFailed(failure: number, unprocessed: boolean, reset: number): void {
    if (!unprocessed || this.started || !this.#client.repeatable) {
      this.fail(failure, reset);
    } else if (++this.#attempts >= ATTEMPTS_MAX) {
      this.fail(FAILURE_LIMIT, reset);
    } else {
      const now = this.#context.clock.nowMs();
      this.http2 = null;
      // Until there is a stream again.
      this.#client.onUpstreamBlocked();
      if (this.#far?.inside === true) {
        this.#far.again(reset);
        this.#connectHttp2();
        return;
      }
      this.#return(now, reset);
      this.#goOn(this.#other(now) ?? (this.#endpoint as HttpEndpoint), now);
    }
  }

  // ---- ends

  /** The response came to its end, or became a tunnel. */
  #answered(): void {
    this.#timer?.stop();
    const now = this.#context.clock.nowMs();
    if (this.measuring) this.measured(now);
    (this.#endpoint as HttpEndpoint).metrics.responseEnded(this.status, FAILURE_NONE, this.#grpcStatus);
    this.#meter.ended(now, this.status, FAILURE_NONE, this.#grpcStatus, NOT_RESET, true);
    if (this.observed !== null) this.observed.ended(this.status, FAILURE_NONE, this.#grpcStatus, NOT_RESET);
    this.#endpoint = null;
    if (this.#far === null) return;
    this.#far.answered(now, this.status, this.#grpcStatus);
    // A tunnel goes on.
    if (!this.tunnel) this.#far.leave(this);
  }

  /** First byte of the body, or its end: the load estimate's and the histogram's instant. */
  measured(now: number = this.#context.clock.nowMs()): void {
    this.measuring = false;
    const latency = now - this.#dispatchedMs;
    (this.#load as LoadEstimate).finished(now, latency);
    (this.#endpoint as HttpEndpoint).metrics.firstBody(this.status, latency);
    this.#far?.firstBody(this.status, latency);
  }

  /** Releases everything of a request that ended otherwise than by its response. */
  abandon(status: number, failure: number, grpcStatus: number = GRPC_NONE, reset: number = NOT_RESET): void {
    this.#serial++;
    this.#timer?.stop();
    const upstream = this.http1;
    this.http1 = null;
    upstream?.release(false);
    const stream = this.http2;
    this.http2 = null;
    stream?.release();
    const now = this.#context.clock.nowMs();
    const behind = this.#far?.inside === true && isBehind(failure);
    this.behind = behind;
    if (behind) this.#far?.ended(now, status, failure, grpcStatus, reset, this.started);
    else this.#far?.abandoned(now, this.status, this.started);
    if (behind && !this.started) {
      this.#far?.failed(failure);
      const { message, closes } = failures[failure] as Failure;
      this.#peerError(message);
      this.#peerCloses(closes ? 'close' : '');
    }
    this.#far?.leave(this);
    // An answer of the server's side is one from the endpoint for the client's.
    const seen = behind && !this.started ? FAILURE_NONE : failure;
    const endpoint = this.#endpoint;
    this.#endpoint = null;
    this.#meter.ended(now, status, seen, grpcStatus, reset, this.started);
    if (endpoint === null) return;
    if (this.measuring) {
      this.measuring = false;
      (this.#load as LoadEstimate).finished(now, now - this.#dispatchedMs);
    }
    if (this.observed !== null) this.observed.ended(status, seen, grpcStatus, reset);
    if (reset === NOT_RESET) endpoint.metrics.responseEnded(status, seen, grpcStatus);
    else endpoint.metrics.responseReset(status, reset);
  }

  fail(failure: number, reset: number = NOT_RESET): void {
    const started = this.started;
    // An HTTP/2 client sees the reset itself.
    const passed = this.#client.http2 ? reset : NOT_RESET;
    if (started || passed !== NOT_RESET) this.abandon(this.status, failure, GRPC_NONE, passed);
    else if (this.#grpcStatus === GRPC_NONE) this.abandon(this.#statusOf(failure), failure);
    else this.abandon(GRPC_HTTP_STATUS, failure, this.#answer(failure)?.grpcStatus ?? grpcStatusOf(failure));
    this.started = true;
    if (!started && !this.behind)
      this.#to.failed?.(passed === NOT_RESET ? failure : FAILURE_UPSTREAM_PROTOCOL);
    this.#client.onFailure(failure, started, passed);
  }

  #answer(failure: number): RouteAnswer | null {
    return failure === FAILURE_ROUTE && this.routed !== null ? this.routed.answer : null;
  }

  #statusOf(failure: number): number {
    return this.#answer(failure)?.status ?? failures[failure]?.status ?? 500;
  }
}
