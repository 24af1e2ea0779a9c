// SPDX-License-Identifier: Apache-2.0
// One request and its response, between the side of its client and the side of its endpoint, whatever each of them
// speaks: sends again what was provably not processed, measures, and says what failed. The way to an endpoint is
// dispatched-request.ts. Bytes and heads pass through here only as calls. An HTTP/1 connection keeps one for all its
// requests, so everything is a kept field; nothing is allocated per request but what a dial needs.
//
//   pick ──► connect ──► onHttp1 / onHttp2 of the client ──► heads, body ──► onEnd
//     └─ nobody there: waits, then onPicked      └──── failure ──► onFailure, answered or reset by the client's side
//
// Where the request's route retries, the end of an attempt may be nobody's: onAgain, a pause, then pick once more.
//
// An endpoint of this node may have a passage: then `connect` lets the request into the server's side right here (its
// policy, its counts, its connections to the application), and one exchange is both sides'.

import type { RequestPolicy, RequestTimeouts } from '#lib/core/request-policy.ts';
import {
  FAILURE_ATTEMPT_TIMEOUT,
  FAILURE_LIMIT,
  FAILURE_NONE,
  FAILURE_RESPONSE_TIMEOUT,
  FAILURE_ROUTE,
  FAILURE_UPSTREAM_PROTOCOL,
  FAILURE_UPSTREAM_RESET,
  type Failure,
  failures,
  isBehind,
} from '../failure.ts';
import { INCOMPLETE } from '../http1/head.ts';
import { HEAD_BYTES_MAX } from '#lib/http/limits.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { FLAG_PROXY_RESPONSE, NAME_GRPC_STATUS } from '#lib/http2/hpack/names.ts';
import { type AttemptHost, Attempts } from './attempts.ts';
import { DispatchedRequest } from './dispatched-request.ts';
import { grpcStatusOf } from './error-response.ts';
import type { ExchangeClient } from './exchange-client.ts';
import { type ClientStream, NOT_RESET, type StreamHolder } from './http2-client.ts';
import type { RequestEnd } from './request-end.ts';
import { RequestTimer, type TimedRequest, type TimeLimit } from './request-timer.ts';
import type { ServerContext } from './server-context.ts';
import { GRPC_MISSING, GRPC_NONE, type HttpEndpoint, type HttpTarget } from './types.ts';
import { UpstreamConnection, type UpstreamHolder } from './upstream-connection.ts';

/** How often a request is sent again that no endpoint has processed. */
const REFUSALS_MAX = 3;
/** gRPC tells errors in an answer that is well. */
const GRPC_HTTP_STATUS = 200;
/** Codes above are nobody's. */
const GRPC_STATUS_MAX = 16;

export class Exchange
  extends DispatchedRequest
  implements UpstreamHolder, StreamHolder, TimedRequest, AttemptHost
{
  status = 0;
  /** Whether the head of a final response was passed on. */
  started = false;
  /** Whether the endpoint keeps its HTTP/1 connection open after this response. */
  reusable = false;
  tunnel = false;
  /** The endpoint's proxy asks that the client connects anew. */
  clientEnds = false;
  /** Of a failure: the server's side of a passage failed, and answers as it would over a connection. */
  behind = false;

  /** Drop what only our own side's proxy may say to the client. */
  readonly #strips: boolean;
  /** How often the request was refused unseen. */
  #refusals = 0;
  /** Null: whatever comes of the request is its client's. */
  #attempts: Attempts | null = null;
  /** Made for the first request that has a limit. */
  #timer: RequestTimer | null = null;

  constructor(context: ServerContext, target: HttpTarget, strips: boolean, client: ExchangeClient) {
    super(context, target, client);
    this.#strips = strips;
  }

  /** Before the request is known to be well. */
  begin(grpc = false): void {
    this.clear(grpc);
    this.status = 0;
    this.started = false;
    this.tunnel = false;
    this.clientEnds = false;
    this.#refusals = 0;
    this.#attempts = null;
  }

  /**
   * Before `pick`, if its route has a policy. `repeatable`: as far as the head tells. True: the client's side keeps the
   * request, as long as it can, to send it again.
   */
  govern(policy: RequestPolicy, repeatable: boolean): boolean {
    const { timeouts, retry } = policy;
    this.timeouts = timeouts;
    if (retry === undefined || !repeatable) return false;
    this.#attempts = new Attempts(retry, this, this.client, this.to);
    if (retry.timeoutMs !== undefined) this.timeouts ??= {};
    return true;
  }

  // ---- the way there (dispatched-request.ts)

  protected attachStream(stream: ClientStream): void {
    this.http2 = stream;
    stream.holder = this;
    this.client.onHttp2(stream);
  }

  protected attach(upstream: UpstreamConnection): void {
    this.http1 = upstream;
    upstream.begin(this);
    this.client.onHttp1(upstream);
  }

  cut(): void {
    if (this.tunnel) {
      this.leaveTunnel(true);
      this.client.onTunnelClosed(true);
      return;
    }
    this.far?.abandoned(this.context.clock.nowMs(), this.status, this.started);
    this.far?.leave(this);
    this.fail(FAILURE_UPSTREAM_RESET);
  }

  // ---- time

  protected limit(timeouts: RequestTimeouts, nowMs: number): void {
    this.#timer ??= new RequestTimer(this.context.wheel, this.context.clock, this);
    const attempts = this.#attempts;
    if (attempts !== null && attempts.number > 1) this.#timer.attempt(attempts.timeoutMs, nowMs);
    else this.#timer.start(timeouts, attempts?.timeoutMs, nowMs);
  }

  get answerable(): boolean {
    return this.started || this.client.requestDone;
  }

  get answered(): boolean {
    return this.started || (this.#attempts !== null && this.#attempts.withheld !== null);
  }

  expired(limit: TimeLimit): void {
    this.meter.limit = limit;
    this.fail(FAILURE_RESPONSE_TIMEOUT);
  }

  attemptExpired(): void {
    this.fail(FAILURE_ATTEMPT_TIMEOUT);
  }

  // ---- an HTTP/1 endpoint

  onHeadBytes(buffer: Buffer, end: number): void {
    const upstream = this.http1 as UpstreamConnection;
    const head = this.context.responseHead;
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
        this.far?.observed?.answeredHttp1(head, buffer);
        if (this.#attempts?.follows(head.status, GRPC_NONE) === true) {
          this.#again(this.#attempts, head.keepAlive && head.contentLength === end - next);
          return;
        }
        this.client.onHead1(upstream, head, buffer, next, end);
        return;
      }
      // Interim responses (RFC 9110 15.2) travel on, so that `100 Continue` comes from who will read the body.
      head.dropContentLength();
      head.dropTransferEncoding();
      this.client.onInterim1(head, buffer, next);
      at = next;
    }
  }

  /** What another proxy tells this one stays here; people find it in the log. */
  #peerError(error: string): void {
    const endpoint = this.endpoint?.name;
    this.context.log.info({ endpoint, error }, 'the proxy of an endpoint answered in its place');
  }

  #peerCloses(value: string): void {
    this.clientEnds = value === 'close' && this.endpoint?.endsClients === true;
  }

  onResponseBody(buffer: Buffer, start: number, end: number): void {
    if (end === start) return;
    // Of a last part the end takes the time.
    if (this.measuring && this.http2?.remoteEnded !== true) this.measured();
    this.#timer?.moved();
    this.responsePart(end - start);
    if (this.#attempts?.keeps(buffer, start, end, this.#passesOn) === true) return;
    this.client.onResponsePart(buffer, start, end);
  }

  onResponseTrailer(buffer: Buffer, start: number, end: number): void {
    if (this.observed !== null) this.observed.trailer(buffer, start, end);
    this.far?.observed?.trailer(buffer, start, end);
    this.client.onTrailerLine(buffer, start, end);
  }

  /** The response is complete; `clean`: nothing came after it. */
  onResponseEnd(clean: boolean): void {
    const now = this.#answered();
    const upstream = this.http1;
    this.http1 = null;
    upstream?.release(clean && this.reusable && this.client.requestDone, now);
    this.client.onEnd();
  }

  onResponseInvalid(): void {
    this.fail(FAILURE_UPSTREAM_PROTOCOL);
  }

  onTunnelBytes(buffer: Buffer, end: number): void {
    this.client.onTunnelBytes(buffer, end);
  }

  onUpstreamEnd(): void {
    const upstream = this.http1;
    if (upstream === null) return;
    if (this.tunnel) this.client.onTunnelEnd();
    else if (this.started && upstream.body.untilClose) this.onResponseEnd(false);
    else this.#onLost(upstream);
  }

  onUpstreamClosed(): void {
    const upstream = this.http1;
    if (upstream === null) return;
    if (this.tunnel) {
      this.http1 = null;
      this.far?.leave(this);
      this.client.onTunnelClosed(upstream.failed);
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
    this.client.onTakenBack(unwritten);
    this.dial();
  }

  onUpstreamBlocked(): void {
    this.client.onUpstreamBlocked();
  }

  onUpstreamDrain(): void {
    this.client.onUpstreamDrain();
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
    this.far?.leave(this);
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
      this.client.onInterim2(list);
      return;
    }
    this.#classify(list);
    this.status = list.status;
    if (this.observed !== null) this.observed.answeredHttp2(list);
    this.far?.observed?.answeredHttp2(list);
    if (this.#attempts !== null && this.#holdsBack(this.#attempts, list, endStream)) return;
    this.started = true;
    this.client.onHead2(list, endStream);
  }

  #classify(list: HeaderList): void {
    if (this.grpcStatus === GRPC_NONE) return;
    const status = Number(list.find(NAME_GRPC_STATUS)?.value ?? Number.NaN);
    if (Number.isInteger(status) && status >= 0 && status <= GRPC_STATUS_MAX) this.grpcStatus = status;
  }

  onStreamTrailers(list: HeaderList): void {
    this.#classify(list);
    if (this.observed !== null) this.observed.trailers(list);
    this.far?.observed?.trailers(list);
    const attempts = this.#attempts;
    if (attempts !== null && attempts.withheld !== null && attempts.follows(this.status, this.grpcStatus)) {
      this.#again(attempts, false);
      return;
    }
    // Before the part that was kept, which otherwise would be the end.
    this.client.onTrailers(list);
    if (this.#attempts !== null) this.#passesOn();
  }

  onStreamEnd(): void {
    if (this.#attempts !== null) this.#passesOn();
    const stream = this.http2;
    this.#answered(stream?.connection.receivedMs);
    this.http2 = null;
    stream?.release();
    this.client.onEnd();
  }

  /** `unprocessed`: the endpoint did nothing with the request. */
  onStreamFailed(failure: number, unprocessed: boolean, reset: number): void {
    if (this.#attempts !== null) this.#passesOn();
    if (!unprocessed || this.started || !this.client.repeatable) {
      this.fail(failure, reset);
    } else if (++this.#refusals >= REFUSALS_MAX) {
      this.fail(FAILURE_LIMIT, reset);
    } else {
      const now = this.context.clock.nowMs();
      this.http2 = null;
      // Until there is a stream again.
      this.client.onUpstreamBlocked();
      if (this.far?.inside === true) {
        this.far.again(reset);
        this.connectHttp2();
        return;
      }
      this.goElsewhere(now, reset);
    }
  }

  // ---- attempts

  get sent(): boolean {
    return this.client.requestDone && (this.http2 === null || this.http2.localEnded);
  }

  endAttempt(status: number, failure: number, grpcStatus: number, reset: number): void {
    const atMs = this.context.clock.nowMs();
    const started = failure === FAILURE_NONE;
    this.meter.attemptEnded(this.#count({ atMs, status, failure, grpcStatus, reset, started }));
  }

  /** `reusable`: the HTTP/1 connection has nothing left of the answer that is dropped. */
  #again(attempts: Attempts, reusable: boolean): void {
    this.release(reusable);
    this.#timer?.pause();
    this.client.onAgain(this.status);
    this.status = 0;
    this.#refusals = 0;
    if (this.grpcStatus !== GRPC_NONE) this.grpcStatus = GRPC_MISSING;
    attempts.pause(this.context.clock, this.context.random, () => this.pickAgain());
  }

  /** Whether the client sees nothing of this head: never, or not yet. */
  #holdsBack(attempts: Attempts, list: HeaderList, endStream: boolean): boolean {
    if (!endStream && this.grpcStatus !== GRPC_NONE && attempts.withholds(list)) return true;
    if (!attempts.follows(list.status, this.grpcStatus)) return false;
    this.#again(attempts, false);
    return true;
  }

  /** The client gets what was withheld of the response. */
  readonly #passesOn = (): void => {
    const withheld = this.#attempts?.release() ?? null;
    if (withheld === null) return;
    const { head, part } = withheld;
    this.started = true;
    this.client.onHead2(head, false);
    if (part !== null) this.client.onResponsePart(part, 0, part.length);
  };

  // ---- ends

  /** The response came to its end, or became a tunnel; when. */
  #answered(now: number = this.context.clock.nowMs()): number {
    this.#timer?.stop();
    this.measured(now);
    const { status, grpcStatus } = this;
    const failure = FAILURE_NONE;
    const end: RequestEnd = { atMs: now, status, failure, grpcStatus, reset: NOT_RESET, started: true };
    this.meter.ended(end);
    const endpoint = this.endpoint;
    // Counted already, if there was nobody for another attempt.
    if (endpoint === null) return now;
    this.endpoint = null;
    endpoint.metrics.responseEnded(status, failure, grpcStatus);
    if (this.observed !== null) this.observed.ended(status, failure, grpcStatus, NOT_RESET);
    if (this.far === null) return now;
    this.far.ended(end);
    // A tunnel goes on.
    if (!this.tunnel) this.far.leave(this);
    return now;
  }

  /** First byte of the body, or its end: the load estimate's and the histogram's instant. */
  measured(now: number = this.context.clock.nowMs()): void {
    if (!this.measuring) return;
    const latency = this.unload(now);
    (this.endpoint as HttpEndpoint).metrics.firstBody(this.status, latency);
    this.far?.firstBody(this.status, latency);
  }

  /** Counts the end of what was sent to the endpoint, on both sides of a passage; what the client's side sees of it. */
  #count(end: RequestEnd): RequestEnd {
    const { atMs, status, failure, grpcStatus, reset } = end;
    const behind = this.#isBehind(failure);
    if (behind ? !this.started : failure === FAILURE_NONE) this.status = status;
    if (failure === FAILURE_NONE) this.measured(atMs);
    this.far?.over({ ...end, status: this.status, started: this.started }, behind);
    this.far?.leave(this);
    // An answer of the server's side is one from the endpoint for the client's.
    const seen = behind && !this.started ? { ...end, failure: FAILURE_NONE } : end;
    const endpoint = this.endpoint;
    this.endpoint = null;
    if (endpoint === null) return seen;
    if (this.measuring) {
      const latency = this.unload(atMs);
      if (behind && reset === NOT_RESET) endpoint.metrics.firstBody(status, latency);
    }
    if (this.observed !== null) this.observed.ended(status, seen.failure, grpcStatus, reset);
    if (reset === NOT_RESET) endpoint.metrics.responseEnded(status, seen.failure, grpcStatus);
    else endpoint.metrics.responseReset(status, reset);
    return seen;
  }

  /** Whether the server's side of a passage failed, which answers as it would over a connection. */
  #isBehind(failure: number): boolean {
    return this.far?.inside === true && isBehind(failure);
  }

  /** Releases everything of a request that ended otherwise than by its response. */
  abandon(status: number, failure: number, grpcStatus: number = GRPC_NONE, reset: number = NOT_RESET): void {
    this.#timer?.stop();
    this.#attempts?.cancel();
    this.#attempts = null;
    this.release(false);
    this.behind = this.#isBehind(failure);
    if (this.behind && !this.started) {
      const { message, closes } = failures[failure] as Failure;
      this.#peerError(message);
      this.#peerCloses(closes ? 'close' : '');
    }
    const atMs = this.context.clock.nowMs();
    this.meter.ended(this.#count({ atMs, status, failure, grpcStatus, reset, started: this.started }));
  }

  fail(failure: number, reset: number = NOT_RESET): void {
    const started = this.started;
    // An HTTP/2 client sees the reset itself.
    const passed = this.client.http2 ? reset : NOT_RESET;
    const attempts = started ? null : this.#attempts;
    const behind = this.#isBehind(failure);
    const refused = this.#refusals >= REFUSALS_MAX;
    const answer = failure === FAILURE_ROUTE ? this.routeAnswer : null;
    const grpc = this.grpcStatus !== GRPC_NONE;
    const status = grpc ? GRPC_HTTP_STATUS : (answer?.status ?? failures[failure]?.status ?? 500);
    const grpcStatus = grpc ? (answer?.grpcStatus ?? grpcStatusOf(failure)) : GRPC_NONE;
    if (
      attempts !== null &&
      attempts.followsFailure({ failure, status, grpcStatus, reset: passed }, behind, refused)
    ) {
      this.#again(attempts, false);
      return;
    }
    if (started || passed !== NOT_RESET) this.abandon(this.status, failure, GRPC_NONE, passed);
    else this.abandon(status, failure, grpcStatus);
    this.started = true;
    if (!started && !this.behind)
      this.to.failed?.(passed === NOT_RESET ? failure : FAILURE_UPSTREAM_PROTOCOL);
    this.client.onFailure(failure, started, passed);
  }
}
