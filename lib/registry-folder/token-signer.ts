// SPDX-License-Identifier: Apache-2.0
// Signs ServiceAccount tokens for local mode, with the claims that Kubernetes puts into bound tokens. Whoever holds
// the private key can speak for every account: it stays with `mesh local`. Checking is in token-review.ts.

import { createPrivateKey, generateKeyPairSync, sign } from 'node:crypto';

export const LOCAL_TOKEN_ISSUER = 'https://nodemesh.local';

export interface ObjectRef {
  readonly name: string;
  readonly uid: string;
}

export interface LocalTokenClaims {
  readonly namespace: string;
  readonly serviceAccount: ObjectRef;
  /** The pod that the token is bound to, with its node: the token ends with the pod. */
  readonly pod?: ObjectRef;
  readonly node?: ObjectRef;
  readonly audiences: readonly string[];
  readonly issuedAtMs: number;
  readonly lifetimeMs: number;
}

/** A new key pair for a local mesh's tokens, PEM. */
export function makeTokenKey(): { readonly privateKeyPem: string; readonly publicKeyPem: string } {
  const { publicKey, privateKey } = generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  return { privateKeyPem: privateKey, publicKeyPem: publicKey };
}

/** A JSON Web Token (ES256). */
export function signLocalToken(claims: LocalTokenClaims, privateKeyPem: string): string {
  const issuedAt = Math.floor(claims.issuedAtMs / 1000);
  const payload = {
    iss: LOCAL_TOKEN_ISSUER,
    sub: `system:serviceaccount:${claims.namespace}:${claims.serviceAccount.name}`,
    aud: claims.audiences,
    iat: issuedAt,
    nbf: issuedAt,
    exp: issuedAt + Math.floor(claims.lifetimeMs / 1000),
    'kubernetes.io': {
      namespace: claims.namespace,
      serviceaccount: claims.serviceAccount,
      ...(claims.pod === undefined ? {} : { pod: claims.pod }),
      ...(claims.node === undefined ? {} : { node: claims.node }),
    },
  };
  const signed = `${encode({ alg: 'ES256', typ: 'JWT' })}.${encode(payload)}`;
  const signature = sign('sha256', Buffer.from(signed), {
    key: createPrivateKey(privateKeyPem),
    dsaEncoding: 'ieee-p1363',
  });
  return `${signed}.${signature.toString('base64url')}`;
}

const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
