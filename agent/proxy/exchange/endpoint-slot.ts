// SPDX-License-Identifier: Apache-2.0
// What the exchange hangs on an endpoint: the estimate of its load and its connections. Made at the first use.

import { LoadEstimate } from '../balance/peak-ewma.ts';
import type { IdleList } from '../pool/idle-list.ts';
import type { StreamWaiter } from '../pool/stream-pool.ts';
import type { AuthorityOverride } from './authority-override.ts';
import type { ClientConnection } from './http2-client.ts';
import type { HttpEndpoint } from './types.ts';

export class EndpointSlot {
  readonly load: LoadEstimate;
  /** What its requests name in the place of what their clients do. */
  readonly override: AuthorityOverride | null;
  /** Idle HTTP/1 connections by host; see pool.ts. */
  readonly idle = new Map<string, IdleList>();
  /** HTTP/2 connections that take new streams; see stream-pool.ts. */
  readonly connections: ClientConnection[] = [];
  readonly waiting: StreamWaiter[] = [];
  dialling = 0;
  /** Until then a connection for HTTP/2 that failed, or takes long, is not tried again if there are other endpoints. */
  shunnedUntilMs = 0;
  /** Dials for HTTP/2 that failed since one did not. */
  failedDials = 0;
  /** The endpoint is gone: its HTTP/2 connections end as soon as they carry nothing. */
  retired = false;

  constructor(nowMs: number, override: AuthorityOverride | null = null) {
    this.override = override;
    this.load = new LoadEstimate(nowMs);
  }

  retire(): void {
    this.retired = true;
    // From the end: those that end leave the list.
    for (let index = this.connections.length - 1; index >= 0; index--) this.connections[index]?.endIfUnused();
  }
}

export function slotOf(endpoint: HttpEndpoint, nowMs: number): EndpointSlot {
  endpoint.slot ??= new EndpointSlot(nowMs, endpoint.authorityOverride);
  return endpoint.slot;
}
