// SPDX-License-Identifier: Apache-2.0
// What an exchange asks of the side of its client (server-connection.ts, http2-server.ts).

import type { Head } from '../http1/head.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { ClientStream } from './http2-client.ts';
import type { RequestGate } from './types.ts';
import type { UpstreamConnection } from './upstream-connection.ts';

/** What the request may travel over: its own HTTP/1 connection, HTTP/2 if the endpoint has it, or only HTTP/2. */
export const WANT_HTTP1 = 0;
export const WANT_EITHER = 1;
export const WANT_HTTP2 = 2;

/** Nobody yet, or the request has failed already. */
export const PICKED_NONE = 0;
export const PICKED_HTTP1 = 1;
export const PICKED_HTTP2 = 2;

/** The client's side. */
export interface ExchangeClient {
  /** There is an endpoint, after waiting or for another attempt: go on as after `pick`. */
  onPicked(kind: number): void;
  /** What the gate says to the request. */
  judge(gate: RequestGate): number;
  /**
   * What came of this attempt is nobody's: `onPicked` follows, and then all of the request is to be sent again.
   * `status`: of the answer, if there was one.
   */
  onAgain(status: number): void;
  /** Send the request; the first time, or again on another connection. */
  onHttp1(upstream: UpstreamConnection): void;
  onHttp2(stream: ClientStream): void;
  /** Whether the request can be sent again from its beginning. */
  readonly repeatable: boolean;
  /** Whether a request that was not sent yet can be made ready for another kind of endpoint. */
  readonly movable: boolean;
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
