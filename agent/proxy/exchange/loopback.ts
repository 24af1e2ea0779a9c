// SPDX-License-Identifier: Apache-2.0
// For tests and benchmarks: the HTTP/1 server alone, on real loopback sockets, with targets that are plain addresses.
// The agent's own targets and accepted sockets are made elsewhere (worker, accept).

import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, Socket } from 'node:net';
import { FAILURE_CONNECT_OTHER, FAILURE_CONNECT_REFUSED, FAILURE_NONE } from '../failure.ts';
import { listenPlain, openTcp } from '#lib/net/plain-fixture.ts';
import { PlainSocket } from '#lib/net/plain-socket.ts';
import { plainReadiness, type Readiness } from '#lib/net/readiness.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';
import type { AuthorityOverride } from './authority-override.ts';
import { attachDataSource, type TcpSource } from './byte-source.ts';
import {
  type Connected,
  GRPC_NONE,
  type HttpEndpoint,
  type HttpMetrics,
  type HttpConnection,
  type HttpServer,
  type HttpTarget,
  type RequestGate,
} from './types.ts';

let readiness: Readiness | undefined;
const ownReadiness = (): Readiness => (readiness ??= plainReadiness());

/** Metrics that keep what they were told. */
export class RecordedMetrics implements HttpMetrics {
  started = 0;
  readonly firstBodies: number[] = [];
  readonly ended: { status: number; failure: number }[] = [];
  readonly grpc: number[] = [];
  readonly resets: number[] = [];
  returned = 0;

  requestStarted(): void {
    this.started++;
  }

  close(): void {}

  firstBody(status: number): void {
    this.firstBodies.push(status);
  }

  responseEnded(status: number, failure: number, grpcStatus: number): void {
    this.ended.push({ status, failure });
    if (grpcStatus !== GRPC_NONE) this.grpc.push(grpcStatus);
  }

  responseReset(_status: number, code: number): void {
    this.resets.push(code);
  }

  requestReturned(): void {
    this.returned++;
  }
}

/** An endpoint on 127.0.0.1 that counts the connections made to it. */
export class LoopbackEndpoint implements HttpEndpoint {
  readonly name: string;
  readonly metrics: HttpMetrics;
  slot: HttpEndpoint['slot'] = null;
  readonly multiplexed: boolean;
  identity = '';
  endsClients = false;
  passage: HttpEndpoint['passage'] = null;
  authorityOverride: AuthorityOverride | null = null;
  connections = 0;
  readonly #port: number;
  readonly #plain: boolean;

  /** `plain`: over sockets of our own, as the agent's without TLS; `multiplexed`: it speaks HTTP/2. */
  constructor(port: number, metrics: HttpMetrics, plain = false, multiplexed = false) {
    this.multiplexed = multiplexed;
    this.#port = port;
    this.#plain = plain;
    this.name = `127.0.0.1:${port}`;
    this.metrics = metrics;
  }

  connect(_http2: boolean, done: Connected): void {
    this.connections++;
    const socket = this.#plain
      ? new PlainSocket(ownReadiness(), openTcp())
      : new Socket({ allowHalfOpen: true });
    const source: TcpSource = socket instanceof PlainSocket ? socket : attachDataSource(socket);
    let connected = false;
    source.socket.on('error', (error: NodeJS.ErrnoException) => {
      if (connected) return;
      done(error.code === 'ECONNREFUSED' ? FAILURE_CONNECT_REFUSED : FAILURE_CONNECT_OTHER, null);
    });
    source.socket.on('connect', () => {
      connected = true;
      socket.setNoDelay();
      done(FAILURE_NONE, source);
    });
    if (socket instanceof PlainSocket) socket.connect('127.0.0.1', this.#port);
    else socket.connect({ port: this.#port, host: '127.0.0.1' });
  }
}

/** A fixed set of endpoints. */
export function fixedTarget(endpoints: readonly HttpEndpoint[]): HttpTarget {
  return {
    authority: 'test:80',
    endpoints,
    failfast: endpoints.length === 0,
    whenAvailable: (done) => setImmediate(() => done(FAILURE_NONE)),
  };
}

export interface LoopbackProxy {
  readonly port: number;
  readonly sockets: ReadonlySet<StreamSocket>;
  close(): Promise<void>;
}

/** Listens on 127.0.0.1 and serves every connection against `target`; `plain`: as the agent does without TLS. */
export async function listenLoopback(
  server: HttpServer,
  target: HttpTarget,
  gate: RequestGate | null = null,
  plain = false,
  http2 = false,
  watched: Pick<HttpConnection, 'log' | 'observer'> = {},
): Promise<LoopbackProxy> {
  const sockets = new Set<StreamSocket>();
  const accept = (source: TcpSource): void => {
    sockets.add(source.socket);
    const onClosed = (): void => void sockets.delete(source.socket);
    server.serve({ source, first: null, http2, target, gate, ...watched, onClosed });
  };
  if (plain) {
    const { listener, port } = listenPlain(ownReadiness(), (fd) => {
      const socket = new PlainSocket(ownReadiness(), fd);
      socket.setNoDelay();
      accept(socket);
    });
    return {
      port,
      sockets,
      async close() {
        listener.close();
        for (const socket of sockets) socket.destroy();
      },
    };
  }
  const listener: Server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true });
  listener.on('connection', (socket) => accept(attachDataSource(socket)));
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  return {
    port: (listener.address() as AddressInfo).port,
    sockets,
    async close() {
      const closed = once(listener, 'close');
      listener.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
