// SPDX-License-Identifier: Apache-2.0
// The client side of the mesh's TLS: the server's chain must lead to the trust anchors and its leaf must carry the
// expected identity, exactly. Host names play no role. Works on a connected socket; does not dial.

import type { Socket } from 'node:net';
import { X509Certificate } from 'node:crypto';
import { connect, type SecureContext, type TLSSocket } from 'node:tls';
import { MeshError } from '#lib/core/errors.ts';
import { identityMismatch } from '#lib/x509/verify.ts';

export interface MeshClientOptions {
  readonly context: SecureContext;
  /** The identity that the server must prove; also sent as SNI. */
  readonly serverIdentity: string;
  readonly handshakeTimeoutMs: number;
}

/** Resolves with the encrypted socket after the server has proved its identity; destroys `socket` otherwise. */
export function secureMesh(socket: Socket, options: MeshClientOptions): Promise<TLSSocket> {
  const { serverIdentity } = options;
  return new Promise((resolve, reject) => {
    const encrypted = connect({
      socket,
      secureContext: options.context,
      servername: serverIdentity,
      rejectUnauthorized: true,
      checkServerIdentity: (_host, certificate) =>
        identityMismatch(new X509Certificate(certificate.raw), serverIdentity),
    });
    const fail = (error: unknown): void => {
      clearTimeout(timer);
      encrypted.destroy();
      socket.destroy();
      reject(MeshError.from(error, 'MESH_CERTIFICATE_INVALID', `TLS with ${serverIdentity} failed`));
    };
    const timer = setTimeout(
      () => fail(new MeshError('MESH_TIMEOUT', `TLS with ${serverIdentity} took too long`)),
      options.handshakeTimeoutMs,
    );
    const closed = (): void => fail(new Error('the server closed the connection during the handshake'));
    encrypted.once('error', fail);
    encrypted.once('close', closed);
    encrypted.once('secureConnect', () => {
      clearTimeout(timer);
      encrypted.off('error', fail);
      encrypted.off('close', closed);
      resolve(encrypted);
    });
  });
}
