// SPDX-License-Identifier: Apache-2.0
// A new key pair with a certificate for one identity, straight from an issuer: for the identity service itself and
// for tests. Everybody else asks the identity service.

import { generateKeyPair, X509Certificate } from 'node:crypto';
import { promisify } from 'node:util';
import type { CertificateIssuer } from './issuer.ts';

const makeKeys = promisify(generateKeyPair);

export interface Leaf {
  /** PEM, leaf first. */
  readonly chainPem: string;
  readonly keyPem: string;
  readonly notAfterMs: number;
}

export async function makeLeaf(
  issuer: CertificateIssuer,
  options: { readonly identity: string; readonly notBeforeMs: number; readonly notAfterMs: number },
): Promise<Leaf> {
  const keys = await makeKeys('ec', { namedCurve: 'P-256' });
  const issued = await issuer.issue({
    publicKeyDer: keys.publicKey.export({ type: 'spki', format: 'der' }),
    dnsName: options.identity,
    notBeforeMs: options.notBeforeMs,
    notAfterMs: options.notAfterMs,
  });
  const chain = [issued.leafDer, ...issued.intermediatesDer];
  return {
    chainPem: chain.map((der) => new X509Certificate(der).toString()).join(''),
    keyPem: keys.privateKey.export({ type: 'pkcs8', format: 'pem' }),
    notAfterMs: issued.notAfterMs,
  };
}
