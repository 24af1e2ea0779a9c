// SPDX-License-Identifier: Apache-2.0
// A TLS server that speaks the mesh's wire as a Linkerd proxy in front of a service would: it asks for a client
// certificate, verifies one that is presented, and hands on the connection with the client's identity. No ALPN is
// needed. It knows nothing of what is spoken inside.

import { createServer, type TLSSocket } from 'node:tls';
import { MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { presentedIdentity } from '#lib/x509/verify.ts';
import { type KeyAndChain, type MeshMaterial, meshContextOptions } from './mesh-context.ts';

export interface MeshServerOptions {
  readonly host: string;
  readonly port: number;
  readonly certificate: KeyAndChain;
  readonly anchorsPem: string;
  /** `required` also closes connections of clients that show no certificate. */
  readonly clientCertificate: 'optional' | 'required';
  readonly connectionsMax: number;
  readonly handshakeTimeoutMs: number;
  readonly log: Log;
  /** Receives each verified connection; `identity` is undefined for a client that showed no certificate. */
  readonly onConnection: (socket: TLSSocket, identity: string | undefined) => void;
}

export interface MeshServer {
  readonly address: { readonly ip: string; readonly port: number };
  /** New connections use the new certificate and anchors; existing ones go on untouched. */
  setMaterial(material: { readonly certificate: KeyAndChain; readonly anchorsPem: string }): void;
  /** Stops listening; open connections belong to whoever received them. */
  close(): Promise<void>;
}

export async function listenMesh(options: MeshServerOptions): Promise<MeshServer> {
  const { log } = options;
  const server = createServer({
    ...meshContextOptions(options),
    requestCert: true,
    // Decided below: node cannot express "verify a certificate if there is one".
    rejectUnauthorized: false,
    handshakeTimeout: options.handshakeTimeoutMs,
    noDelay: true,
    keepAlive: true,
  });
  server.maxConnections = options.connectionsMax;
  server.on('drop', () => log.warn({ connectionsMax: options.connectionsMax }, 'too many connections'));
  server.on('tlsClientError', (error, socket) => {
    log.debug({ client: socket.remoteAddress, error: error.message }, 'TLS handshake failed');
    // Node.js reports a handshake that takes too long, but leaves its connection open.
    socket.destroy();
  });
  server.on('secureConnection', (socket) => {
    socket.on('error', (error) =>
      log.debug({ client: socket.remoteAddress, error: error.message }, 'connection failed'),
    );
    const certificate = socket.getPeerX509Certificate();
    const refusal = refusalOf(socket, certificate !== undefined, options.clientCertificate);
    if (refusal !== undefined) {
      const identity = certificate === undefined ? undefined : presentedIdentity(certificate);
      log.warn({ client: socket.remoteAddress, identity, reason: refusal }, 'client refused');
      socket.destroy();
      return;
    }
    options.onConnection(socket, certificate === undefined ? undefined : presentedIdentity(certificate));
  });

  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(MeshError.from(error, 'MESH_SYSCALL', `cannot listen on ${options.host} port ${options.port}`)),
    );
    server.listen({ host: options.host, port: options.port }, resolve);
  });
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new MeshError('MESH_SYSCALL', 'no bound address');
  return {
    address: { ip: bound.address, port: bound.port },
    setMaterial: (material: MeshMaterial) => server.setSecureContext(meshContextOptions(material)),
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

function refusalOf(
  socket: TLSSocket,
  presented: boolean,
  clientCertificate: 'optional' | 'required',
): string | undefined {
  if (!presented) return clientCertificate === 'required' ? 'no client certificate' : undefined;
  return socket.authorized ? undefined : String(socket.authorizationError);
}
