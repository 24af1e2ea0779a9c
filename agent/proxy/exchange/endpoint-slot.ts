// SPDX-License-Identifier: Apache-2.0
// What the exchange hangs on an endpoint: the estimate of its load and its idle connections. Made at the first use.

import { LoadEstimate } from '../balance/peak-ewma.ts';
import type { IdleList } from '../pool/idle-list.ts';
import type { HttpEndpoint } from './types.ts';

export class EndpointSlot {
  readonly load: LoadEstimate;
  /** By host; see pool.ts. */
  readonly idle = new Map<string, IdleList>();

  constructor(nowMs: number) {
    this.load = new LoadEstimate(nowMs);
  }
}

export function slotOf(endpoint: HttpEndpoint, nowMs: number): EndpointSlot {
  endpoint.slot ??= new EndpointSlot(nowMs);
  return endpoint.slot;
}
