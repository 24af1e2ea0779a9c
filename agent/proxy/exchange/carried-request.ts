// SPDX-License-Identifier: Apache-2.0
// The part of an exchange that its parts of bodies pass: what carries the request now, and who counts or watches it.

import type { ClientStream } from './http2-client.ts';
import type { FarSide } from './far-side.ts';
import { RouteMeter } from './route-meter.ts';
import type { ServerContext } from './server-context.ts';
import type { ObservedExchange, RouteAnswer } from './types.ts';
import type { UpstreamConnection } from './upstream-connection.ts';

export abstract class CarriedRequest {
  /** Carries the request now; at most one of the two. */
  http1: UpstreamConnection | null = null;
  http2: ClientStream | null = null;
  /** Null as long as nobody listens; set by the client's side after `begin`. */
  observed: ObservedExchange | null = null;
  /** What the present attempt gets from its route in the place of an endpoint's answer. */
  routeAnswer: RouteAnswer | null = null;
  protected readonly context: ServerContext;
  protected readonly meter = new RouteMeter();
  /** The server's side of passages; made for the first. */
  protected far: FarSide | null = null;
  /** When it went to the present endpoint. */
  protected dispatchedMs = 0;
  /** Of the request's body, so far. */
  protected requestBytes = 0;

  constructor(context: ServerContext) {
    this.context = context;
  }

  /** Whether the endpoint's side takes no more of the request now. */
  get blocked(): boolean {
    if (this.http1 !== null) return this.http1.out.blocked;
    return this.http2 !== null && this.http2.blocked;
  }

  get connected(): boolean {
    return this.http1 !== null || this.http2 !== null;
  }

  /** Part of the request's body passes. */
  requestPart(bytes: number): void {
    this.requestBytes += bytes;
    this.meter.requestPart(bytes);
    this.far?.requestPart(bytes);
  }

  /** All of the request has come. */
  requestEnded(): void {
    const now = this.connected ? this.context.clock.nowMs() : this.dispatchedMs;
    this.meter.flushed(now);
    this.far?.requestEnded(now);
  }

  /** Part of the response's body passes that came with its head. */
  responsePart(bytes: number): void {
    this.meter.responsePart(bytes);
    this.far?.responsePart(bytes);
    if (this.observed !== null) this.observed.passed(bytes);
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
}
