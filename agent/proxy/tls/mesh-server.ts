// SPDX-License-Identifier: Apache-2.0
// The server's half of mesh TLS over accepted connections whose ClientHello was read already. `direct` is the wire of
// the mesh port: client certificate and ALPN are required. `transparent` is TLS to the pod's identity on an
// application's port: a client certificate is asked for and verified if there is one, ALPN plays no part.

import type { Socket } from 'node:net';
import { createServer, type SecureContext, type Server, type TLSSocket } from 'node:tls';
import { MeshError } from '#lib/core/errors.ts';
import { meshContextOptions } from '#lib/tls/mesh-context.ts';
import { presentedIdentity } from '#lib/x509/verify.ts';
import { afterHandshake } from './after-handshake.ts';
import { TRANSPORT_ALPN } from './transport-header.ts';

export type MeshServerMode = 'direct' | 'transparent';

export interface Secured {
  readonly socket: TLSSocket;
  /** '' for a client without a certificate, or whose certificate carries no name. */
  readonly identity: string;
  readonly verified: boolean;
}

/** A secured connection, or why there is none (the connection is closed then) and who the client said it is. */
export type SecuredCallback = (secured: Secured | null, reason: string, presented: string) => void;

const HANDSHAKE_TIMEOUT_MS = 10_000;
const CLOSED = 'closed by the client during the TLS handshake';

export class MeshTlsServer {
  readonly #servers: Readonly<Record<MeshServerMode, Server>>;
  readonly #pending = new Map<Socket, SecuredCallback>();

  /** `contextOf` gives the context of an identity by the name that the client asks for. */
  constructor(contextOf: (identity: string) => SecureContext | undefined) {
    const make = (mode: MeshServerMode): Server => {
      const server = createServer({
        ...meshContextOptions({ certificate: undefined, anchorsPem: '' }),
        ...(mode === 'direct' ? { ALPNProtocols: [TRANSPORT_ALPN] } : {}),
        SNICallback: (name, use) => {
          try {
            const context = contextOf(name.toLowerCase());
            if (context === undefined) {
              use(new MeshError('MESH_CERTIFICATE_INVALID', `no certificate for ${name}`));
            } else use(null, context);
          } catch (error) {
            use(MeshError.from(error, 'MESH_CERTIFICATE_INVALID', `the certificate of ${name}`));
          }
        },
        requestCert: true,
        // Decided in `onSecure`, which can then say whom it refuses.
        rejectUnauthorized: false,
        handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
      });
      server.on('secureConnection', (socket) => afterHandshake(socket, () => this.#onSecure(mode, socket)));
      server.on('tlsClientError', (error, socket) => {
        this.#take(socket)?.(null, `TLS handshake failed: ${error.message}`, '');
        socket.destroy();
      });
      return server;
    };
    this.#servers = { direct: make('direct'), transparent: make('transparent') };
  }

  /** `raw` is paused; what was read of it is in `first`. */
  accept(mode: MeshServerMode, raw: Socket, first: Buffer | null, done: SecuredCallback): void {
    this.#pending.set(raw, done);
    raw.once('close', () => {
      const waiting = this.#pending.get(raw);
      if (waiting === undefined) return;
      this.#pending.delete(raw);
      waiting(null, CLOSED, '');
    });
    if (first !== null) raw.unshift(first);
    this.#servers[mode].emit('connection', raw);
  }

  #onSecure(mode: MeshServerMode, socket: TLSSocket): void {
    const done = this.#take(socket);
    if (done === undefined) {
      socket.destroy();
      return;
    }
    if (socket.destroyed) {
      done(null, CLOSED, '');
      return;
    }
    const certificate = socket.getPeerX509Certificate();
    const identity = certificate === undefined ? '' : (presentedIdentity(certificate) ?? '');
    const reason = refusalOf(mode, socket, certificate !== undefined, identity);
    if (reason === '') done({ socket, identity, verified: certificate !== undefined }, '', identity);
    else {
      done(null, reason, identity);
      socket.destroy();
    }
  }

  /** `_parent` is how a TLSSocket names the socket it was laid over; without it nothing would be served. */
  #take(socket: TLSSocket): SecuredCallback | undefined {
    const raw = (socket as unknown as { readonly _parent?: Socket })._parent;
    if (raw === undefined) return undefined;
    const done = this.#pending.get(raw);
    this.#pending.delete(raw);
    return done;
  }
}

function refusalOf(mode: MeshServerMode, socket: TLSSocket, presented: boolean, identity: string): string {
  if (presented && !socket.authorized) {
    return `the client certificate is not trusted: ${String(socket.authorizationError)}`;
  }
  if (mode === 'transparent') return '';
  if (!presented) return 'direct connections must be mutually authenticated';
  if (identity === '') return 'the client certificate carries no identity';
  return socket.alpnProtocol === TRANSPORT_ALPN
    ? ''
    : 'direct connections require transport header negotiation';
}
