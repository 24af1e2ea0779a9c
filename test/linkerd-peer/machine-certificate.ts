// SPDX-License-Identifier: Apache-2.0
// A certificate for a machine that is no pod, named by a URI as SPIFFE does, from the issuer of a local mesh.

import 'reflect-metadata';
import { createPrivateKey, KeyObject, webcrypto } from 'node:crypto';
import { SubjectAlternativeNameExtension, X509Certificate, X509CertificateGenerator } from '@peculiar/x509';

const HOUR_MS = 3_600_000;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256' };

export interface MachineCertificate {
  /** Leaf and issuer, PEM. */
  readonly cert: string;
  readonly key: string;
}

/** Valid from an hour ago for two hours. */
export async function machineCertificate(
  uri: string,
  issuerPem: string,
  issuerKeyPem: string,
): Promise<MachineCertificate> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const issuerKey = createPrivateKey(issuerKeyPem).export({ type: 'pkcs8', format: 'der' });
  const leaf = await X509CertificateGenerator.create({
    issuer: new X509Certificate(issuerPem).subjectName,
    publicKey: keys.publicKey,
    signingKey: await webcrypto.subtle.importKey('pkcs8', Uint8Array.from(issuerKey), ALGORITHM, false, [
      'sign',
    ]),
    notBefore: new Date(Date.now() - HOUR_MS),
    notAfter: new Date(Date.now() + HOUR_MS),
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
    extensions: [new SubjectAlternativeNameExtension([{ type: 'url', value: uri }], true)],
  });
  return {
    cert: `${leaf.toString('pem')}\n${issuerPem}`,
    key: KeyObject.from(keys.privateKey).export({ type: 'pkcs8', format: 'pem' }) as string,
  };
}
