// SPDX-License-Identifier: Apache-2.0
// Streams to endpoints that speak HTTP/2: as a rule one connection an endpoint carries them all; another one is opened
// only when it is full. Requests wait here while the first connection is made, and may go elsewhere when it is slow.

import { ClientConnection, type ClientStream } from '../exchange/http2-client.ts';
import type { EndpointSlot } from '../exchange/endpoint-slot.ts';
import type { ServerContext } from '../exchange/server-context.ts';
import type { HttpEndpoint } from '../exchange/types.ts';
import { FAILURE_LIMIT, FAILURE_NONE } from '../failure.ts';

/** For a connection of one endpoint. */
const WAITING_MAX = 10_000;
/** Of one endpoint; beyond them requests wait for a stream. */
const CONNECTIONS_MAX = 32;
/** As many as wait for one connection that is being made: the least that a peer should allow (RFC 9113 6.5.2). */
const WAITING_PER_DIAL = 100;
/** What Linkerd allows TCP and TLS together; here who waits looks for another endpoint then, and again and again. */
const PATIENCE_MS = 1_000;
/** Pauses after dials that failed, as Linkerd's: doubled each time, and up to a tenth more. */
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 60_000;
const PAUSE_JITTER = 0.1;

export interface StreamWaiter {
  /** To be opened at once; or why there is none. */
  ready(failure: number, stream: ClientStream | null): void;
  /** The connection takes long; true: no longer waits here. */
  leaves(): boolean;
}

export class StreamPool {
  #context: ServerContext | null = null;

  /** The context has the pool, and the pool the context. */
  use(context: ServerContext): void {
    this.#context = context;
  }

  /** A stream if there is a connection with room. It is opened by whoever gets it, at once. */
  take(slot: EndpointSlot): ClientStream | null {
    const { connections } = slot;
    for (let index = 0; index < connections.length; index++) {
      const connection = connections[index] as ClientConnection;
      if (connection.available) return connection.stream();
    }
    return null;
  }

  /** Where `take` found none. */
  wait(endpoint: HttpEndpoint, slot: EndpointSlot, waiter: StreamWaiter): void {
    if (slot.waiting.length >= WAITING_MAX) {
      setImmediate(() => waiter.ready(FAILURE_LIMIT, null));
      return;
    }
    slot.waiting.push(waiter);
    const enough = slot.waiting.length <= slot.dialling * WAITING_PER_DIAL;
    if (!enough && slot.connections.length + slot.dialling < CONNECTIONS_MAX) this.#dial(endpoint, slot);
  }

  /** Nobody waits, but somebody would have liked to go there. */
  prepare(endpoint: HttpEndpoint, slot: EndpointSlot): void {
    const now = (this.#context as ServerContext).clock.nowMs();
    if (slot.dialling === 0 && slot.shunnedUntilMs <= now) this.#dial(endpoint, slot);
  }

  /** There may be room for those that wait. */
  serve(slot: EndpointSlot): void {
    while (slot.waiting.length > 0) {
      const stream = this.take(slot);
      if (stream === null) return;
      slot.waiting.shift()?.ready(FAILURE_NONE, stream);
    }
  }

  #dial(endpoint: HttpEndpoint, slot: EndpointSlot): void {
    const context = this.#context as ServerContext;
    slot.dialling++;
    let timer = context.clock.after(PATIENCE_MS, function slow() {
      slot.shunnedUntilMs = Number.POSITIVE_INFINITY;
      for (const waiter of slot.waiting.splice(0)) if (!waiter.leaves()) slot.waiting.push(waiter);
      timer = context.clock.after(PATIENCE_MS, slow);
    });
    endpoint.connect(true, (failure, source) => {
      timer.cancel();
      slot.dialling--;
      if (source === null) {
        this.#failed(slot, failure);
        return;
      }
      slot.shunnedUntilMs = 0;
      slot.failedDials = 0;
      const connection = new ClientConnection(context, slot, source);
      connection.start(null);
      this.serve(slot);
      if (slot.retired) connection.endIfUnused();
    });
  }

  #failed(slot: EndpointSlot, failure: number): void {
    // Others that are being made, or have streams that end, serve who waits.
    if (slot.dialling > 0 || slot.connections.length > 0) return;
    const { clock, random } = this.#context as ServerContext;
    const pauseMs = Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** Math.min(slot.failedDials++, 30));
    slot.shunnedUntilMs = clock.nowMs() + pauseMs * (1 + random() * PAUSE_JITTER);
    for (const waiter of slot.waiting.splice(0)) waiter.ready(failure, null);
  }
}
