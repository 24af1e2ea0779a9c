// SPDX-License-Identifier: Apache-2.0
// Streams to endpoints that speak HTTP/2: as a rule one connection an endpoint carries them all; another one is opened
// only when it is full. Requests wait here while the first connection is made.

import { ClientConnection, ClientStream } from '../exchange/http2-client.ts';
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

export type StreamReady = (failure: number, stream: ClientStream | null) => void;

export class StreamPool {
  #context: ServerContext | null = null;

  /** The context has the pool, and the pool the context. */
  use(context: ServerContext): void {
    this.#context = context;
  }

  /** Calls back at once if there is a connection with room. The stream is opened by whoever gets it, at once. */
  open(endpoint: HttpEndpoint, slot: EndpointSlot, done: StreamReady): void {
    const { connections } = slot;
    for (let index = 0; index < connections.length; index++) {
      const connection = connections[index] as ClientConnection;
      if (!connection.available) continue;
      done(FAILURE_NONE, new ClientStream(connection));
      return;
    }
    if (slot.waiting.length >= WAITING_MAX) {
      setImmediate(done, FAILURE_LIMIT, null);
      return;
    }
    slot.waiting.push(done);
    const enough = slot.waiting.length <= slot.dialling * WAITING_PER_DIAL;
    if (!enough && connections.length + slot.dialling < CONNECTIONS_MAX) this.#dial(endpoint, slot);
  }

  /** There may be room for those that wait. */
  serve(slot: EndpointSlot): void {
    while (slot.waiting.length > 0) {
      const connection = slot.connections.find((one) => one.available);
      if (connection === undefined) return;
      const ready = slot.waiting.shift() as StreamReady;
      ready(FAILURE_NONE, new ClientStream(connection));
    }
  }

  #dial(endpoint: HttpEndpoint, slot: EndpointSlot): void {
    slot.dialling++;
    endpoint.connect(true, (failure, source) => {
      slot.dialling--;
      if (source === null) {
        // Others that are being made, or have streams that end, serve who waits.
        if (slot.dialling > 0 || slot.connections.length > 0) return;
        for (const ready of slot.waiting.splice(0)) ready(failure, null);
        return;
      }
      const connection = new ClientConnection(this.#context as ServerContext, slot, source);
      connection.start(null);
      this.serve(slot);
    });
  }
}
