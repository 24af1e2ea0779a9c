// SPDX-License-Identifier: Apache-2.0
// A gRPC server behind the mesh's TLS. Clients of the mesh offer no ALPN, HTTP/2 is spoken by prior knowledge, and may
// show a certificate or not. Handlers learn the identity of exactly their connection, whose chain was verified before
// gRPC ever saw it.

import type { KeyAndChain } from '#lib/tls/mesh-context.ts';
import { listenMesh } from '#lib/tls/mesh-server.ts';
import type { ServiceRegistry } from './call.ts';
import { CallServer, type CallServerOptions } from './call-server.ts';

export interface GrpcServerOptions extends CallServerOptions {
  readonly host: string;
  readonly port: number;
  readonly certificate: KeyAndChain;
  readonly anchorsPem: string;
  readonly clientCertificate: 'optional' | 'required';
  /** Adds the services. */
  readonly register: (server: ServiceRegistry) => void;
  readonly connectionsMax?: number;
  readonly handshakeTimeoutMs?: number;
}

export interface GrpcServer {
  readonly address: { readonly ip: string; readonly port: number };
  setMaterial(material: { readonly certificate: KeyAndChain; readonly anchorsPem: string }): void;
  /** Stops accepting, tells clients to go elsewhere, and ends what is left after `graceMs`. */
  close(graceMs?: number): Promise<void>;
}

export async function serveGrpc(options: GrpcServerOptions): Promise<GrpcServer> {
  const server = new CallServer(options);
  options.register(server);
  const listening = listenMesh({
    host: options.host,
    port: options.port,
    certificate: options.certificate,
    anchorsPem: options.anchorsPem,
    clientCertificate: options.clientCertificate,
    connectionsMax: options.connectionsMax ?? 10_000,
    handshakeTimeoutMs: options.handshakeTimeoutMs ?? 10_000,
    log: options.log,
    onConnection: (socket, identity) => server.accept(socket, identity),
  });
  listening.catch(() => server.close(0));
  const listener = await listening;
  return {
    address: listener.address,
    setMaterial: (material) => listener.setMaterial(material),
    async close(graceMs = 0) {
      const closed = listener.close();
      await server.close(graceMs);
      await closed;
    },
  };
}
