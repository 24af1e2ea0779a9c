// SPDX-License-Identifier: Apache-2.0
// The HTTP/1 side of a client: its connection, its requests one after another. All state of it is here, as small
// integers and kept fields; parsing, the way to an endpoint (exchange.ts) and gathering of writes are elsewhere.
// Nothing is allocated per request but strings.
//
//            request head             connected              response complete
//   READING ──────────────► WAITING ────────────► RELAYING ───────────────────► READING, or CLOSING
//                              └── failure before the response's head ──► answered here ──┘
//   RELAYING ── 101, 2xx to CONNECT ──► TUNNEL      failure after the head ──► RST to the client

import type { StreamSocket } from '#lib/net/stream-socket.ts';
import type { RequestPolicy } from '#lib/core/request-policy.ts';
import {
  FAILURE_CLIENT_GONE,
  FAILURE_HEAD_TOO_LARGE,
  FAILURE_NONE,
  FAILURE_ROUTE,
  FAILURE_UPSTREAM_PROTOCOL,
  FAILURE_URI_TOO_LONG,
  failures,
} from '../failure.ts';
import { BodyDecoder, type BodySink } from '../http1/body.ts';
import { METHOD_CONNECT } from '#lib/http/methods.ts';
import { type Head, INCOMPLETE } from '../http1/head.ts';
import { HEAD_BYTES_MAX } from '#lib/http/limits.ts';
import { HEAD_MS, type Http1Limit, LINGER_BYTES_MAX, LINGER_MS } from '../http1/limits.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { trailerField, trailerLines } from '../http2/translate.ts';
import { PartialHead } from '../http1/partial-head.ts';
import type { TimeoutNode } from '../timers/wheel.ts';
import { changedText, noChanges } from '../route/filters.ts';
import { Http1RoutedRequest } from '../route/routed-request.ts';
import { Approach } from './approach.ts';
import { ClientResponse } from './client-response.ts';
import { errorResponse, READER_STRANGER, readerOf, routeResponse } from './error-response.ts';
import { Exchange } from './exchange.ts';
import {
  type ExchangeClient,
  PICKED_HTTP1,
  PICKED_HTTP2,
  PICKED_NONE,
  WANT_EITHER,
  WANT_HTTP1,
} from './exchange-client.ts';
import type { ClientStream } from './http2-client.ts';
import { isShort, KeptRequest } from './kept-request.ts';
import { Outbox, type OutboxOwner, sendChunk } from './outbox.ts';
import { overridden, parseAgain, takeOverrides } from './request-overrides.ts';
import { failureOf, hostLine, isLimit, methodOf, PoolKey, pathOf } from './request-target.ts';
import type { ServedConnection, ServerContext } from './server-context.ts';
import type { HttpConnection, LoggedRequest, Passage, RequestGate } from './types.ts';
import type { UpstreamConnection } from './upstream-connection.ts';

/** Between requests, or inside a head. */
const READING = 0;
/** For an endpoint or a connection to it. */
const WAITING = 1;
const RELAYING = 2;
const TUNNEL = 3;
/** The last response is on its way; input is discarded. */
const CLOSING = 4;
const CLOSED = 5;

export class ServerConnection
  implements BodySink, OutboxOwner, TimeoutNode, ExchangeClient, ServedConnection
{
  timeoutPrevious: TimeoutNode | null = null;
  timeoutNext: TimeoutNode | null = null;
  timeoutTick = 0;

  readonly #context: ServerContext;
  readonly #connection: HttpConnection;
  readonly #socket: StreamSocket;
  readonly #out: Outbox;
  /** `l5d-client-id` line to be added to every request. */
  readonly #clientIdField: string;
  /** Who reads our own answers: READER_…. */
  readonly #reader: number;
  readonly #onFinished: (connection: ServedConnection) => void;
  readonly #exchange: Exchange;

  #state = READING;
  #partial: PartialHead | null = null;
  /** Bytes after the request in flight. */
  #backlog: Buffer | null = null;
  #paused = true;
  #lingered = 0;

  // The request.
  readonly #body: BodyDecoder;
  #upgrade = false;
  /** Key of the pool; null sends the request over a connection of its own. */
  #host: string | null = null;
  readonly #poolKey = new PoolKey();
  /** The request as text: to be written as soon as there is a connection, or, over HTTP/2, its head to send again. */
  #held = '';
  #kept: KeptRequest | null = null;
  /** The head has fields that were for us; wherever it is parsed again they are taken out again. */
  #overrides = false;
  /** Where the head that was parsed last lies, as long as it lies there. */
  #fresh: Buffer | null = null;
  /** How the request travels: PICKED_…. */
  #kind = PICKED_NONE;
  /** Over HTTP/2: what came of the body before there was a stream. */
  #heldBody = '';
  #bodySent = false;
  #trailers: HeaderList | null = null;
  readonly #approaching = new Approach();

  readonly #response: ClientResponse;
  /** The request's entry in the access log, if there is to be one. */
  #logged: LoggedRequest | null = null;

  constructor(
    context: ServerContext,
    connection: HttpConnection,
    onFinished: (connection: ServedConnection) => void,
  ) {
    this.#context = context;
    this.#connection = connection;
    this.#onFinished = onFinished;
    const { source, gate } = connection;
    this.#socket = source.socket;
    this.#out = new Outbox(source.socket, source.encrypted, context.flusher, this);
    this.#response = new ClientResponse(this.#out);
    this.#body = new BodyDecoder(context.requestHead);
    this.#exchange = new Exchange(context, connection.target, gate === null, this);
    this.#clientIdField = gate === null || gate.clientId === '' ? '' : `l5d-client-id: ${gate.clientId}\r\n`;
    this.#reader = readerOf(gate?.clientId);
  }

  start(first: Buffer | null): void {
    const { source } = this.#connection;
    const socket = this.#socket;
    source.onBytes = (buffer, length) => this.#onBytes(buffer, length);
    socket.on('end', () => this.#onClientEnd());
    socket.on('error', (error) => this.#context.log.debug({ err: error }, 'client connection failed'));
    socket.on('close', () => this.#onClientClosed());
    socket.on('drain', () => this.#onClientDrain());
    if (first !== null) this.#consume(first, 0, first.length, true);
    this.#readMore();
  }

  get owner(): object | undefined {
    return this.#connection.owner;
  }

  get #draining(): boolean {
    return this.#context.draining || this.#connection.owner?.leaving === true;
  }

  /** Each answer says that the connection ends; there is nothing to say before. */
  notice(): void {}

  dismiss(): void {
    if (this.#state === READING && this.#partial === null && this.#backlog === null) {
      this.#state = CLOSING;
      this.#finish();
    }
  }

  // ---- client side

  #onBytes(buffer: Buffer, length: number): void {
    const partial = this.#partial;
    if (partial === null) {
      this.#consume(buffer, 0, length, false);
    } else if (partial.append(buffer, 0, length)) {
      this.#partial = null;
      this.#context.wheel.cancel(this);
      this.#consume(partial.bytes, 0, partial.length, true);
    }
  }

  /** `owned`: the buffer stays valid, so that a rest can be kept without copying. */
  #consume(buffer: Buffer, start: number, end: number, owned: boolean): void {
    let at = start;
    while (at < end) {
      switch (this.#state) {
        case READING: {
          if (this.#out.blocked) {
            // The client does not read its responses: it gets no further ones.
            this.#stash(buffer, at, end, owned);
            this.#pause();
            return;
          }
          const head = this.#context.requestHead;
          const next = head.parseRequest(buffer, at, end, true);
          if (next === INCOMPLETE && end - at <= HEAD_BYTES_MAX) {
            this.#partial = new PartialHead(buffer, at, end);
            this.#context.wheel.schedule(this, this.#context.clock.nowMs(), HEAD_MS);
            return;
          }
          if (next <= 0) {
            this.#refuse(next);
            return;
          }
          at = this.#onRequestHead(buffer, head, next, end);
          break;
        }
        case WAITING:
        case RELAYING:
          if (this.#body.done || this.#kind === PICKED_NONE) {
            this.#stash(buffer, at, end, owned);
            if (!this.#body.done) this.#pause();
            return;
          }
          at = this.#body.push(buffer, at, end, this);
          if (this.#body.done) this.#exchange.requestEnded();
          if (at < 0) {
            this.#fail(at, 'body_framing');
            return;
          }
          if (this.#body.done) this.#endRequest();
          break;
        case TUNNEL:
          this.#exchange.http1?.out.bytes(buffer, at, end);
          return;
        case CLOSING:
          this.#lingered += end - at;
          if (this.#lingered > LINGER_BYTES_MAX) this.#endAt('discarded');
          return;
        default:
          return;
      }
    }
    if (this.#state === WAITING && !this.#body.done) this.#pause();
  }

  /** The bytes of the next requests, up to a limit; then the client is no longer read. */
  #stash(buffer: Buffer, start: number, end: number, owned: boolean): void {
    const piece = buffer.subarray(start, end);
    if (this.#backlog !== null) this.#backlog = Buffer.concat([this.#backlog, piece]);
    else this.#backlog = owned ? piece : Buffer.from(piece);
    if (this.#backlog.length < this.#context.pipelinedBytesMax || this.#paused) return;
    this.#connection.onLimit?.(1, 'pipelined');
    this.#pause();
  }

  /** Serves what was stashed and reads on. */
  #continue(): void {
    const backlog = this.#backlog;
    if (backlog !== null) {
      this.#backlog = null;
      this.#consume(backlog, 0, backlog.length, true);
    }
    this.#readMore();
  }

  /** Reads on if what is read has a place to go. */
  #readMore(): void {
    if (!this.#paused) return;
    const kept = this.#backlog === null ? 0 : this.#backlog.length;
    if (this.#state === READING ? kept > 0 : kept >= this.#context.pipelinedBytesMax) return;
    if (this.#state === WAITING && !this.#body.done) return;
    if (this.#exchange.blocked) return;
    if (this.#state !== CLOSED) this.#resume();
  }

  #refuse(verdict: number): void {
    this.#logged = null;
    // As far as the head was read; an answer of HTTP/1.0 is understood by all.
    this.#response.begin(0, this.#context.requestHead.minor === 0 ? 0 : 1, false);
    this.#state = WAITING;
    this.#body.startUntilClose();
    this.#exchange.begin();
    this.#fail(verdict, 'head');
  }

  #fail(verdict: number, tooLarge: Http1Limit): void {
    const failure = failureOf(verdict);
    if (isLimit(failure))
      this.#connection.onLimit?.(1, failure === FAILURE_URI_TOO_LONG ? 'target' : tooLarge);
    this.#exchange.fail(failure);
  }

  #endAt(limit: Http1Limit): void {
    this.#connection.onLimit?.(1, limit);
    this.#socket.destroy();
  }

  /** Takes a request whose head ends at `bodyStart`; returns the position up to which bytes were used. */
  #onRequestHead(buffer: Buffer, head: Head, bodyStart: number, end: number): number {
    this.#state = WAITING;
    this.#response.begin(head.method, head.minor, head.keepAlive);
    this.#upgrade = head.upgrade;
    this.#bodySent = false;
    this.#trailers = null;
    const exchange = this.#exchange;
    exchange.begin();
    if (head.chunked) this.#body.startChunked(false);
    else if (head.contentLength > 0) this.#body.startLength(head.contentLength);
    else this.#body.startNone();

    const { gate, log, observer } = this.#connection;
    this.#logged = log === undefined ? null : log.http1(head, buffer);
    if (observer !== undefined) exchange.observed = observer.http1(head, buffer);
    if (gate !== null) {
      const failure = gate.judge(methodOf(buffer, head), pathOf(buffer, head), head.upgrade);
      if (failure !== FAILURE_NONE) {
        exchange.fail(failure);
        return bodyStart;
      }
    }
    const { router } = this.#connection.target;
    if (router && !exchange.route(router, new Http1RoutedRequest(head, buffer))) return bodyStart;
    const changes = exchange.routed?.requestChanges ?? noChanges;
    const { policy } = exchange;
    this.#overrides = false;
    let kept = policy === undefined ? null : this.#govern(policy, buffer, head);
    this.#kept = kept;
    const host = this.#poolKey.of(buffer, head);
    this.#host = host;
    this.#kind = PICKED_NONE;
    if (gate === null && head.requireIdField >= 0) {
      exchange.requiredIdentity = head.value(buffer, head.requireIdField);
    }
    // Linkerd's proxies answer a request without a host with an error, unless it comes over HTTP/2 with an authority.
    const nameless = head.hostStart === head.hostEnd && !head.upgrade;
    const kind = exchange.pick(host === null && !nameless ? WANT_HTTP1 : WANT_EITHER);
    if (this.#state !== WAITING) return bodyStart;
    this.#kind = kind;
    if (kept === null && host !== null && exchange.passage?.open === false && isShort(head)) {
      // Where it does not open another endpoint gets the request, perhaps in another form.
      kept = this.#keep(head);
      this.#kept = kept;
    }
    if (kept !== null) {
      kept.head = buffer.toString('latin1', head.start, bodyStart);
      if (changes.length > 0) kept.head = `${changedText(kept.head.slice(0, -2), changes)}\r\n`;
      if (kind === PICKED_HTTP1) this.#writeKept(kept);
      if (kind !== PICKED_NONE) exchange.connect(host);
      this.#logged?.waits();
      return bodyStart;
    }
    if (kind === PICKED_HTTP2) {
      if (head.chunked) this.#body.startChunked(true);
      this.#held = buffer.toString('latin1', head.start, bodyStart);
      if (changes.length === 0) this.#fresh = buffer;
      else this.#held = `${changedText(this.#held.slice(0, -2), changes)}\r\n`;
      exchange.connect(host);
      this.#fresh = null;
      this.#logged?.waits();
      return bodyStart;
    }
    let added = this.#clientIdField;
    const passage = kind === PICKED_NONE ? null : exchange.passage;
    if (passage !== null && changes.length === 0) {
      added = this.#approach(passage, buffer, head);
    }
    added += hostLine(buffer, head);
    const start = head.compact(buffer, head.upgrade);
    const used = kind === PICKED_HTTP1 ? bodyStart + this.#body.take(end - bodyStart) : bodyStart;
    if (used > bodyStart) {
      exchange.requestPart(used - bodyStart);
      if (this.#body.done) exchange.requestEnded();
    }
    if (added === '' && changes.length === 0) this.#held = buffer.toString('latin1', start, used);
    else {
      const body = buffer.toString('latin1', bodyStart, used);
      this.#held = `${changedText(buffer.toString('latin1', start, bodyStart - 2) + added, changes)}\r\n`;
      // After them: nothing that they set may stand in the place of the identity.
      if (passage !== null && changes.length > 0 && !this.#approachHeld(passage)) return used;
      this.#held += body;
    }
    if (kind === PICKED_HTTP1) exchange.connect(host);
    this.#logged?.waits();
    return used;
  }

  #approach(passage: Passage, buffer: Buffer, head: Head): string {
    const added = this.#approaching.note(passage, this.#exchange, buffer, head);
    this.#logged = this.#approaching.logged;
    return added;
  }

  #approachHeld(passage: Passage): boolean {
    const text = this.#approaching.withField(passage, this.#exchange, this.#held, this.#context.requestHead);
    if (text === null) this.#exchange.fail(FAILURE_HEAD_TOO_LARGE);
    else this.#held = text;
    this.#logged = this.#approaching.logged;
    return text !== null;
  }

  judge(gate: RequestGate): number {
    return this.#approaching.judge(gate, this.#upgrade);
  }

  /** What the request's route asks for, or the request itself. */
  #govern(policy: RequestPolicy, buffer: Buffer, head: Head): KeptRequest | null {
    this.#overrides = policy.allowL5dRequestHeaders === true;
    const own = this.#overrides ? overridden(policy, takeOverrides(head, buffer)) : policy;
    return this.#exchange.govern(own, isShort(head)) ? this.#keep(head) : null;
  }

  #keep(head: Head): KeptRequest {
    if (head.chunked) this.#body.leaveOutFraming();
    return new KeptRequest(head.chunked);
  }

  /** A part of the request's body. */
  onBody(buffer: Buffer, start: number, end: number): void {
    const { http1, http2 } = this.#exchange;
    this.#exchange.requestPart(end - start);
    const kept = this.#kept;
    if (kept !== null) {
      const connected = http1 !== null || http2 !== null;
      kept.body.add(buffer, start, end, connected);
      if (!connected) return;
    }
    if (http1 !== null) {
      if (kept?.rechunks === true) sendChunk(http1.out, buffer, start, end);
      else http1.out.bytes(buffer, start, end);
    } else if (http2 !== null) {
      this.#bodySent = true;
      http2.data(buffer, start, end, this.#body.done);
      if (http2.blocked) this.#pause();
    } else if (this.#kind === PICKED_HTTP2) {
      this.#heldBody += buffer.toString('latin1', start, end);
    } else {
      this.#held += buffer.toString('latin1', start, end);
    }
  }

  onTrailer(buffer: Buffer, start: number, end: number): void {
    this.#trailers ??= new HeaderList();
    this.#trailers.add(trailerField(buffer, start, end));
  }

  /** The request is complete; says so where its end is not its last byte. */
  #endRequest(): void {
    const { http1, http2 } = this.#exchange;
    if (http2 !== null) {
      if (http2.localEnded) return;
      if (this.#trailers !== null) http2.trailers(this.#trailers);
      else http2.end();
    } else if (http1 !== null && this.#kept?.rechunks === true) {
      http1.out.string(`0\r\n${this.#trailers === null ? '' : trailerLines(this.#trailers)}\r\n`);
    } else {
      return;
    }
    if (this.#kept === null) this.#trailers = null;
  }

  // ---- the way to an endpoint

  get http2(): boolean {
    return false;
  }

  get repeatable(): boolean {
    return this.#kept === null ? !this.#bodySent : !this.#kept.body.over;
  }

  get movable(): boolean {
    return this.#kept !== null;
  }

  get requestDone(): boolean {
    return this.#body.done;
  }

  /** The request waited for an endpoint; its body was not looked at. */
  onPicked(kind: number): void {
    this.#kind = kind;
    const backlog = this.#backlog;
    this.#backlog = null;
    if (kind === PICKED_HTTP2 && !this.#body.done) this.#body.leaveOutFraming();
    const { passage } = this.#exchange;
    if (this.#kept !== null) {
      // What an earlier attempt noted is of another pod.
      if (this.#connection.log === undefined) this.#logged = null;
      if (kind === PICKED_HTTP1) this.#writeKept(this.#kept);
    } else if (passage !== null && !this.#approachHeld(passage)) return;
    this.#exchange.connect(this.#host);
    if (backlog !== null) this.#consume(backlog, 0, backlog.length, true);
    this.#readMore();
  }

  onAgain(status: number): void {
    if (status > 0) this.#logged?.answered(status, -1);
    this.#state = WAITING;
    if (!this.#body.done) this.#pause();
  }

  onHttp1(upstream: UpstreamConnection): void {
    this.#state = RELAYING;
    const kept = this.#kept;
    if (kept === null) {
      upstream.sendRequest(this.#held);
      this.#held = '';
    } else {
      kept.send(upstream);
      if (this.#body.done) this.#endRequest();
    }
    this.#readMore();
  }

  /** The head for the endpoint that was picked. */
  #writeKept(kept: KeptRequest): void {
    const head = this.#context.requestHead;
    const bytes = Buffer.from(kept.head, 'latin1');
    const bodyStart = parseAgain(head, bytes, this.#overrides);
    const { passage } = this.#exchange;
    kept.write(head, bytes, bodyStart, passage === null ? '' : this.#approach(passage, bytes, head));
  }

  onTakenBack(text: string): void {
    this.#held = text;
    this.#state = WAITING;
    if (!this.#body.done) this.#pause();
  }

  onHttp2(stream: ClientStream): void {
    this.#state = RELAYING;
    const head = this.#context.requestHead;
    let bytes = this.#fresh;
    let bodyStart = 0;
    if (bytes === null) {
      bytes = Buffer.from(this.#kept?.head ?? this.#held, 'latin1');
      bodyStart = parseAgain(head, bytes, this.#overrides);
    } else {
      bodyStart = head.start + this.#held.length;
    }
    const kept = this.#kept;
    let first = kept === null || kept.body.length === 0 ? null : kept.body.bytes;
    if (this.#heldBody !== '') {
      first = Buffer.from(this.#heldBody, 'latin1');
      this.#heldBody = '';
    }
    const done = this.#body.done;
    const ends = done && first === null && this.#trailers === null;
    stream.request(head, bytes, bodyStart, ends, this.#exchange.authority);
    if (first !== null) {
      this.#bodySent = true;
      stream.data(first, 0, first.length, done && this.#trailers === null);
      kept?.body.passedOn();
    }
    if (done) this.#endRequest();
    this.#readMore();
  }

  // ---- endpoint side

  onInterim1(head: Head, buffer: Buffer, end: number): void {
    this.#response.interim1(head, buffer, end);
  }

  onHead1(upstream: UpstreamConnection, head: Head, buffer: Buffer, bodyStart: number, end: number): void {
    if (this.#body.done) this.#kept = null;
    const { status } = head;
    const connects = this.#response.method === METHOD_CONNECT && status < 300;
    if (status === 101 || connects) {
      this.#onTunnelHead(upstream, buffer, head, bodyStart, end, connects);
      return;
    }
    this.#logged?.answered(status, head.contentLength);
    this.#response.head1(this.#exchange, upstream, head, buffer, bodyStart, end, this.#isLast);
  }

  /** Whatever the client has asked for. */
  get #isLast(): boolean {
    return !this.#body.done || this.#draining || this.#exchange.clientEnds;
  }

  /** 101, or 2xx to CONNECT: from here on bytes pass as they are. */
  #onTunnelHead(
    upstream: UpstreamConnection,
    buffer: Buffer,
    head: Head,
    bodyStart: number,
    end: number,
    connects: boolean,
  ): void {
    if (
      !this.#upgrade ||
      !this.#body.done ||
      head.minor === 0 ||
      connects !== (this.#response.method === METHOD_CONNECT)
    ) {
      this.#exchange.fail(FAILURE_UPSTREAM_PROTOCOL);
      return;
    }
    if (connects) {
      head.dropContentLength();
      head.dropTransferEncoding();
    }
    this.#exchange.status = head.status;
    this.#exchange.started = true;
    this.#logged?.answered(head.status, -1);
    this.#state = TUNNEL;
    upstream.headDone(true);
    this.#out.bytes(buffer, head.compact(buffer, !connects), bodyStart);
    if (end > bodyStart) this.#out.bytes(buffer, bodyStart, end);
    this.#exchange.tunnelled();
    const backlog = this.#backlog;
    this.#backlog = null;
    if (backlog !== null) upstream.out.bytes(backlog, 0, backlog.length);
    this.#readMore();
  }

  onTunnelBytes(buffer: Buffer, end: number): void {
    this.#out.bytes(buffer, 0, end);
  }

  onTunnelEnd(): void {
    this.#out.end();
  }

  onTunnelClosed(failed: boolean): void {
    this.#state = CLOSED;
    if (failed) this.#connection.source.reset();
    else this.#out.close();
  }

  onTrailerLine(): void {}

  onInterim2(list: HeaderList): void {
    this.#response.interim2(list);
  }

  onHead2(list: HeaderList, endStream: boolean): void {
    if (this.#body.done) this.#kept = null;
    this.#logged?.answered(list.status, list.contentLength);
    this.#response.head2(this.#exchange, list, endStream, this.#isLast);
  }

  onTrailers(list: HeaderList): void {
    this.#response.trailers(list);
  }

  onResponsePart(buffer: Buffer, start: number, end: number): void {
    this.#response.part(buffer, start, end);
  }

  onEnd(): void {
    this.#response.end();
    this.#requestOver(this.#response.closes);
  }

  onUpstreamBlocked(): void {
    this.#pause();
  }

  onUpstreamDrain(): void {
    this.#readMore();
  }

  // ---- ends

  onFailure(failure: number, started: boolean): void {
    this.#kept = null;
    this.#held = '';
    this.#heldBody = '';
    if (started) {
      // Part of the response is out: only an error shows the client that the rest is missing.
      this.#state = CLOSED;
      this.#connection.source.reset();
      return;
    }
    const { behind, passage } = this.#exchange;
    const routeAnswer = failure === FAILURE_ROUTE ? this.#exchange.routeAnswer : null;
    const answer = routeAnswer ?? failures[failure];
    if (behind || passage === null) this.#logged?.answered(answer?.status ?? 500, 0);
    const closes =
      (behind ? this.#exchange.clientEnds : answer?.closes !== false) ||
      !this.#response.keepAlive ||
      !this.#body.done ||
      this.#draining;
    this.#out.string(
      routeAnswer === null
        ? errorResponse(failure, this.#response.minor, closes, behind ? READER_STRANGER : this.#reader)
        : routeResponse(routeAnswer, this.#response.minor, closes),
    );
    this.#requestOver(closes);
  }

  #requestOver(closes: boolean): void {
    if (closes) {
      this.#state = CLOSING;
      this.#finish();
      return;
    }
    this.#state = READING;
    if (this.#backlog !== null || this.#paused) this.#continue();
  }

  /** Closes after what is to be written; when the client may still be sending, reads on until it stops. */
  #finish(): void {
    const quiet = this.#body.done && this.#backlog === null && this.#partial === null;
    this.#backlog = null;
    this.#partial = null;
    if (quiet) this.#out.close();
    else this.#out.end();
    this.#context.wheel.schedule(this, this.#context.clock.nowMs(), LINGER_MS);
    this.#resume();
  }

  /** The client does not close, or does not end the head that it began. */
  onTimeout(): void {
    if (this.#state === READING) this.#endAt('head_time');
    else if (this.#socket.writableLength === 0) this.#socket.destroy();
    else this.#context.wheel.schedule(this, this.#context.clock.nowMs(), LINGER_MS);
  }

  #onClientEnd(): void {
    switch (this.#state) {
      case READING:
        this.#state = CLOSING;
        this.#backlog = null;
        this.#finish();
        break;
      case TUNNEL:
        this.#exchange.http1?.out.end();
        break;
      case CLOSING:
        this.#out.close();
        break;
      default:
        // Half-closed HTTP clients are not served (as with Linkerd): nobody may be there any more.
        this.#socket.destroy();
    }
  }

  #onClientClosed(): void {
    this.#context.wheel.cancel(this);
    if (this.#state === WAITING || this.#state === RELAYING) {
      this.#exchange.abandon(this.#exchange.status, FAILURE_CLIENT_GONE);
    } else if (this.#state === TUNNEL) {
      this.#exchange.leaveTunnel(this.#socket.errored !== null);
    }
    this.#state = CLOSED;
    this.#partial = null;
    this.#backlog = null;
    this.#onFinished(this);
    this.#connection.onClosed();
  }

  /** Our client reads too slowly. */
  onBlocked(): void {
    this.#exchange.pause();
  }

  #onClientDrain(): void {
    if (this.#exchange.connected) this.#exchange.resume();
    else if (this.#state === READING) this.#continue();
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
  }

  #resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#socket.resume();
  }
}
