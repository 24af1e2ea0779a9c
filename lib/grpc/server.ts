// SPDX-License-Identifier: Apache-2.0
// A gRPC server behind the mesh's TLS: grpc-js serves, our own TLS server accepts, because clients of the mesh
// offer no ALPN and may show a certificate or not. Handlers learn the identity of exactly their connection.

import { X509Certificate } from 'node:crypto';
import type { PeerCertificate, TLSSocket } from 'node:tls';
import { Server, ServerCredentials, type ServerOptions } from '@grpc/grpc-js';
import type { Log } from '#lib/core/log.ts';
import type { KeyAndChain } from '#lib/tls/mesh-context.ts';
import { listenMesh } from '#lib/tls/mesh-server.ts';
import { presentedIdentity } from '#lib/x509/verify.ts';

export interface GrpcServerOptions {
  readonly host: string;
  readonly port: number;
  readonly certificate: KeyAndChain;
  readonly anchorsPem: string;
  readonly clientCertificate: 'optional' | 'required';
  readonly log: Log;
  /** Adds the services. */
  readonly register: (server: Pick<Server, 'addService'>) => void;
  readonly connectionsMax?: number;
  readonly streamsPerConnectionMax?: number;
  readonly messageBytesMax?: number;
  readonly handshakeTimeoutMs?: number;
}

export interface GrpcServer {
  readonly address: { readonly ip: string; readonly port: number };
  setMaterial(material: { readonly certificate: KeyAndChain; readonly anchorsPem: string }): void;
  /** Stops accepting, tells clients to go elsewhere, and ends what is left after `graceMs`. */
  close(graceMs?: number): Promise<void>;
}

export async function serveGrpc(options: GrpcServerOptions): Promise<GrpcServer> {
  const server = new Server(serverOptions(options));
  options.register(server);
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const connections = new Set<TLSSocket>();
  const listener = await listenMesh({
    host: options.host,
    port: options.port,
    certificate: options.certificate,
    anchorsPem: options.anchorsPem,
    clientCertificate: options.clientCertificate,
    connectionsMax: options.connectionsMax ?? 10_000,
    handshakeTimeoutMs: options.handshakeTimeoutMs ?? 10_000,
    log: options.log,
    onConnection(socket) {
      // node:http2 turns a TLS socket without negotiated ALPN away; h2 is by prior knowledge here.
      socket.alpnProtocol = 'h2';
      connections.add(socket);
      socket.once('close', () => connections.delete(socket));
      injector.injectConnection(socket);
    },
  });
  return {
    address: listener.address,
    setMaterial: (material) => listener.setMaterial(material),
    async close(graceMs = 0) {
      const closed = listener.close();
      injector.destroy();
      await allClosedWithin(connections, graceMs);
      // Server.forceShutdown knows its sessions only through channelz, which is off.
      for (const socket of connections) socket.destroy();
      await closed;
    },
  };
}

function serverOptions(options: GrpcServerOptions): ServerOptions {
  const bytesMax = options.messageBytesMax ?? 4 * 1024 * 1024;
  return {
    'grpc.enable_channelz': 0,
    'grpc.max_concurrent_streams': options.streamsPerConnectionMax ?? 1000,
    'grpc.max_receive_message_length': bytesMax,
    'grpc.max_send_message_length': bytesMax,
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 10_000,
    // Megabytes, per connection.
    'grpc-node.max_session_memory': 64,
  };
}

function allClosedWithin(connections: ReadonlySet<TLSSocket>, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, graceMs);
    const check = (): void => {
      if (connections.size > 0) return;
      clearTimeout(timer);
      resolve();
    };
    // A connection leaves the set through a listener that was added before this one.
    for (const socket of connections) socket.once('close', check);
    check();
  });
}

/** Any of grpc-js' server calls. */
export interface AuthenticatedCall {
  getAuthContext(): { sslPeerCertificate?: PeerCertificate };
}

/**
 * The identity of the client at the other end of a call's own connection, or undefined if it showed no certificate.
 * Read from the TLS session of that connection, whose chain has been verified before gRPC ever saw it.
 */
export function callerIdentity(call: AuthenticatedCall): string | undefined {
  const raw = call.getAuthContext().sslPeerCertificate?.raw;
  return raw === undefined ? undefined : presentedIdentity(new X509Certificate(raw));
}
