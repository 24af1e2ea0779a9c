// SPDX-License-Identifier: Apache-2.0
// Keep-alive connections to endpoints: per endpoint and host (as Linkerd's, a server sees one host per connection),
// last in first out, closed after an idle timeout. Connections in use are not counted: one per request in flight.

import type { EndpointSlot } from '../exchange/endpoint-slot.ts';
import type { UpstreamConnection } from '../exchange/upstream-connection.ts';
import type { TimerWheel } from '../timers/wheel.ts';
import { IdleList } from './idle-list.ts';

export const POOL_IDLE_TIMEOUT_MS = 3000;
export const POOL_IDLE_MAX = 10_000;

export class Pool {
  readonly #wheel: TimerWheel;
  readonly #idleTimeoutMs: number;
  readonly #idleMax: number;
  #idle = 0;

  constructor(wheel: TimerWheel, idleTimeoutMs = POOL_IDLE_TIMEOUT_MS, idleMax = POOL_IDLE_MAX) {
    this.#wheel = wheel;
    this.#idleTimeoutMs = idleTimeoutMs;
    this.#idleMax = idleMax;
  }

  /** Idle connections of all endpoints. */
  get idle(): number {
    return this.#idle;
  }

  /** The list a new connection for `host` belongs to. */
  join(slot: EndpointSlot, host: string): IdleList {
    let list = slot.idle.get(host);
    if (list === undefined) {
      list = new IdleList(host);
      slot.idle.set(host, list);
    }
    list.members++;
    return list;
  }

  /** A connection that joined was closed. */
  leave(slot: EndpointSlot, list: IdleList): void {
    if (--list.members === 0) slot.idle.delete(list.host);
  }

  take(slot: EndpointSlot, host: string): UpstreamConnection | null {
    const list = slot.idle.get(host);
    if (list === undefined) return null;
    while (list.newest !== null) {
      const connection = list.newest as UpstreamConnection;
      this.remove(connection, list);
      if (connection.usable) return connection;
      connection.destroy();
    }
    return null;
  }

  put(connection: UpstreamConnection, list: IdleList, nowMs: number): void {
    if (list.count >= this.#idleMax) {
      connection.destroy();
      return;
    }
    list.push(connection);
    connection.pooled = true;
    this.#idle++;
    this.#wheel.schedule(connection, nowMs, this.#idleTimeoutMs);
  }

  /** Takes out an idle connection, whatever the reason. */
  remove(connection: UpstreamConnection, list: IdleList): void {
    list.remove(connection);
    connection.pooled = false;
    this.#idle--;
    this.#wheel.cancel(connection);
  }
}
