// SPDX-License-Identifier: Apache-2.0
// A gRPC server over connections that others accept: its services, and what its connections have in common. There is
// one timer for all connections, and one turn of the event loop writes what all of them have to write.

import type { Socket } from 'node:net';
import { type Clock, systemClock, type Timer } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import { encodeMessage, type Handlers, type ServiceDefinition, type ServiceRegistry } from './call.ts';
import type { Method } from './server-call.ts';
import { type ConnectionContext, GrpcConnection, type GrpcLimit } from './server-connection.ts';

export interface CallServerOptions {
  readonly log: Log;
  /** Calls of one connection at a time. */
  readonly streamsPerConnectionMax?: number;
  /** Of a message, in either direction. */
  readonly messageBytesMax?: number;
  readonly keepaliveMs?: number;
  readonly keepaliveTimeoutMs?: number;
  readonly clock?: Clock;
  /** A client has come to a limit. */
  readonly onLimit?: (limit: GrpcLimit) => void;
}

/** How often connections are looked at. */
const LOOK_MS = 5_000;
/** What a client may take to read that the server ends. */
const LAST_WORDS_MS = 1_000;

export class CallServer implements ServiceRegistry {
  readonly #context: ConnectionContext;
  readonly #methods = new Map<string, Method>();
  readonly #connections = new Set<GrpcConnection>();
  #dirty: GrpcConnection[] = [];
  #timer: Timer;
  #whenEmpty: (() => void) | undefined;

  constructor(options: CallServerOptions) {
    const { clock = systemClock, log, onLimit = () => undefined } = options;
    this.#context = {
      methods: this.#methods,
      streamsMax: options.streamsPerConnectionMax ?? 1000,
      messageBytesMax: options.messageBytesMax ?? 4 * 1024 * 1024,
      keepaliveMs: options.keepaliveMs ?? 20_000,
      keepaliveTimeoutMs: options.keepaliveTimeoutMs ?? 10_000,
      clock,
      log,
      onLimit,
      flushLater: (connection) => {
        if (this.#dirty.length === 0) setImmediate(() => this.#flush());
        this.#dirty.push(connection);
      },
    };
    const look = (): void => {
      const nowMs = clock.nowMs();
      for (const connection of this.#connections) connection.look(nowMs);
      this.#timer = clock.after(LOOK_MS, look);
    };
    this.#timer = clock.after(LOOK_MS, look);
  }

  #flush(): void {
    const connections = this.#dirty;
    this.#dirty = [];
    for (const connection of connections) connection.flush();
  }

  addService<Service extends ServiceDefinition>(service: Service, handlers: Handlers<Service>): void {
    for (const [name, definition] of Object.entries(service)) {
      const { path, requestDeserialize: decode, requestStream, responseStream } = definition;
      // Typed by `Handlers`: question and answer of each method are those of its definition.
      const serialize = definition.responseSerialize as (message: unknown) => Uint8Array;
      const handler: unknown = handlers[name];
      const kind = requestStream ? 'duplex' : responseStream ? 'stream' : 'unary';
      const encode = (message: unknown) => encodeMessage(serialize(message));
      this.#methods.set(path, { path, kind, decode, encode, handler } as Method);
    }
  }

  /** Serves the connection; `identity` is what its calls come from. */
  accept(socket: Socket, identity: string | undefined): void {
    const connection = new GrpcConnection(this.#context, socket, identity);
    this.#connections.add(connection);
    socket.once('close', () => {
      this.#connections.delete(connection);
      if (this.#connections.size === 0) this.#whenEmpty?.();
    });
  }

  /** Tells clients to go elsewhere, and ends what is left after `graceMs`. */
  async close(graceMs: number): Promise<void> {
    this.#timer.cancel();
    if (graceMs > 0) {
      for (const connection of this.#connections) connection.leave();
      await this.#emptyWithin(graceMs);
    }
    for (const connection of this.#connections) connection.end();
    await this.#emptyWithin(LAST_WORDS_MS);
    for (const connection of this.#connections) connection.destroy();
  }

  async #emptyWithin(ms: number): Promise<void> {
    if (this.#connections.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#whenEmpty = resolve;
    const timer = this.#context.clock.after(ms, resolve);
    await promise;
    timer.cancel();
  }
}
