// SPDX-License-Identifier: Apache-2.0
// Peers of the mesh that are made of node:tls alone, so that the wire is checked against something else than our own
// other half: a server in the place of a pod's mesh port, and a client of one.

import { once } from 'node:events';
import { connect as dialTls, createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { identityOf, listenIn } from './harness.ts';
import { dialAt, PEER, SERVER } from './scene.ts';

export const ALPN = 'transport.l5d.io/v1';
export const PREFACE = 'transport.l5d.io/v1\r\n\r\n';
/** Port 8080, HTTP/1. */
export const HTTP_HEADER = `${PREFACE}\x00\x00\x00\x07\x08\x90\x3f\x1a\x02\x0a\x00`;
/** Port 9090, nothing known. */
export const OPAQUE_HEADER = `${PREFACE}\x00\x00\x00\x03\x08\x82\x47`;

export interface Shown {
  readonly authority: TestAuthority;
  readonly identity: string;
  /** When the certificate is valid; now if absent. */
  readonly wallMs?: number;
}

/** What a peer shows: certificate and key. */
export async function material({
  authority,
  identity,
  wallMs,
}: Shown): Promise<{ cert: string; key: string }> {
  const leaf = await authority.leaf(identity, wallMs);
  return { cert: leaf.chainPem, key: leaf.keyPem };
}

export interface FakePod {
  readonly server: Server;
  nextConnection(): Promise<TLSSocket>;
  close(): void;
}

/** A TLS server on the mesh port of PEER. */
export async function startFakePod(home: number, anchorsPem: string, options: TlsOptions): Promise<FakePod> {
  const connections: TLSSocket[] = [];
  const server = createServer(
    {
      minVersion: 'TLSv1.2',
      allowHalfOpen: true,
      ca: anchorsPem,
      requestCert: true,
      rejectUnauthorized: true,
      ...options,
    },
    (socket) => {
      socket.on('error', () => socket.destroy());
      connections.push(socket);
      server.emit('mesh connection');
    },
  );
  server.listen({ fd: listenIn(home, PEER, 4143) });
  await once(server, 'listening');
  return {
    server,
    async nextConnection() {
      while (connections.length === 0) await once(server, 'mesh connection');
      return connections.shift() as TLSSocket;
    },
    close: () => {
      server.close();
      for (const socket of connections) socket.destroy();
    },
  };
}

export interface FakeClient {
  readonly anchorsPem: string;
  readonly shown?: Shown;
  readonly alpn?: readonly string[];
  readonly servername?: string;
  readonly port?: number;
  readonly maxVersion?: 'TLSv1.2' | 'TLSv1.3';
}

/** A TLS connection to a port of SERVER, after the handshake as the client sees it. */
export async function dialAsPeer(options: FakeClient): Promise<TLSSocket> {
  const raw = await dialAt(SERVER, options.port ?? 4143);
  const socket = dialTls({
    socket: raw,
    ca: options.anchorsPem,
    servername: options.servername ?? identityOf('api'),
    ...(options.alpn === undefined ? {} : { ALPNProtocols: [...options.alpn] }),
    ...(options.maxVersion === undefined ? {} : { maxVersion: options.maxVersion }),
    ...(options.shown === undefined ? {} : await material(options.shown)),
  });
  await once(socket, 'secureConnect');
  return socket;
}

/** Reads until there are so many bytes. */
export async function readBytes(socket: TLSSocket, length: number): Promise<string> {
  let text = '';
  while (text.length < length) {
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    text += chunk.toString('latin1');
  }
  return text;
}

export { makeTestAuthority };
