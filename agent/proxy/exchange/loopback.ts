// SPDX-License-Identifier: Apache-2.0
// For tests and benchmarks: the HTTP/1 server alone, on real loopback sockets, with targets that are plain addresses.
// The agent's own targets and accepted sockets are made elsewhere (worker, accept).

import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, Socket } from 'node:net';
import { FAILURE_CONNECT_OTHER, FAILURE_CONNECT_REFUSED, FAILURE_NONE } from '../failure.ts';
import { onAccepted, SharedSource } from '#lib/net/accept.ts';
import { attachDataSource, type ByteSource } from './byte-source.ts';
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
  connections = 0;
  readonly #port: number;
  readonly #shared: boolean;

  /** `shared`: the connections read into the thread's shared buffer, as the agent's do; `multiplexed`: it speaks HTTP/2. */
  constructor(port: number, metrics: HttpMetrics, shared = false, multiplexed = false) {
    this.multiplexed = multiplexed;
    this.#port = port;
    this.#shared = shared;
    this.name = `127.0.0.1:${port}`;
    this.metrics = metrics;
  }

  connect(_http2: boolean, done: Connected): void {
    this.connections++;
    const source: ByteSource = this.#shared
      ? new SharedSource({})
      : attachDataSource(new Socket({ allowHalfOpen: true }));
    const { socket } = source;
    const onError = (error: NodeJS.ErrnoException): void =>
      done(error.code === 'ECONNREFUSED' ? FAILURE_CONNECT_REFUSED : FAILURE_CONNECT_OTHER, null);
    socket.once('error', onError);
    socket.connect({ port: this.#port, host: '127.0.0.1' }, () => {
      socket.setNoDelay(true);
      socket.off('error', onError);
      done(FAILURE_NONE, source);
    });
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
  readonly sockets: ReadonlySet<Socket>;
  close(): Promise<void>;
}

/** Listens on 127.0.0.1 and serves every connection against `target`. `shared` needs `proveSharedAccept` before. */
export async function listenLoopback(
  server: HttpServer,
  target: HttpTarget,
  gate: RequestGate | null = null,
  shared = false,
  http2 = false,
  watched: Pick<HttpConnection, 'log' | 'observer'> = {},
): Promise<LoopbackProxy> {
  const sockets = new Set<Socket>();
  const listener: Server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true });
  const accept = (source: ByteSource): void => {
    sockets.add(source.socket);
    const onClosed = (): void => void sockets.delete(source.socket);
    server.serve({ source, first: null, http2, target, gate, ...watched, onClosed });
  };
  if (shared) onAccepted(listener, accept);
  else listener.on('connection', (socket) => accept(attachDataSource(socket)));
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
