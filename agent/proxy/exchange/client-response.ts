// SPDX-License-Identifier: Apache-2.0
// A response as it goes to an HTTP/1 client: its version, its framing, and whether the connection ends with it. One is
// kept for all responses of a connection. Heads and bodies come from the exchange, of either protocol.

import { METHOD_HEAD } from '#lib/http/methods.ts';
import { type Head } from '../http1/head.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { responseText, trailerLines } from '../http2/translate.ts';
import { changedText, changeList, noChanges } from '../route/filters.ts';
import type { Exchange } from './exchange.ts';
import { type Outbox, sendChunk } from './outbox.ts';
import { FRAMED_BY_CLOSE, FRAMED_IN_CHUNKS, frameResponse } from './response-framing.ts';
import type { UpstreamConnection } from './upstream-connection.ts';

const DIGIT_0 = 48;

export class ClientResponse {
  /** Of the request. */
  method = 0;
  minor = 1;
  keepAlive = true;
  /** Whether the connection closes after this response. */
  closes = false;
  readonly #out: Outbox;
  /** The endpoint tells no length; the client gets chunks, so that a cut is seen. */
  #chunking = false;
  #trailerText = '';

  constructor(out: Outbox) {
    this.#out = out;
  }

  /** A request has come. */
  begin(method: number, minor: number, keepAlive: boolean): void {
    this.method = method;
    this.minor = minor;
    this.keepAlive = keepAlive;
    this.closes = false;
    this.#chunking = false;
  }

  // ---- of an HTTP/1 endpoint

  interim1(head: Head, buffer: Buffer, end: number): void {
    if (this.minor === 1) this.#out.bytes(buffer, head.compact(buffer, false), end);
  }

  /** `buffer[bodyStart, end)` came with the head; `last`: the client shall not ask again here. */
  head1(
    exchange: Exchange,
    upstream: UpstreamConnection,
    head: Head,
    buffer: Buffer,
    bodyStart: number,
    end: number,
    last: boolean,
  ): void {
    const { status } = head;
    const { body } = upstream;
    exchange.status = status;
    exchange.started = true;
    this.closes = last || !this.keepAlive;
    let added = '';
    const framing = frameResponse(body, head, this.minor, this.#isBodiless(status));
    if (framing === FRAMED_BY_CLOSE) {
      this.closes = true;
    } else if (framing === FRAMED_IN_CHUNKS) {
      this.#chunking = true;
      added = 'transfer-encoding: chunked\r\n';
    }
    exchange.reusable = head.keepAlive && !body.untilClose;
    added += this.#connectionLine();
    buffer[head.start + 7] = DIGIT_0 + this.minor;
    const start = head.compact(buffer, false);
    const changes = exchange.routed?.responseChanges ?? noChanges;
    upstream.headDone(false);
    if (added === '' && changes.length === 0) {
      const used = bodyStart + body.take(end - bodyStart);
      this.#out.bytes(buffer, start, used);
      if (used > bodyStart) exchange.responsePart(used - bodyStart);
      if (body.done) {
        exchange.onResponseEnd(used === end);
      } else {
        if (used > bodyStart) exchange.measured();
        if (used < end) upstream.pushBody(buffer, used, end);
      }
    } else {
      this.#out.string(
        `${changedText(buffer.toString('latin1', start, bodyStart - 2) + added, changes)}\r\n`,
      );
      if (body.done) exchange.onResponseEnd(bodyStart === end);
      else if (bodyStart < end) upstream.pushBody(buffer, bodyStart, end);
    }
  }

  // ---- of an HTTP/2 endpoint

  interim2(list: HeaderList): void {
    if (this.minor === 1) this.#out.string(`${responseText(list, 1, false)}\r\n`);
  }

  /** As `head1`. */
  head2(exchange: Exchange, list: HeaderList, endStream: boolean, last: boolean): void {
    for (const changes of exchange.routed?.responseChanges ?? noChanges) changeList(list, changes);
    const { status } = list;
    this.closes = last || !this.keepAlive;
    let added = '';
    if (status === 204) list.dropLength();
    if (!this.#isBodiless(status) && list.contentLength < 0) {
      if (endStream) added = 'content-length: 0\r\n';
      else if (this.minor === 1) this.#chunking = true;
      else this.closes = true;
    }
    added += this.#connectionLine();
    this.#out.string(`${responseText(list, this.minor, this.#chunking)}${added}\r\n`);
  }

  trailers(list: HeaderList): void {
    if (this.#chunking) this.#trailerText = trailerLines(list);
  }

  // ---- of both

  part(buffer: Buffer, start: number, end: number): void {
    if (this.#chunking) sendChunk(this.#out, buffer, start, end);
    else this.#out.bytes(buffer, start, end);
  }

  end(): void {
    if (!this.#chunking) return;
    this.#out.string(`0\r\n${this.#trailerText}\r\n`);
    this.#trailerText = '';
  }

  #isBodiless(status: number): boolean {
    return this.method === METHOD_HEAD || status === 204 || status === 304;
  }

  #connectionLine(): string {
    if (this.closes) return 'connection: close\r\n';
    return this.minor === 0 ? 'connection: keep-alive\r\n' : '';
  }
}
