// SPDX-License-Identifier: Apache-2.0
// The HTTP server of a worker: serves accepted connections, knows which there are, drains them.

import { type Clock, type Random, systemClock } from '#lib/core/clock.ts';
import { type Log, silentLog } from '#lib/core/log.ts';
import { Head } from '../http1/head.ts';
import { POOL_IDLE_MAX, POOL_IDLE_TIMEOUT_MS, Pool } from '../pool/pool.ts';
import { StreamPool } from '../pool/stream-pool.ts';
import { TimerWheel } from '../timers/wheel.ts';
import { Http2ServerConnection } from './http2-server.ts';
import { Flusher } from './outbox.ts';
import { ServerConnection } from './server-connection.ts';
import type { ServedConnection, ServerContext } from './server-context.ts';
import type { HttpConnection, HttpServer } from './types.ts';

/** A browser's worth of pipelined requests; more waits in the kernel. */
export const PIPELINED_BYTES_MAX = 65_536;

export interface HttpServerOptions {
  readonly clock?: Clock;
  readonly random?: Random;
  readonly log?: Log;
  /** One per worker, where others use one too. */
  readonly wheel?: TimerWheel;
  readonly poolIdleTimeoutMs?: number;
  /** Idle connections per endpoint and host. */
  readonly poolIdleMax?: number;
  readonly pipelinedBytesMax?: number;
}

export function createHttpServer(options: HttpServerOptions = {}): HttpServer {
  return new Server(options);
}

class Server implements HttpServer {
  readonly #context: ServerContext;
  readonly #connections = new Set<ServedConnection>();
  readonly #onFinished = (connection: ServedConnection): void => {
    this.#connections.delete(connection);
  };

  constructor(options: HttpServerOptions) {
    const clock = options.clock ?? systemClock;
    const wheel = options.wheel ?? new TimerWheel(clock);
    const streams = new StreamPool();
    this.#context = {
      clock,
      random: options.random ?? Math.random,
      log: options.log ?? silentLog,
      wheel,
      pool: new Pool(
        wheel,
        options.poolIdleTimeoutMs ?? POOL_IDLE_TIMEOUT_MS,
        options.poolIdleMax ?? POOL_IDLE_MAX,
      ),
      streams,
      flusher: new Flusher(),
      requestHead: new Head(),
      responseHead: new Head(),
      pipelinedBytesMax: options.pipelinedBytesMax ?? PIPELINED_BYTES_MAX,
      draining: false,
      drainEndsMs: Number.POSITIVE_INFINITY,
    };
    streams.use(this.#context);
  }

  get active(): number {
    return this.#connections.size;
  }

  serve(connection: HttpConnection): void {
    const { first } = connection;
    connection.first = null;
    if (connection.http2 === true) {
      const served = new Http2ServerConnection(this.#context, connection, this.#onFinished);
      this.#connections.add(served);
      served.start(first);
      return;
    }
    const served = new ServerConnection(this.#context, connection, this.#onFinished);
    this.#connections.add(served);
    served.start(first);
  }

  drain(graceMs: number): void {
    this.#context.draining = true;
    this.#context.drainEndsMs = this.#context.clock.nowMs() + graceMs;
    for (const connection of this.#connections) connection.notice();
  }

  dismiss(owner?: object): void {
    for (const connection of this.#connections) {
      if (owner === undefined || connection.owner === owner) connection.dismiss();
    }
  }

  resume(): void {
    this.#context.draining = false;
  }
}
