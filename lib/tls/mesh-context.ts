// SPDX-License-Identifier: Apache-2.0
// The TLS parameters of the mesh's wire: TLS 1.3 only, suites and groups as linkerd2-proxy offers them. Shared by
// the control plane's servers and clients and by the proxy; nothing here opens a connection.

import { constants } from 'node:crypto';
import { createSecureContext, type SecureContext, type SecureContextOptions } from 'node:tls';
import { MeshError } from '#lib/core/errors.ts';
import { pemBlocks } from '#lib/x509/verify.ts';

/** A certificate chain (leaf first) with its key, PEM. */
export interface KeyAndChain {
  readonly chainPem: string;
  readonly keyPem: string;
}

export interface MeshMaterial {
  /** Undefined: this side shows no certificate. */
  readonly certificate: KeyAndChain | undefined;
  /** PEM of one or more trust anchors; nothing else is trusted. */
  readonly anchorsPem: string;
}

/** Options for `tls.createSecureContext`, `tls.createServer` and `server.setSecureContext`. */
export function meshContextOptions(material: MeshMaterial): SecureContextOptions {
  return {
    minVersion: 'TLSv1.3',
    maxVersion: 'TLSv1.3',
    ciphers: 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256',
    ecdhCurve: 'X25519MLKEM768:X25519:P-256:P-384',
    // Every connection is a full handshake: a resumed one would keep an identity beyond its certificate.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_CIPHER_SERVER_PREFERENCE,
    // One by one: OpenSSL silently ends at the first block that it cannot tell from its neighbour.
    ca: pemBlocks(material.anchorsPem),
    ...(material.certificate === undefined
      ? {}
      : { cert: material.certificate.chainPem, key: material.certificate.keyPem }),
  };
}

/** A context for many connections of one identity. */
export function createMeshContext(material: MeshMaterial): SecureContext {
  try {
    return createSecureContext(meshContextOptions(material));
  } catch (error) {
    throw MeshError.from(
      error,
      'MESH_CERTIFICATE_INVALID',
      'certificate, key and trust anchors cannot be used',
    );
  }
}
