// SPDX-License-Identifier: Apache-2.0
// The connection to an endpoint that speaks HTTP/2: between agents, where it carries HTTP/1.1 too, and to applications.
// Streams are lent to exchanges. A stream that the endpoint provably did not process (GOAWAY, REFUSED_STREAM) may be
// sent again. An idle connection ends after a minute.

import { FAILURE_UPSTREAM_PROTOCOL, FAILURE_UPSTREAM_RESET } from '../failure.ts';
import { METHOD_HEAD } from '#lib/http/methods.ts';
import { type Head } from '../http1/head.ts';
import {
  CANCEL,
  NO_ERROR,
  PROTOCOL_ERROR,
  REFUSED_STREAM,
  STREAM_CLOSED,
  WINDOW_MAX,
} from '#lib/http2/codes.ts';
import { defineField } from '#lib/http2/hpack/field.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import {
  BODY_MISMATCH,
  responseBody,
  VALID,
  validateResponse,
  validateTrailers,
} from '#lib/http2/message.ts';
import type { Http2Limit } from '#lib/http2/limits.ts';
import { blockBytesMax, writeRequestHead } from '../http2/translate.ts';
import { overriddenList } from './authority-override.ts';
import type { TcpSource } from './byte-source.ts';
import type { EndpointSlot } from './endpoint-slot.ts';
import { Http2Connection, STREAMS_MAX } from './http2-connection.ts';
import { Stream } from './http2-stream.ts';
import type { ServerContext } from './server-context.ts';
import { SpareStreams } from './spare-streams.ts';

const IDLE_MS = 60_000;
/** The endpoint did not reset the stream: it or the connection failed. */
export const NOT_RESET = -1;

/** What holds a stream while it carries a request. */
export interface StreamHolder {
  /** An interim or a final head. */
  onStreamHead(list: HeaderList, endStream: boolean): void;
  onResponseBody(buffer: Buffer, start: number, end: number): void;
  onStreamTrailers(list: HeaderList): void;
  onStreamEnd(): void;
  /** `unprocessed`: the endpoint did nothing with the request; `reset`: with what it reset the stream, or NOT_RESET. */
  onStreamFailed(failure: number, unprocessed: boolean, reset: number): void;
  onUpstreamDrain(): void;
}

export class ClientStream extends Stream {
  holder: StreamHolder | null = null;
  readonly #client: ClientConnection;
  #headSeen = false;
  #method = 0;

  constructor(connection: ClientConnection) {
    super(connection);
    this.#client = connection;
  }

  /** Opens the stream with an HTTP/1 request's head that lies in `buffer`. `authority`: for one that names none. */
  request(head: Head, buffer: Buffer, bodyStart: number, endStream: boolean, authority: string): void {
    this.#method = head.method;
    this.#client.sendRequest(this, head, buffer, bodyStart, endStream, authority);
    if (endStream) this.headEnded();
  }

  requestList(list: HeaderList, endStream: boolean): void {
    this.#method = list.method;
    this.#client.sendRequestList(this, list, endStream);
    if (endStream) this.headEnded();
  }

  override again(): void {
    super.again();
    this.holder = null;
    this.#headSeen = false;
    this.#method = 0;
  }

  /** Takes the stream from its holder, once; what has not ended is given up. */
  release(): void {
    const ended = this.localEnded && this.remoteEnded;
    this.holder = null;
    this.cancel(CANCEL);
    if (ended) this.#client.spares.keep(this);
  }

  onHeaders(list: HeaderList, endStream: boolean): number {
    const { holder } = this;
    if (holder === null) return NO_ERROR;
    if (this.#headSeen) {
      if (!endStream || this.remaining > 0 || validateTrailers(list) !== VALID) return PROTOCOL_ERROR;
      this.remoteEnded = true;
      holder.onStreamTrailers(list);
      this.#client.ended(this);
      return NO_ERROR;
    }
    if (validateResponse(list) !== VALID) return PROTOCOL_ERROR;
    if (list.status < 200) {
      if (endStream) return PROTOCOL_ERROR;
    } else {
      this.#headSeen = true;
      this.remaining = responseBody(list, this.#method, endStream);
      if (this.remaining === BODY_MISMATCH) return PROTOCOL_ERROR;
      this.remoteEnded = endStream;
    }
    holder.onStreamHead(list, endStream);
    if (endStream) this.#client.ended(this);
    return NO_ERROR;
  }

  get isHead(): boolean {
    return this.#method === METHOD_HEAD;
  }

  onData(buffer: Buffer, start: number, end: number): void {
    this.holder?.onResponseBody(buffer, start, end);
  }

  onEnded(): void {
    this.holder?.onStreamEnd();
  }

  onReset(code: number): void {
    const { holder } = this;
    this.holder = null;
    holder?.onStreamFailed(FAILURE_UPSTREAM_RESET, code === REFUSED_STREAM, code);
  }

  onLost(code: number, unprocessed: boolean): void {
    const { holder } = this;
    this.holder = null;
    const failure = code === PROTOCOL_ERROR ? FAILURE_UPSTREAM_PROTOCOL : FAILURE_UPSTREAM_RESET;
    holder?.onStreamFailed(failure, unprocessed, NOT_RESET);
  }

  onWritable(): void {
    this.holder?.onUpstreamDrain();
  }
}

export class ClientConnection extends Http2Connection {
  readonly spares = new SpareStreams<ClientStream>();
  readonly #slot: EndpointSlot;
  #next = 1;
  #idleSinceMs: number;

  constructor(context: ServerContext, slot: EndpointSlot, source: TcpSource) {
    super(context, source, false);
    this.#slot = slot;
    this.#idleSinceMs = this.receivedMs;
    slot.connections.push(this);
  }

  /** Whether it takes one more stream. */
  get available(): boolean {
    return (
      !this.leaving &&
      !this.socket.destroyed &&
      this.streams.size < STREAMS_MAX &&
      this.streams.size < this.peerStreamsMax &&
      this.#next < WINDOW_MAX
    );
  }

  /** To be opened at once. */
  stream(): ClientStream {
    const spare = this.spares.take();
    if (spare === undefined) return new ClientStream(this);
    spare.again();
    return spare;
  }

  register(stream: ClientStream): void {
    stream.id = this.#next;
    this.#next += 2;
    this.streams.add(stream);
  }

  sendRequest(
    stream: ClientStream,
    head: Head,
    buffer: Buffer,
    bodyStart: number,
    endStream: boolean,
    authority: string,
  ): void {
    this.register(stream);
    const override = this.#slot.override?.field ?? null;
    const fallback =
      override === null && head.hostStart === head.hostEnd ? defineField(':authority', authority) : null;
    const headBytes = bodyStart - head.start + ((override ?? fallback)?.value.length ?? 0);
    const block = this.beginBlock(blockBytesMax(headBytes));
    const end = writeRequestHead(this.encoder, this.out.buffer, block, head, buffer, override, fallback);
    this.endBlock(stream, end, endStream);
  }

  sendRequestList(stream: ClientStream, list: HeaderList, endStream: boolean): void {
    const { override } = this.#slot;
    this.register(stream);
    this.sendList(stream, override === null ? list : overriddenList(list, override), endStream);
  }

  onGoAway(lastStream: number, code: number): number {
    this.context.log.debug({ code, lastStream }, 'an endpoint ends its HTTP/2 connection');
    // First: what is sent again shall not come here again.
    this.#leaveSlot();
    this.leave();
    for (const stream of this.streams.list()) {
      if (stream.id <= lastStream) continue;
      this.forget(stream);
      stream.onLost(REFUSED_STREAM, true);
    }
    return this.noise();
  }

  protected onNewStream(id: number): number {
    return this.isIdle(id) ? PROTOCOL_ERROR : STREAM_CLOSED;
  }

  protected isIdle(id: number): boolean {
    return (id & 1) === 0 || id >= this.#next;
  }

  protected onStreamGone(): void {
    if (this.streams.size === 0) this.#idleSinceMs = this.receivedMs;
    this.endIfDone();
    if (this.#slot.waiting.length > 0) this.context.streams.serve(this.#slot);
    if (this.#slot.retired) this.endIfUnused();
  }

  protected onIdle(nowMs: number): void {
    if (nowMs - this.#idleSinceMs >= IDLE_MS) this.endIfUnused();
  }

  endIfUnused(): void {
    if (this.leaving || this.streams.size > 0) return;
    this.sendGoAway(0, NO_ERROR);
    this.leave();
    this.#leaveSlot();
  }

  protected limited(limit: Http2Limit): void {
    this.context.log.debug({ limit }, 'an endpoint has come to a limit of HTTP/2');
  }

  protected onClosed(): void {
    this.#leaveSlot();
  }

  #leaveSlot(): void {
    const { connections } = this.#slot;
    const at = connections.indexOf(this);
    if (at >= 0) connections.splice(at, 1);
  }
}
