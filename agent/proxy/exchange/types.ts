// SPDX-License-Identifier: Apache-2.0
// The seam between protocol codecs (http1, http2) and what decides and connects (accept, route, tls).
// A connection is served against one target, because Linkerd routes by original destination, not by Host; each
// request on it is balanced anew.

import type { RequestPolicy } from '#lib/core/request-policy.ts';
import type { Head } from '../http1/head.ts';
import type { Field } from '#lib/http2/hpack/field.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { Http1Limit } from '../http1/limits.ts';
import type { Http2Limit } from '#lib/http2/limits.ts';
import type { AuthorityOverride } from './authority-override.ts';
import type { TcpSource } from './byte-source.ts';
import type { FieldChanges } from '../model.ts';
import type { RoutedRequest } from '../route/routed-request.ts';
import type { EndpointSlot } from './endpoint-slot.ts';

/**
 * Called with FAILURE_NONE and a source whose socket is ready for the first request byte, or a failure and null.
 * The source's socket is paused; the receiver sets `onBytes`, listens to 'end', 'error', 'close', and resumes it.
 */
export type Connected = (failure: number, source: TcpSource | null) => void;

/** No gRPC, and gRPC without a status: counted as UNKNOWN, but no failure, as Linkerd does. */
export const GRPC_NONE = -1;
export const GRPC_MISSING = -2;

/** Counts for one endpoint of one client pod (or one inbound client): cells were resolved when it was made. */
export interface HttpMetrics {
  /** When the request is dispatched to the endpoint. */
  requestStarted(): void;
  /** At the first byte of the response's body, or its end; milliseconds since dispatch. */
  firstBody(status: number, latencyMs: number): void;
  /**
   * At the end of the response; `failure` is FAILURE_NONE when the status came from the endpoint. `grpcStatus` decides
   * then, unless it is GRPC_NONE: no gRPC request.
   */
  responseEnded(status: number, failure: number, grpcStatus: number): void;
  /** Instead of an end: HTTP/2 that its endpoint reset. `status` is 0 before the head. */
  responseReset(status: number, code: number): void;
  /** Instead of an end: the request goes elsewhere; it did not reach the endpoint, or came back with its connection. */
  requestReturned(): void;
}

/** Counts what a route, or a backend, sees of requests. */
export interface StreamCounts {
  /** A part of a body: of the request for a route, of the answer for a backend. */
  frame(bytes: number): void;
  /** `status` 0: there was none; `error`: Linkerd's name of it, or ''. */
  ended(seconds: number, status: number, grpcStatus: number, error: string): void;
}

export interface BackendCounts extends StreamCounts {
  /** An attempt that goes to an endpoint at once. */
  started(): void;
  /** One for which there is no endpoint now; `waited` follows. */
  waits(): void;
  waited(seconds: number): void;
}

/** The route that a request has, and the backend that it goes to. */
export interface HttpRoute {
  readonly metrics: StreamCounts;
  readonly backend: BackendCounts;
  readonly retries?: RetryMetrics | undefined;
}

/** A request in the server's side of a passage. */
export interface Passenger {
  /** The way is closed: the request ends now, as if a connection had broken. */
  cut(): void;
}

/** The server's side of a pod of this node, which requests enter in memory instead of over a connection. */
export interface Passage {
  /** Whether requests may enter at this moment. */
  readonly open: boolean;
  /** Calls once when they may (FAILURE_NONE) or when it is clear that they may not; never synchronously. */
  whenOpen(done: (failure: number) => void): void;
  /** Opens it for requests to come. */
  prepare(): void;
  /** What follows is there while it is open. The server's policy. */
  readonly gate: RequestGate;
  /** Notes requests for the server's pod; may be told of them before it is open. */
  readonly log: RequestLog;
  readonly observer: RequestObserver;
  /** `l5d-client-id`, which the application gets in the place of any that came. */
  readonly clientIdField: Field;
  /** The application as the server's side reaches it. */
  readonly application: HttpEndpoint & Pick<HttpTarget, 'route' | 'failed'>;
  enter(passenger: Passenger): void;
  leave(passenger: Passenger): void;
}

/** What the proxy answers by a route, in the place of a backend. */
export interface RouteAnswer {
  readonly status: number;
  /** Of gRPC requests, instead. */
  readonly grpcStatus: number;
  /** Value of `l5d-proxy-error`, or empty. */
  readonly message: string;
  /** Of a redirect; else empty. */
  readonly location: string;
  readonly closes: boolean;
}

/** What the routes say of one request. */
export interface Routed {
  /** Where it goes. */
  readonly target: HttpTarget;
  /** It goes nowhere, but gets this. */
  readonly answer: RouteAnswer | null;
  /** Asked for each attempt: what it gets in the place of an endpoint's answer, or null. Absent: never anything. */
  readonly inject?: () => RouteAnswer | null;
  readonly requestChanges: readonly FieldChanges[];
  readonly responseChanges: readonly FieldChanges[];
}

export interface RequestRouter {
  route(request: RoutedRequest): Routed;
}

/**
 * An endpoint as the exchange sees it. Owned by the target; the pool and the load estimate hang on it, so the object
 * stays the same while the endpoint's metadata does, and is never shared by clients of different identities.
 */
export interface HttpEndpoint {
  /** Stable while metadata is unchanged; for logs. */
  readonly name: string;
  readonly metrics: HttpMetrics;
  /** The exchange's own; the owner sets it to null when it makes the endpoint and leaves it alone. */
  slot: EndpointSlot | null;
  /** What it proves, or is vouched for; '' or absent in plain text. */
  readonly identity?: string;
  /** Its own proxy may ask that the client's connection ends: it is the only one that was dialled. */
  readonly endsClients?: boolean;
  /** Whether HTTP/1 requests may travel to it over HTTP/2, many on one connection: between agents. */
  readonly multiplexed: boolean;
  /** Null or absent: requests name what their clients do. */
  readonly authorityOverride?: AuthorityOverride | null;
  /** Made when it is asked for. */
  readonly facts?: EndpointFacts;
  /** How its requests travel in memory; null: over connections. */
  readonly passage: Passage | null;
  /**
   * Opens a new connection (TCP, TLS, transport header done) for HTTP/1 or HTTP/2. Never calls back synchronously.
   */
  connect(http2: boolean, done: Connected): void;
}

/** Counts of the attempts after the first of a route's requests. */
export interface RetryMetrics {
  retried(): void;
  /** One of them was what the route wants. */
  succeeded(): void;
  /** The last one allowed was not. */
  limitExceeded(): void;
  /** There was nobody for another one. */
  overflowed(): void;
}

/** Where the requests of a connection go. */
export interface HttpTarget {
  /** Logical `name:port` of a service, or the original destination. */
  readonly authority: string;
  /** How requests are limited and sent again whose route says nothing else; read once per request. */
  readonly policy?: RequestPolicy | undefined;
  /** The route of requests that no other route takes: what is counted of them. */
  readonly route?: HttpRoute | undefined;
  /** A request was answered by the proxy, or cut off, because of `failure`. */
  readonly failed?: (failure: number) => void;
  /** Says for each request where it goes; absent: here. Changes with the routes. */
  readonly router?: RequestRouter | null | undefined;
  /** Endpoints now; replaced, never changed in place (compare by reference). */
  readonly endpoints: readonly HttpEndpoint[];
  /** Empty for long: the failfast state (503 at once instead of waiting). */
  readonly failfast: boolean;
  /** Calls once when endpoints exist (FAILURE_NONE) or waiting ended (FAILURE_FAILFAST, FAILURE_DISCOVERY). */
  whenAvailable(done: (failure: number) => void): void;
}

/** Judges one request inbound; outbound connections have none. */
export interface RequestGate {
  /**
   * FAILURE_NONE or FAILURE_POLICY; called once per request, counts and logs denials itself. `upgrade`: the connection
   * may become a tunnel, in which nothing is judged any more.
   */
  judge(method: string, path: string, upgrade: boolean): number;
  /** `l5d-client-id` of a meshed client: set on each request, any other value removed. Empty: only removed. */
  readonly clientId: string;
}

/** Notes the requests of one connection; each answers null while nobody wants to read of them. */
export interface RequestLog {
  /** `head` was parsed from `buffer`, and nothing of it is closed up yet. */
  http1(head: Head, buffer: Buffer): LoggedRequest | null;
  http2(list: HeaderList): LoggedRequest | null;
}

export interface LoggedRequest {
  /** All that could be done at once is done: now others are waited for. */
  waits(): void;
  /** The head of its final answer leaves; without `content-length` `responseBytes` is -1. */
  answered(status: number, responseBytes: number): void;
}

/** What may be told of an endpoint to who watches exchanges. */
export interface EndpointFacts {
  readonly ip: string;
  readonly port: number;
  /** How it is reached: TLS, the kernel's voucher, plain text, or as the application of the proxy's own pod. */
  readonly tls: 'mtls' | 'carrier' | 'plain' | 'loopback';
  /** What it proves; undefined: nothing. */
  readonly identity: string | undefined;
  /** Of discovery. */
  readonly labels: Readonly<Record<string, string>>;
}

/** Watches the requests of one connection; each answers null while nobody listens. */
export interface RequestObserver {
  /**
   * `head` was parsed from `buffer`, and nothing of it is closed up yet. Values may be replaced by others of the same
   * length.
   */
  http1(head: Head, buffer: Buffer): ObservedExchange | null;
  /** Fields may be replaced. */
  http2(list: HeaderList): ObservedExchange | null;
}

/** What becomes of a request that is watched. Buffers, heads and lists hold during the call. */
export interface ObservedExchange {
  /** It goes to that endpoint; again if it is tried again. */
  dispatched(endpoint: HttpEndpoint): void;
  /** The head of the final response, as it came. */
  answeredHttp1(head: Head, buffer: Buffer): void;
  answeredHttp2(list: HeaderList): void;
  /** So much more of the response's body has passed. */
  passed(bytes: number): void;
  /** A trailer field's line, of HTTP/1. */
  trailer(buffer: Buffer, start: number, end: number): void;
  trailers(list: HeaderList): void;
  /**
   * The response, or tunnel, has come to its end or has failed. `status` is what the client sees; `reset`: the code
   * with which an HTTP/2 endpoint reset it, or -1.
   */
  ended(status: number, failure: number, grpcStatus: number, reset: number): void;
}

/** A client connection to be served with HTTP/1.x, or HTTP/2. */
export interface HttpConnection {
  /** The accepted (or unwrapped TLS) connection, paused; allowHalfOpen. The callee sets `onBytes` and resumes. */
  readonly source: TcpSource;
  /** What detection read already; the callee takes it out: the buffer shall not stay as long as the connection. */
  first: Buffer | null;
  /** HTTP/1.x if absent. */
  readonly http2?: boolean;
  readonly target: HttpTarget;
  readonly gate: RequestGate | null;
  /** Of inbound connections. */
  readonly log?: RequestLog;
  readonly observer?: RequestObserver;
  /** The pod whose connection it is. Once it leaves the mesh, each answer says that the connection ends. */
  readonly owner?: { readonly leaving: boolean };
  /** The client has come to a limit of this version of HTTP. */
  readonly onLimit?: (version: 1 | 2, limit: Http1Limit | Http2Limit) => void;
  /** After the socket is closed and nothing refers to the connection. */
  readonly onClosed: () => void;
}

/** What the codec serves with; one per worker. */
export interface HttpServer {
  serve(connection: HttpConnection): void;
  /** Clients are told to leave, those of HTTP/1 with their answers, new ones too. All is over after `graceMs`. */
  drain(graceMs: number): void;
  /**
   * Again and again while draining, or while the owner leaves: closes connections (of that owner, or all) on which nothing
   * is asked and whose clients know that they have to leave.
   */
  dismiss(owner?: object): void;
  /** Ends the draining. */
  resume(): void;
  /** Connections being served. */
  readonly active: number;
}
