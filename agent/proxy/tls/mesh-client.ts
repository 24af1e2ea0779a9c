// SPDX-License-Identifier: Apache-2.0
// The client's half of the mesh wire over a connected socket: TLS 1.3 with the client pod's own certificate, the
// server's chain and name verified, never a fallback to plain text.

import { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { connect, type SecureContext, type TLSSocket } from 'node:tls';
import type { Clock } from '#lib/core/clock.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { identityMismatch } from '#lib/x509/verify.ts';
import { FAILURE_NONE, FAILURE_TLS_HANDSHAKE, FAILURE_TLS_WRONG_IDENTITY } from '../failure.ts';
import { afterHandshake } from './after-handshake.ts';
import { TRANSPORT_ALPN } from './transport-header.ts';

export interface MeshClientOptions {
  readonly context: SecureContext;
  readonly serverIdentity: string;
  /** The SNI. */
  readonly serverName: string;
  /** Whether a transport header follows. */
  readonly header: boolean;
  readonly timeoutMs: number;
  readonly clock: Clock;
}

/** `done(FAILURE_NONE, socket, '')`, or a failure with its reason; `raw` is destroyed then. */
export function startMeshTls(
  raw: Socket,
  options: MeshClientOptions,
  done: (failure: number, socket: TLSSocket | null, reason: string) => void,
): void {
  let settled = false;
  const secure = connect({
    socket: raw,
    secureContext: options.context,
    servername: options.serverName,
    ...(options.header ? { ALPNProtocols: [TRANSPORT_ALPN] } : {}),
    rejectUnauthorized: true,
    checkServerIdentity: (_host, certificate) =>
      identityMismatch(new X509Certificate(certificate.raw), options.serverIdentity),
  });
  const settle = (failure: number, reason: string): void => {
    if (settled) return;
    settled = true;
    timer.cancel();
    if (failure === FAILURE_NONE) {
      done(failure, secure, '');
      return;
    }
    secure.destroy();
    raw.destroy();
    done(failure, null, reason);
  };
  const timer = options.clock.after(options.timeoutMs, () =>
    settle(FAILURE_TLS_HANDSHAKE, 'the handshake took too long'),
  );
  secure.on('error', (error) =>
    settle(
      error instanceof MeshError ? FAILURE_TLS_WRONG_IDENTITY : FAILURE_TLS_HANDSHAKE,
      errorMessage(error),
    ),
  );
  secure.on('close', () => settle(FAILURE_TLS_HANDSHAKE, 'the server closed the connection'));
  raw.on('close', () => settle(FAILURE_TLS_HANDSHAKE, 'the server closed the connection'));
  secure.once('secureConnect', () =>
    afterHandshake(secure, () => {
      // Its 'close' says why.
      if (secure.destroyed) return;
      if (options.header && secure.alpnProtocol !== TRANSPORT_ALPN) {
        settle(FAILURE_TLS_HANDSHAKE, 'the server does not speak the transport header protocol');
      } else settle(FAILURE_NONE, '');
    }),
  );
}
