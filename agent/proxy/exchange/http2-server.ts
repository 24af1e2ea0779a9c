// SPDX-License-Identifier: Apache-2.0
// The HTTP/2 side of clients: other agents on the mesh port, applications of a pod by prior knowledge. Each stream is
// an exchange. A request that was HTTP/1 before (`l5d-orig-proto`) goes to the application as HTTP/1 again; any other
// stays HTTP/2 all the way.

import type { RequestPolicy } from '#lib/core/request-policy.ts';
import {
  FAILURE_BAD_REQUEST,
  FAILURE_CLIENT_GONE,
  FAILURE_HEAD_TOO_LARGE,
  FAILURE_NONE,
  FAILURE_ROUTE,
  FAILURE_UPSTREAM_PROTOCOL,
  FAILURE_URI_TOO_LONG,
} from '../failure.ts';
import { METHOD_CONNECT, METHOD_HEAD } from '#lib/http/methods.ts';
import { type Head } from '../http1/head.ts';
import {
  INTERNAL_ERROR,
  NO_ERROR,
  PROTOCOL_ERROR,
  REFUSED_STREAM,
  STREAM_CLOSED,
  WINDOW_MAX,
} from '#lib/http2/codes.ts';
import { defineField, type Field } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import {
  FLAG_ORIGIN,
  FLAG_PROXY_REQUEST,
  FLAG_PROXY_RESPONSE,
  NAME_CONTENT_TYPE,
} from '#lib/http2/hpack/names.ts';
import type { Http2Limit } from '#lib/http2/limits.ts';
import {
  BODY_MISMATCH,
  HOSTS_DIFFER,
  LIST_TOO_LARGE,
  ORIGIN_ABSOLUTE,
  ORIGIN_NONE,
  originOf,
  PATH_TOO_LONG,
  requestBody,
  VALID,
  validateRequest,
  validateTrailers,
} from '#lib/http2/message.ts';
import {
  blockBytesMax,
  requestText,
  trailerField,
  trailerLines,
  writeResponseHead,
} from '../http2/translate.ts';
import { changeList, noChanges } from '../route/filters.ts';
import { Http2RoutedRequest } from '../route/routed-request.ts';
import { errorList, errorTrailers, READER_PROXY, readerOf, routeList } from './error-response.ts';
import { Exchange } from './exchange.ts';
import { type ExchangeClient, PICKED_NONE, WANT_HTTP1, WANT_HTTP2 } from './exchange-client.ts';
import { type ClientStream, NOT_RESET } from './http2-client.ts';
import { KEPT_BODY_BYTES_MAX, KeptBody } from './kept-body.ts';
import { overridden, takeListOverrides } from './request-overrides.ts';
import { Http2Connection, STREAMS_MAX } from './http2-connection.ts';
import { Stream } from './http2-stream.ts';
import type { ServedConnection, ServerContext } from './server-context.ts';
import { SpareStreams } from './spare-streams.ts';
import { sendChunk } from './outbox.ts';
import type { HttpConnection, LoggedRequest, RequestGate } from './types.ts';
import type { UpstreamConnection } from './upstream-connection.ts';

/** Of a request's list that is kept for its successors'. */
const KEPT_BYTES_MAX = 4_096;

/** How long a client that was heard of takes to its first stream. */
const FIRST_STREAM_MS = 1_000;

/** So long a client that comes during a drain is served before it is told to leave, which may cost it a request. */
export const STAY_MS = 5_000;
/** Nobody stays so shortly before the drain's end. */
export const LAST_MS = 2_000;
/** How long a client that does not answer a PING takes to read that it has to leave. */
export const HEED_MS = 2_000;
/** In the PING that follows the notice; others have 0. */
const NOTICE = 1;

export class Http2ServerConnection extends Http2Connection implements ServedConnection {
  readonly connection: HttpConnection;
  readonly clientIdField: Field | null;
  /** Who reads our own answers: READER_…. */
  readonly reader: number;
  readonly spares = new SpareStreams<ServerStream>();
  readonly #onFinished: (connection: ServedConnection) => void;
  readonly #begunMs: number;
  /** When the client was last told to leave; -1: it was not. */
  #noticedMs = -1;
  /** The client has read it. */
  #heeded = false;
  /** The connection ends once the client has. */
  #draining = false;

  constructor(
    context: ServerContext,
    connection: HttpConnection,
    onFinished: (connection: ServedConnection) => void,
  ) {
    super(context, connection.source, true);
    this.connection = connection;
    this.#begunMs = this.receivedMs;
    this.#onFinished = onFinished;
    const { gate } = connection;
    this.clientIdField =
      gate === null || gate.clientId === '' ? null : defineField('l5d-client-id', gate.clientId);
    this.reader = readerOf(gate?.clientId);
  }

  get owner(): object | undefined {
    return this.connection.owner;
  }

  /** The client shall open its next streams on another connection; what it opens here is served. */
  notice(): void {
    // Once it was told the last stream, the client may be told no later one.
    if (this.leaving) return;
    this.#noticedMs = this.nowMs;
    this.sendGoAway(WINDOW_MAX, NO_ERROR);
    this.sendPing(false, 0, NOTICE);
  }

  dismiss(): void {
    if (this.#noticedMs >= 0 && this.nowMs - this.#noticedMs >= HEED_MS) this.#end();
    else if (!this.context.draining || this.#noticedMs >= 0 || this.#hasStayed(this.nowMs)) this.drain();
  }

  /** Of one that has come during a drain. */
  #hasStayed(nowMs: number): boolean {
    return nowMs >= Math.min(this.#begunMs + STAY_MS, this.context.drainEndsMs - LAST_MS);
  }

  /** RFC 9113 6.8: no further streams, but what was on its way when the client was told is served. */
  drain(): void {
    // One that has just come is about to open its first stream.
    if (this.lastStream === 0 && this.nowMs - this.receivedMs < FIRST_STREAM_MS) return;
    if (this.#noticedMs < 0) this.notice();
    this.#draining = true;
    if (this.#heeded) this.#end();
  }

  protected override onPong(low: number): void {
    if (low !== NOTICE) return;
    this.#heeded = true;
    if (this.#draining) this.#end();
  }

  #end(): void {
    if (this.leaving) return;
    this.sendGoAway(this.lastStream, NO_ERROR);
    this.leave();
  }

  get proxyContext(): ServerContext {
    return this.context;
  }

  sendHead(stream: ServerStream, head: Head, buffer: Buffer, bodyStart: number, endStream: boolean): void {
    const block = this.beginBlock(blockBytesMax(bodyStart - head.start));
    this.endBlock(stream, writeResponseHead(this.encoder, this.out.buffer, block, head, buffer), endStream);
  }

  protected override get lastRemoteStream(): number {
    return this.lastStream;
  }

  protected isIdle(id: number): boolean {
    return (id & 1) === 0 || (id > this.lastStream && !this.leaving);
  }

  protected override ignores(id: number): boolean {
    return this.leaving && id > this.lastStream;
  }

  protected onNewStream(id: number, list: HeaderList, endStream: boolean): number {
    if ((id & 1) === 0) return PROTOCOL_ERROR;
    if (id <= this.lastStream) return STREAM_CLOSED;
    if (this.ignores(id)) return NO_ERROR;
    this.lastStream = id;
    if (this.streams.size >= STREAMS_MAX) {
      this.limited('streams');
      return this.refuse(id, REFUSED_STREAM);
    }
    // What came from an application of the pod is what it looks like.
    if (this.connection.gate === null) list.drop(FLAG_ORIGIN);
    const verdict = this.#validate(list);
    if (verdict === LIST_TOO_LARGE) this.limited('header_list');
    if (verdict > PATH_TOO_LONG) return this.refuse(id, PROTOCOL_ERROR);
    const stream = this.spares.take() ?? new ServerStream(this);
    stream.again();
    stream.id = id;
    stream.remaining = requestBody(list, endStream);
    if (stream.remaining === BODY_MISMATCH) return this.refuse(id, PROTOCOL_ERROR);
    this.streams.add(stream);
    // Not earlier: many a client gives up what it has not sent yet when it is told to leave.
    if (this.context.draining && this.#noticedMs < 0 && this.#hasStayed(this.receivedMs)) this.notice();
    stream.begin(list, endStream, verdict);
    return NO_ERROR;
  }

  #validate(list: HeaderList): number {
    const verdict = validateRequest(list);
    // A route of a sidecar that sets Host changes the field alone. Of the two names nobody behind us may read the one that
    // does not hold: it was judged by nobody (RFC 9113 8.3.1).
    if (verdict !== HOSTS_DIFFER || this.clientIdField === null) return verdict;
    list.dropHost();
    return VALID;
  }

  onGoAway(): number {
    this.leave();
    return this.noise();
  }

  protected onStreamGone(): void {
    this.endIfDone();
  }

  protected onIdle(): void {}

  protected limited(limit: Http2Limit): void {
    this.connection.onLimit?.(2, limit);
  }

  protected onClosed(): void {
    this.#onFinished(this);
    this.connection.onClosed();
  }
}

class ServerStream extends Stream implements ExchangeClient {
  readonly #server: Http2ServerConnection;
  readonly #exchange: Exchange;
  #method = 0;
  #wantsBody = false;
  #grpc = false;
  /** The answer's head was of gRPC too: its end can be told in trailers. */
  #grpcAnswer = false;
  /** The request as HTTP/1 text, or as a list; null: the other one. */
  #list: HeaderList | null = null;
  /** For this request's list and later ones'. */
  #kept: HeaderList | null = null;
  /** The list as it goes into a passage. */
  #passing: HeaderList | null = null;
  /** What has to be written as soon as there is a connection. */
  #held = '';
  #host: string | null = null;
  /** The body goes to an HTTP/1 endpoint without a length. */
  #chunked = false;
  /** Of an HTTP/2 endpoint's request: what came of the body before there was a stream. */
  #heldBody: Buffer | null = null;
  #bodySent = false;
  /** Of a request that may have several attempts: what came of its body. */
  #keptBody: KeptBody | null = null;
  #requestTrailers: HeaderList | null = null;
  #responseTrailers: HeaderList | null = null;
  #over = false;
  /** The request's entry in the access log, if there is to be one. */
  #logged: LoggedRequest | null = null;

  constructor(connection: Http2ServerConnection) {
    super(connection);
    this.#server = connection;
    const { target, gate } = connection.connection;
    this.#exchange = new Exchange(connection.proxyContext, target, gate === null, this);
  }

  override again(): void {
    super.again();
    this.#grpcAnswer = false;
    this.#chunked = false;
    this.#bodySent = false;
    this.#over = false;
  }

  /** Request and response have come to their ends; what they brought goes, the object stays. */
  #rest(): void {
    if (this.#kept !== null && this.#kept.bytes > KEPT_BYTES_MAX) this.#kept = null;
    this.#list = null;
    this.#held = '';
    this.#host = null;
    this.#heldBody = null;
    this.#requestTrailers = null;
    this.#responseTrailers = null;
    this.#logged = null;
    this.#keptBody = null;
    this.#passing = null;
    this.#server.spares.keep(this);
  }

  get http2(): boolean {
    return this.#list !== null;
  }

  get repeatable(): boolean {
    if (this.#list === null) return false;
    return this.#keptBody === null ? !this.#bodySent : !this.#keptBody.over;
  }

  get movable(): boolean {
    return this.#list !== null;
  }

  get requestDone(): boolean {
    return this.remoteEnded;
  }

  /** `verdict`: VALID, or too large. */
  begin(list: HeaderList, endStream: boolean, verdict: number): void {
    this.remoteEnded = endStream;
    this.#wantsBody = !endStream;
    this.#method = list.method;
    const origin = originOf(list);
    // Said between proxies alone, also where it says what nobody knows.
    if (origin === ORIGIN_NONE) list.drop(FLAG_ORIGIN);
    this.#grpc = origin === ORIGIN_NONE && isGrpc(list);
    this.#exchange.begin(this.#grpc);
    if (verdict !== VALID) {
      this.#exchange.fail(verdict === LIST_TOO_LARGE ? FAILURE_HEAD_TOO_LARGE : FAILURE_URI_TOO_LONG);
      return;
    }
    const { gate, log, observer } = this.#server.connection;
    if (log !== undefined) this.#logged = log.http2(list);
    if (observer !== undefined) this.#exchange.observed = observer.http2(list);
    if (gate !== null) {
      const failure = judgeList(gate, list);
      if (failure !== FAILURE_NONE) {
        this.#exchange.fail(failure);
        return;
      }
    }
    if (gate === null && (list.flags & FLAG_PROXY_REQUEST) !== 0) {
      this.#exchange.requiredIdentity = list.get('l5d-require-id')?.value ?? '';
    }
    list.drop(FLAG_PROXY_REQUEST);
    const { router } = this.#server.connection.target;
    if (router && !this.#exchange.route(router, new Http2RoutedRequest(list))) return;
    const { policy } = this.#exchange;
    if (policy !== undefined) this.#govern(policy, list, origin);
    const want = origin === ORIGIN_NONE ? WANT_HTTP2 : WANT_HTTP1;
    if (origin === ORIGIN_NONE) {
      this.#kept ??= new HeaderList();
      this.#list = this.#kept;
      this.#list.copyFrom(list);
      if (this.#server.clientIdField !== null) this.#list.add(this.#server.clientIdField);
      for (const changes of this.#exchange.routed?.requestChanges ?? noChanges)
        changeList(this.#list, changes);
    } else {
      this.#chunked = !endStream && list.contentLength < 0;
      if (this.#chunked && (origin & 1) === 0) {
        this.#exchange.fail(FAILURE_BAD_REQUEST);
        return;
      }
      this.#host = poolKey(list, origin);
      this.#held = `${requestText(list, this.#chunked)}${this.#server.clientIdField?.line ?? ''}\r\n`;
    }
    this.pause();
    if (this.#exchange.pick(want, this.#server.receivedMs) !== PICKED_NONE) this.onPicked();
    this.#logged?.waits();
  }

  /** What the request's route asks for, or the request itself. */
  #govern(policy: RequestPolicy, list: HeaderList, origin: number): void {
    const own = policy.allowL5dRequestHeaders === true ? overridden(policy, takeListOverrides(list)) : policy;
    const repeatable =
      origin === ORIGIN_NONE && list.method !== METHOD_CONNECT && list.contentLength <= KEPT_BODY_BYTES_MAX;
    if (this.#exchange.govern(own, repeatable)) this.#keptBody = new KeptBody();
  }

  onPicked(): void {
    const { passage } = this.#exchange;
    const list = this.#list;
    // What an earlier attempt noted is of another pod.
    if (this.#passing !== null) this.#logged = null;
    this.#passing = null;
    if (passage !== null && list !== null) {
      this.#logged = passage.log.http2(list);
      const passing = new HeaderList();
      passing.copyFrom(list);
      this.#exchange.observedBehind = passage.observer.http2(passing);
      // Also one that a route has set.
      passing.drop(FLAG_PROXY_REQUEST);
      passing.add(passage.clientIdField);
      this.#passing = passing;
    }
    this.#exchange.connect(this.#host);
  }

  /** Only what came with HTTP/2 from its client is in a passage. */
  judge(gate: RequestGate): number {
    return judgeList(gate, this.#list as HeaderList);
  }

  onAgain(status: number): void {
    if (status > 0) this.#logged?.answered(status, -1);
    this.pause();
  }

  onHttp1(upstream: UpstreamConnection): void {
    upstream.sendRequest(this.#held);
    this.#held = '';
    if (!upstream.out.blocked) this.resume();
  }

  onTakenBack(text: string): void {
    this.#held = text;
    this.pause();
  }

  onHttp2(stream: ClientStream): void {
    const kept = this.#keptBody;
    const body = kept === null || kept.length === 0 ? this.#heldBody : kept.bytes;
    const trailers = this.#requestTrailers;
    const ended = this.remoteEnded;
    this.#heldBody = null;
    stream.requestList(
      (this.#passing ?? this.#list) as HeaderList,
      ended && body === null && trailers === null,
    );
    if (body !== null) {
      this.#bodySent = true;
      stream.data(body, 0, body.length, ended && trailers === null);
      kept?.passedOn();
    }
    if (ended && trailers !== null) stream.trailers(trailers);
    if (!stream.blocked) this.resume();
  }

  // ---- frames of the client

  onHeaders(list: HeaderList, endStream: boolean): number {
    if (!endStream || this.remaining > 0 || validateTrailers(list) !== VALID) return PROTOCOL_ERROR;
    if (list.length > 0) {
      this.#requestTrailers = new HeaderList();
      this.#requestTrailers.copyFrom(list);
    }
    this.#server.ended(this);
    return NO_ERROR;
  }

  onData(buffer: Buffer, start: number, end: number): void {
    if (this.#over) return;
    const { http1, http2 } = this.#exchange;
    this.#exchange.requestPart(end - start);
    if (this.#keptBody !== null) {
      this.#keptBody.add(buffer, start, end, http2 !== null);
      if (http2 === null) return;
    }
    if (http1 !== null) {
      if (this.#chunked) sendChunk(http1.out, buffer, start, end);
      else http1.out.bytes(buffer, start, end);
      if (http1.out.blocked) this.pause();
    } else if (http2 !== null) {
      this.#bodySent = true;
      http2.data(buffer, start, end, this.remoteEnded);
      if (http2.blocked) this.pause();
    } else if (this.#list !== null) {
      const piece = buffer.subarray(start, end);
      this.#heldBody = this.#heldBody === null ? Buffer.from(piece) : Buffer.concat([this.#heldBody, piece]);
    } else {
      const text = buffer.toString('latin1', start, end);
      this.#held += this.#chunked ? `${text.length.toString(16)}\r\n${text}\r\n` : text;
    }
  }

  onEnded(): void {
    if (this.#over) return;
    this.#exchange.requestEnded();
    const { http1, http2 } = this.#exchange;
    if (http2 !== null) {
      if (http2.localEnded) return;
      if (this.#requestTrailers !== null) http2.trailers(this.#requestTrailers);
      else http2.end();
    } else if (this.#chunked) {
      const trailers = this.#requestTrailers === null ? '' : trailerLines(this.#requestTrailers);
      if (http1 !== null) http1.out.string(`0\r\n${trailers}\r\n`);
      else this.#held += `0\r\n${trailers}\r\n`;
    }
  }

  onReset(): void {
    this.onLost();
  }

  onLost(): void {
    if (this.#over) return;
    this.#over = true;
    this.#exchange.abandon(this.#exchange.status, FAILURE_CLIENT_GONE);
  }

  onWritable(): void {
    this.#exchange.resume();
  }

  // ---- an HTTP/1 endpoint

  onInterim1(head: Head, buffer: Buffer, end: number): void {
    this.#server.sendHead(this, head, buffer, end, false);
  }

  onHead1(upstream: UpstreamConnection, head: Head, buffer: Buffer, bodyStart: number, end: number): void {
    const { status } = head;
    const exchange = this.#exchange;
    if (status === 101) {
      exchange.fail(FAILURE_UPSTREAM_PROTOCOL);
      return;
    }
    const { body } = upstream;
    exchange.status = status;
    exchange.started = true;
    this.#logged?.answered(status, head.contentLength);
    exchange.reusable = head.keepAlive;
    if (this.#method === METHOD_HEAD || status === 204 || status === 304) {
      body.startNone();
      if (status === 204) head.dropContentLength();
    } else if (head.chunked) {
      body.startChunked(true);
    } else if (head.contentLength >= 0) {
      body.startLength(head.contentLength);
    } else {
      body.startUntilClose();
      exchange.reusable = false;
    }
    const ends = body.done;
    this.#server.sendHead(this, head, buffer, bodyStart, ends);
    upstream.headDone(false);
    if (exchange.clientEnds) this.#server.drain();
    if (ends) {
      this.headEnded();
      exchange.onResponseEnd(bodyStart === end);
    } else if (bodyStart < end) {
      upstream.pushBody(buffer, bodyStart, end);
    }
  }

  onTrailerLine(buffer: Buffer, start: number, end: number): void {
    this.#responseTrailers ??= new HeaderList();
    this.#responseTrailers.add(trailerField(buffer, start, end));
  }

  // ---- an HTTP/2 endpoint

  onInterim2(list: HeaderList): void {
    this.#server.sendList(this, list, false);
  }

  onHead2(list: HeaderList, endStream: boolean): void {
    this.#keptBody = null;
    this.#logged?.answered(list.status, list.contentLength);
    this.#grpcAnswer = this.#grpc && isGrpc(list);
    if (this.#server.connection.gate === null) list.drop(FLAG_ORIGIN);
    for (const changes of this.#exchange.routed?.responseChanges ?? noChanges) changeList(list, changes);
    this.#server.sendList(this, list, endStream);
    if (this.#exchange.clientEnds) this.#server.drain();
    if (endStream) this.headEnded();
  }

  onTrailers(list: HeaderList): void {
    if (list.length === 0) return;
    this.#responseTrailers = new HeaderList();
    this.#responseTrailers.copyFrom(list);
  }

  // ---- both

  onResponsePart(buffer: Buffer, start: number, end: number): void {
    const { http1, http2 } = this.#exchange;
    const ends = http1 !== null ? http1.body.done : http2 !== null && http2.remoteEnded;
    this.data(buffer, start, end, ends && this.#responseTrailers === null);
    if (this.blocked) this.#exchange.pause();
  }

  onEnd(): void {
    this.#over = true;
    if (!this.remoteEnded) this.endsBoth = true;
    if (this.localEnded) {
      // The head or the last part of the body said so already.
      if (!this.remoteEnded) this.cancel(NO_ERROR);
    } else if (this.#responseTrailers !== null) {
      this.trailers(this.#responseTrailers);
    } else {
      this.end();
    }
    if (this.localEnded && this.remoteEnded) this.#rest();
  }

  onFailure(failure: number, started: boolean, reset: number): void {
    this.#over = true;
    if (reset !== NOT_RESET) {
      // What the endpoint says to HTTP/2 is said to HTTP/2.
      this.cancel(reset === NO_ERROR ? INTERNAL_ERROR : reset);
    } else if (started && this.#grpcAnswer) {
      if (!this.remoteEnded) this.endsBoth = true;
      this.trailers(errorTrailers(failure, this.#server.reader));
    } else if (started) {
      // Part of the response is out: only an error shows the client that the rest is missing.
      this.cancel(INTERNAL_ERROR);
    } else {
      const { behind, passage } = this.#exchange;
      const routeAnswer = failure === FAILURE_ROUTE ? this.#exchange.routeAnswer : null;
      const answer =
        routeAnswer === null
          ? errorList(failure, this.#grpc, behind ? READER_PROXY : this.#server.reader)
          : routeList(routeAnswer, this.#grpc);
      // As if it had come from the endpoint's proxy.
      if (behind) answer.drop(FLAG_PROXY_RESPONSE);
      if (behind || passage === null) this.#logged?.answered(answer.status, 0);
      if (this.#exchange.clientEnds) this.#server.drain();
      this.#server.sendList(this, answer, true);
      if (!this.remoteEnded) this.endsBoth = true;
      this.headEnded();
    }
  }

  onTunnelBytes(): void {}
  onTunnelEnd(): void {}
  onTunnelClosed(): void {}

  onUpstreamBlocked(): void {
    this.pause();
  }

  onUpstreamDrain(): void {
    if (this.#wantsBody) this.resume();
  }
}

function judgeList(gate: RequestGate, list: HeaderList): number {
  return gate.judge(list.methodField?.value ?? '', pathOf(list), list.method === METHOD_CONNECT);
}

function isGrpc(list: HeaderList): boolean {
  return list.find(NAME_CONTENT_TYPE)?.value.startsWith('application/grpc') === true;
}

/** What routes and policies look at: neither query nor fragment. */
function pathOf(list: HeaderList): string {
  const path = list.pathField?.value ?? '';
  const end = path.search(/[?#]/);
  return end < 0 ? path : path.slice(0, end);
}

/** As an HTTP/1 client's: HTTP/1.0 and requests without a host go over connections of their own. */
function poolKey(list: HeaderList, origin: number): string | null {
  const host = list.hostField?.value ?? '';
  if ((origin & ORIGIN_ABSOLUTE) !== 0)
    return (origin & 1) === 0 ? null : `absolute ${list.authorityField?.value ?? host}`;
  return (origin & 1) === 0 || host === '' ? null : host;
}
