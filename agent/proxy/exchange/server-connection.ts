// SPDX-License-Identifier: Apache-2.0
// The HTTP/1 exchange: one client connection, its requests one after another, each carried by a pooled or fresh
// connection to an endpoint picked for it. All state of a connection is here, as small integers and kept fields;
// parsing, balancing, pooling and gathering of writes are elsewhere. Nothing is allocated per request but strings.
//
//            request head             connected              response complete
//   READING ──────────────► WAITING ────────────► RELAYING ───────────────────► READING, or CLOSING
//                              └── failure before the response's head ──► answered here ──┘
//   RELAYING ── 101, 2xx to CONNECT ──► TUNNEL      failure after the head ──► RST to the client
//
// A request is sent again only if its pooled connection closed before any byte of it was written.

import type { Socket } from 'node:net';
import type { LoadEstimate } from '../balance/peak-ewma.ts';
import { pickEndpoint } from '../balance/pick.ts';
import {
  FAILURE_BAD_REQUEST,
  FAILURE_CLIENT_GONE,
  FAILURE_HEAD_TOO_LARGE,
  FAILURE_HTTP_VERSION,
  FAILURE_LOADSHED,
  FAILURE_NONE,
  FAILURE_UPSTREAM_PROTOCOL,
  FAILURE_UPSTREAM_RESET,
  FAILURE_URI_TOO_LONG,
  failures,
} from '../failure.ts';
import { BodyDecoder, type BodySink } from '../http1/body.ts';
import {
  BAD_MESSAGE,
  BAD_VERSION,
  FORM_ABSOLUTE,
  FORM_AUTHORITY,
  type Head,
  INCOMPLETE,
  METHOD_CONNECT,
  METHOD_HEAD,
  methodNames,
  TARGET_TOO_LONG,
  TOO_LARGE,
} from '../http1/head.ts';
import { HEAD_BYTES_MAX } from '../http1/limits.ts';
import { PartialHead } from '../http1/partial-head.ts';
import type { TimeoutNode } from '../timers/wheel.ts';
import { slotOf } from './endpoint-slot.ts';
import { errorResponse } from './error-response.ts';
import { Outbox, type OutboxOwner } from './outbox.ts';
import type { ServerContext } from './server-context.ts';
import type { HttpConnection, HttpEndpoint } from './types.ts';
import { UpstreamConnection, type UpstreamHolder } from './upstream-connection.ts';

/** Between requests, or inside a head. */
const READING = 0;
/** For an endpoint or a connection to it. */
const WAITING = 1;
const RELAYING = 2;
const TUNNEL = 3;
/** The last response is on its way; input is discarded. */
const CLOSING = 4;
const CLOSED = 5;

/** How long a client may take to close after our FIN, and how much it may still send. */
const LINGER_MS = 2000;
/** From the first byte of a request's head to its last. */
const HEAD_MS = 60_000;
const LINGER_BYTES_MAX = 1_048_576;

const DIGIT_0 = 48;
const QUESTION_MARK = 63;
const NUMBER_SIGN = 35;

export class ServerConnection implements BodySink, OutboxOwner, TimeoutNode, UpstreamHolder {
  timeoutPrevious: TimeoutNode | null = null;
  timeoutNext: TimeoutNode | null = null;
  timeoutTick = 0;

  readonly #context: ServerContext;
  readonly #connection: HttpConnection;
  readonly #socket: Socket;
  readonly #out: Outbox;
  /** `l5d-client-id` line to be added to every request. */
  readonly #clientIdField: string;
  /** Whether the client may read `l5d-proxy-error`. */
  readonly #explained: boolean;
  readonly #onFinished: (connection: ServerConnection) => void;

  #state = READING;
  #partial: PartialHead | null = null;
  /** Bytes after the request in flight. */
  #backlog: Buffer | null = null;
  #paused = true;
  #lingered = 0;

  // The request.
  readonly #body: BodyDecoder;
  #method = 0;
  #minor = 1;
  #keepAlive = true;
  #upgrade = false;
  /** Key of the pool; null sends the request over a connection of its own. */
  #host: string | null = null;
  /** The `Host` seen last, to make its string once per connection. */
  #hostText = '';
  /** What has to be written as soon as there is a connection. */
  #held = '';

  // Its way.
  #endpoint: HttpEndpoint | null = null;
  #load: LoadEstimate | null = null;
  #upstream: UpstreamConnection | null = null;
  #dispatchedMs = 0;
  #measuring = false;
  /** Counts waits, so that what comes too late is recognised. */
  #serial = 0;

  // The response.
  #status = 0;
  #started = false;
  /** Whether the connection closes after this response. */
  #closes = false;
  /** The endpoint ends its body by closing; the client gets chunks, so that a cut is seen. */
  #chunking = false;
  /** Whether the endpoint keeps the connection open after this response. */
  #reusable = false;

  constructor(
    context: ServerContext,
    connection: HttpConnection,
    onFinished: (connection: ServerConnection) => void,
  ) {
    this.#context = context;
    this.#connection = connection;
    this.#onFinished = onFinished;
    const { source, gate } = connection;
    this.#socket = source.socket;
    this.#out = new Outbox(source.socket, source.encrypted, context.flusher, this);
    this.#body = new BodyDecoder(context.requestHead);
    this.#clientIdField = gate === null || gate.clientId === '' ? '' : `l5d-client-id: ${gate.clientId}\r\n`;
    this.#explained = gate === null || gate.clientId !== '';
  }

  start(): void {
    const { source, first } = this.#connection;
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

  /** No further request after the present one; closes at once when there is none. */
  drain(): void {
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
          const next = head.parseRequest(buffer, at, end, this.#connection.gate !== null);
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
          if (this.#body.done) {
            this.#stash(buffer, at, end, owned);
            return;
          }
          at = this.#body.push(buffer, at, end, this);
          if (at < 0) {
            this.#fail(at === TOO_LARGE ? FAILURE_HEAD_TOO_LARGE : FAILURE_BAD_REQUEST);
            return;
          }
          break;
        case TUNNEL:
          this.#upstream?.out.bytes(buffer, at, end);
          return;
        case CLOSING:
          this.#lingered += end - at;
          if (this.#lingered > LINGER_BYTES_MAX) this.#socket.destroy();
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
    if (this.#backlog.length >= this.#context.pipelinedBytesMax) this.#pause();
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
    if (this.#upstream !== null && this.#upstream.out.blocked) return;
    if (this.#state !== CLOSED) this.#resume();
  }

  #refuse(verdict: number): void {
    this.#minor = 1;
    this.#method = 0;
    this.#keepAlive = false;
    this.#state = WAITING;
    this.#body.startUntilClose();
    if (verdict === TARGET_TOO_LONG) this.#fail(FAILURE_URI_TOO_LONG);
    else if (verdict === BAD_VERSION) this.#fail(FAILURE_HTTP_VERSION);
    else if (verdict === BAD_MESSAGE) this.#fail(FAILURE_BAD_REQUEST);
    else this.#fail(FAILURE_HEAD_TOO_LARGE);
  }

  /** Takes a request whose head ends at `bodyStart`; returns the position up to which bytes were used. */
  #onRequestHead(buffer: Buffer, head: Head, bodyStart: number, end: number): number {
    this.#state = WAITING;
    this.#method = head.method;
    this.#minor = head.minor;
    this.#keepAlive = head.keepAlive;
    this.#upgrade = head.upgrade;
    this.#status = 0;
    this.#started = false;
    this.#closes = false;
    this.#chunking = false;
    if (head.chunked) this.#body.startChunked(false);
    else if (head.contentLength > 0) this.#body.startLength(head.contentLength);
    else this.#body.startNone();

    const gate = this.#connection.gate;
    if (gate !== null) {
      const method = methodNames[head.method] || buffer.toString('latin1', head.start, head.methodEnd);
      const failure = gate.judge(method, pathOf(buffer, head), head.upgrade);
      if (failure !== FAILURE_NONE) {
        this.#fail(failure);
        return bodyStart;
      }
    }
    this.#host = this.#poolKey(buffer, head);
    let added = this.#clientIdField;
    if (head.form === FORM_ABSOLUTE && !head.hostSeen) {
      added += `host: ${buffer.toString('latin1', head.hostStart, head.hostEnd)}\r\n`;
    }
    const start = head.compact(buffer, head.upgrade);
    const used = bodyStart + this.#body.take(end - bodyStart);
    this.#held =
      added === ''
        ? buffer.toString('latin1', start, used)
        : `${buffer.toString('latin1', start, bodyStart - 2)}${added}\r\n${buffer.toString('latin1', bodyStart, used)}`;
    this.#dispatch();
    return used;
  }

  /** HTTP/1.0, requests without a host and upgrades go over connections of their own, as with Linkerd. */
  #poolKey(buffer: Buffer, head: Head): string | null {
    const { hostStart, hostEnd } = head;
    if (head.minor === 0 || head.upgrade || hostStart === hostEnd) return null;
    const known = this.#hostText;
    let same = known.length === hostEnd - hostStart;
    for (let index = 0; same && index < known.length; index++) {
      same = known.charCodeAt(index) === buffer[hostStart + index];
    }
    if (!same) this.#hostText = buffer.toString('latin1', hostStart, hostEnd);
    return head.form === FORM_ABSOLUTE ? `absolute ${this.#hostText}` : this.#hostText;
  }

  /** A part of the request's body. */
  onBody(buffer: Buffer, start: number, end: number): void {
    const upstream = this.#upstream;
    if (upstream !== null) upstream.out.bytes(buffer, start, end);
    else this.#held += buffer.toString('latin1', start, end);
  }

  // ---- the way to an endpoint

  #dispatch(): void {
    const target = this.#connection.target;
    if (target.endpoints.length === 0) {
      if (target.failfast) {
        this.#fail(FAILURE_LOADSHED);
        return;
      }
      const serial = ++this.#serial;
      target.whenAvailable((failure) => {
        if (serial !== this.#serial) return;
        if (failure === FAILURE_NONE) this.#dispatch();
        else this.#fail(failure);
      });
      return;
    }
    const now = this.#context.clock.nowMs();
    const endpoint = pickEndpoint(target.endpoints, now, this.#context.random);
    const slot = slotOf(endpoint, now);
    this.#endpoint = endpoint;
    this.#load = slot.load;
    this.#dispatchedMs = now;
    this.#measuring = true;
    slot.load.started();
    endpoint.metrics.requestStarted();
    const pooled = this.#host === null ? null : this.#context.pool.take(slot, this.#host);
    if (pooled !== null) this.#attach(pooled);
    else this.#connect(endpoint);
  }

  #connect(endpoint: HttpEndpoint): void {
    this.#state = WAITING;
    const serial = ++this.#serial;
    const host = this.#host;
    const context = this.#context;
    endpoint.connect((failure, source) => {
      if (source === null) {
        if (serial === this.#serial) this.#fail(failure);
        return;
      }
      if (serial === this.#serial) {
        const slot = slotOf(endpoint, this.#dispatchedMs);
        this.#attach(new UpstreamConnection(context, slot, host, source));
      } else if (host === null) {
        source.socket.destroy();
      } else {
        // The client left meanwhile: the next request will be glad of the connection.
        const slot = slotOf(endpoint, context.clock.nowMs());
        new UpstreamConnection(context, slot, host, source).release(true);
      }
    });
  }

  #attach(upstream: UpstreamConnection): void {
    this.#upstream = upstream;
    this.#state = RELAYING;
    upstream.begin(this);
    upstream.out.string(this.#held);
    this.#held = '';
    this.#readMore();
  }

  // ---- endpoint side

  onHeadBytes(buffer: Buffer, end: number): void {
    const upstream = this.#upstream as UpstreamConnection;
    const head = this.#context.responseHead;
    const strips = this.#connection.gate === null;
    let at = 0;
    while (at < end) {
      const next = head.parseResponse(buffer, at, end, strips);
      if (next === INCOMPLETE && end - at <= HEAD_BYTES_MAX) {
        upstream.keep(buffer, at, end);
        return;
      }
      if (next <= 0) {
        this.#fail(FAILURE_UPSTREAM_PROTOCOL);
        return;
      }
      if (head.status >= 200 || head.status === 101) {
        this.#onResponseHead(upstream, buffer, head, next, end);
        return;
      }
      // Interim responses (RFC 9110 15.2) travel on, so that `100 Continue` comes from who will read the body.
      if (this.#minor === 1) {
        head.dropContentLength();
        head.dropTransferEncoding();
        this.#out.bytes(buffer, head.compact(buffer, false), next);
      }
      at = next;
    }
  }

  #onResponseHead(
    upstream: UpstreamConnection,
    buffer: Buffer,
    head: Head,
    bodyStart: number,
    end: number,
  ): void {
    const status = head.status;
    const connects = this.#method === METHOD_CONNECT && status < 300;
    if (status === 101 || connects) {
      this.#onTunnelHead(upstream, buffer, head, bodyStart, end, connects);
      return;
    }
    const body = upstream.body;
    const bodiless = this.#method === METHOD_HEAD || status === 204 || status === 304;
    this.#status = status;
    this.#started = true;
    this.#closes = !this.#keepAlive || !this.#body.done || this.#draining;
    let added = '';
    let reusable = head.keepAlive;
    if (bodiless) {
      body.startNone();
      head.dropTransferEncoding();
      if (status === 204) head.dropContentLength();
    } else if (head.chunked) {
      body.startChunked(this.#minor === 0);
      if (this.#minor === 0) {
        head.dropTransferEncoding();
        this.#closes = true;
      }
    } else if (head.contentLength >= 0) {
      body.startLength(head.contentLength);
    } else {
      body.startUntilClose();
      reusable = false;
      if (this.#minor === 0) {
        this.#closes = true;
      } else {
        this.#chunking = true;
        added = 'transfer-encoding: chunked\r\n';
      }
    }
    this.#reusable = reusable;
    if (this.#closes) added += 'connection: close\r\n';
    else if (this.#minor === 0) added += 'connection: keep-alive\r\n';
    buffer[head.start + 7] = DIGIT_0 + this.#minor;
    const start = head.compact(buffer, false);
    upstream.headDone(false);
    if (added === '') {
      const used = bodyStart + body.take(end - bodyStart);
      this.#out.bytes(buffer, start, used);
      if (used > bodyStart || body.done) this.#measured();
      if (body.done) this.onResponseEnd(used === end);
      else if (used < end) upstream.pushBody(buffer, used, end);
    } else {
      this.#out.string(`${buffer.toString('latin1', start, bodyStart - 2)}${added}\r\n`);
      if (body.done) {
        this.#measured();
        this.onResponseEnd(bodyStart === end);
      } else if (bodyStart < end) {
        upstream.pushBody(buffer, bodyStart, end);
      }
    }
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
      connects !== (this.#method === METHOD_CONNECT)
    ) {
      this.#fail(FAILURE_UPSTREAM_PROTOCOL);
      return;
    }
    if (connects) {
      head.dropContentLength();
      head.dropTransferEncoding();
    }
    this.#status = head.status;
    this.#started = true;
    this.#state = TUNNEL;
    upstream.headDone(true);
    this.#out.bytes(buffer, head.compact(buffer, !connects), bodyStart);
    if (end > bodyStart) this.#out.bytes(buffer, bodyStart, end);
    this.#measured();
    (this.#endpoint as HttpEndpoint).metrics.responseEnded(this.#status, FAILURE_NONE);
    this.#endpoint = null;
    const backlog = this.#backlog;
    this.#backlog = null;
    if (backlog !== null) upstream.out.bytes(backlog, 0, backlog.length);
    this.#readMore();
  }

  onTunnelBytes(buffer: Buffer, end: number): void {
    this.#out.bytes(buffer, 0, end);
  }

  onResponseBody(buffer: Buffer, start: number, end: number): void {
    if (end === start) return;
    if (this.#measuring) this.#measured();
    if (this.#chunking) {
      this.#out.string(`${(end - start).toString(16)}\r\n`);
      this.#out.bytes(buffer, start, end);
      this.#out.string('\r\n');
    } else {
      this.#out.bytes(buffer, start, end);
    }
  }

  onResponseEnd(clean: boolean): void {
    if (this.#measuring) this.#measured();
    if (this.#chunking) this.#out.string('0\r\n\r\n');
    (this.#endpoint as HttpEndpoint).metrics.responseEnded(this.#status, FAILURE_NONE);
    const upstream = this.#upstream;
    this.#upstream = null;
    upstream?.release(clean && this.#reusable && this.#body.done);
    this.#requestOver(this.#closes);
  }

  onResponseInvalid(): void {
    this.#fail(FAILURE_UPSTREAM_PROTOCOL);
  }

  onUpstreamEnd(): void {
    const upstream = this.#upstream;
    if (upstream === null) return;
    if (this.#state === TUNNEL) {
      this.#out.end();
      return;
    }
    if (this.#started && upstream.body.untilClose) this.onResponseEnd(false);
    else this.#onUpstreamLost(upstream);
  }

  onUpstreamClosed(): void {
    const upstream = this.#upstream;
    if (upstream === null) return;
    if (this.#state === TUNNEL) {
      this.#upstream = null;
      this.#state = CLOSED;
      if (upstream.failed) this.#connection.source.reset();
      else this.#out.close();
    } else {
      this.#onUpstreamLost(upstream);
    }
  }

  #onUpstreamLost(upstream: UpstreamConnection): void {
    const unwritten = upstream.reused && !this.#started ? upstream.out.unwritten() : null;
    if (unwritten === null) {
      this.#fail(FAILURE_UPSTREAM_RESET);
      return;
    }
    // Nothing of the request was written: it cannot have been processed.
    this.#upstream = null;
    upstream.release(false);
    this.#held = unwritten;
    if (!this.#body.done) this.#pause();
    this.#connect(this.#endpoint as HttpEndpoint);
  }

  onUpstreamBlocked(): void {
    this.#pause();
  }

  onUpstreamDrain(): void {
    this.#readMore();
  }

  // ---- ends

  /** First byte of the body, or its end: the load estimate's and the histogram's instant. */
  #measured(): void {
    this.#measuring = false;
    const now = this.#context.clock.nowMs();
    const latency = now - this.#dispatchedMs;
    (this.#load as LoadEstimate).finished(now, latency);
    (this.#endpoint as HttpEndpoint).metrics.firstBody(this.#status, latency);
  }

  /** Releases everything of a request that ended otherwise than by its response. */
  #abandon(status: number, failure: number): void {
    this.#serial++;
    this.#held = '';
    const upstream = this.#upstream;
    this.#upstream = null;
    upstream?.release(false);
    const endpoint = this.#endpoint;
    this.#endpoint = null;
    if (endpoint === null) return;
    if (this.#measuring) {
      this.#measuring = false;
      const now = this.#context.clock.nowMs();
      (this.#load as LoadEstimate).finished(now, now - this.#dispatchedMs);
    }
    endpoint.metrics.responseEnded(status, failure);
  }

  #fail(failure: number): void {
    const answer = failures[failure] ?? { status: 500, closes: true };
    this.#abandon(this.#started ? this.#status : answer.status, failure);
    if (this.#started) {
      // Part of the response is out: only an error shows the client that the rest is missing.
      this.#state = CLOSED;
      this.#connection.source.reset();
      return;
    }
    this.#started = true;
    const closes = answer.closes || !this.#keepAlive || !this.#body.done || this.#draining;
    this.#out.string(errorResponse(failure, this.#minor, closes, this.#explained));
    this.#requestOver(closes);
  }

  #requestOver(closes: boolean): void {
    this.#endpoint = null;
    this.#load = null;
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
    if (this.#state === READING || this.#socket.writableLength === 0) this.#socket.destroy();
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
        this.#upstream?.out.end();
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
      this.#abandon(this.#status, FAILURE_CLIENT_GONE);
    } else if (this.#state === TUNNEL) {
      const upstream = this.#upstream;
      this.#upstream = null;
      if (this.#socket.errored !== null) upstream?.reset();
      upstream?.release(false);
    }
    this.#state = CLOSED;
    this.#serial++;
    this.#partial = null;
    this.#backlog = null;
    this.#onFinished(this);
    this.#connection.onClosed();
  }

  // ---- backpressure

  /** Our client reads too slowly. */
  onBlocked(): void {
    this.#upstream?.pause();
  }

  #onClientDrain(): void {
    if (this.#upstream !== null) this.#upstream.resume();
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

/** What routes and policies look at: neither query nor fragment. */
function pathOf(buffer: Buffer, head: Head): string {
  if (head.form === FORM_AUTHORITY) return '';
  const start = head.form === FORM_ABSOLUTE ? head.hostEnd : head.targetStart;
  let end = start;
  while (end < head.targetEnd && buffer[end] !== QUESTION_MARK && buffer[end] !== NUMBER_SIGN) end++;
  return end === start ? '/' : buffer.toString('latin1', start, end);
}
