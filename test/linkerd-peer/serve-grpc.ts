// SPDX-License-Identifier: Apache-2.0
// gRPC's side of the server over node:http2 and TLS without ALPN, as Linkerd's control plane has it behind its proxies.
// Answers are bytes.

import { once } from 'node:events';
import { createServer as createHttp2, type ServerHttp2Stream } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { createServer as createTls, type TLSSocket } from 'node:tls';
import { Message } from './protobuf.ts';
import { identityOf } from './wire.ts';

/** One call that stays open until one side ends it. */
export interface ServedCall {
  /** `package.Service/Method` */
  readonly method: string;
  readonly request: Message;
  /** Of the certificate; '' without one. */
  readonly client: string;
  send(message: Uint8Array): void;
  /** Headers are sent with the first message, and not before. */
  end(code: number, message: string): void;
  onEnd(ended: () => void): void;
}

export interface GrpcListener {
  readonly port: number;
  /** Closes every connection; `stop` listens no more either. */
  disconnect(): void;
  stop(): Promise<void>;
}

export interface Shown {
  readonly cert: string;
  readonly key: string;
  readonly anchorsPem: string;
}

export async function listenGrpc(
  { cert, key, anchorsPem }: Shown,
  address: { readonly host: string; readonly port: number },
  serve: (call: ServedCall) => void,
): Promise<GrpcListener> {
  const http2 = createHttp2();
  http2.on('sessionError', () => undefined);
  http2.on('stream', (stream, headers) => {
    const method = (headers[':path'] ?? '').slice(1);
    const client = identityOf((stream.session as unknown as { socket: TLSSocket }).socket);
    void take(stream as ServerHttp2Stream, method, client, serve);
  });
  const sockets = new Set<TLSSocket>();
  const tls = createTls(
    { cert, key, ca: anchorsPem, minVersion: 'TLSv1.3', requestCert: true, rejectUnauthorized: true },
    (socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
      socket.on('error', () => socket.destroy());
      // HTTP/2 by prior knowledge: node wants to see it negotiated.
      socket.alpnProtocol = 'h2';
      http2.emit('connection', socket);
    },
  );
  tls.listen(address.port, address.host);
  await once(tls, 'listening');
  const disconnect = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    port: (tls.address() as AddressInfo).port,
    disconnect,
    async stop() {
      const closed = once(tls, 'close');
      tls.close();
      disconnect();
      await closed;
    },
  };
}

async function take(
  stream: ServerHttp2Stream,
  method: string,
  client: string,
  serve: (call: ServedCall) => void,
): Promise<void> {
  stream.on('error', () => undefined);
  const parts: Buffer[] = [];
  stream.on('data', (part: Buffer) => parts.push(part));
  await once(stream, 'end');
  let status = { 'grpc-status': '0', 'grpc-message': '' };
  const respond = (): void => {
    if (stream.headersSent || stream.destroyed) return;
    stream.on('wantTrailers', () => stream.sendTrailers(status));
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  };
  serve({
    method,
    client,
    request: new Message(Buffer.concat(parts).subarray(5)),
    send(message) {
      respond();
      const head = Buffer.alloc(5);
      head.writeUInt32BE(message.length, 1);
      if (!stream.destroyed) stream.write(Buffer.concat([head, message]));
    },
    end(code, message) {
      status = { 'grpc-status': String(code), 'grpc-message': encodeURIComponent(message) };
      respond();
      if (!stream.destroyed) stream.end();
    },
    onEnd: (ended) => void stream.on('close', ended),
  });
}
