// SPDX-License-Identifier: Apache-2.0
// Makes a self-signed trust anchor and an issuer below it, for local mode and for tests. Not for the agent, which
// carries no X.509 library; a production mesh brings its own anchor.

import 'reflect-metadata';
import { KeyObject, webcrypto } from 'node:crypto';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectKeyIdentifierExtension,
  X509CertificateGenerator,
} from '@peculiar/x509';

export interface AuthorityOptions {
  readonly trustDomain: string;
  readonly notBeforeMs: number;
  readonly anchorLifetimeMs: number;
  readonly issuerLifetimeMs: number;
}

export interface Authority {
  readonly anchorPem: string;
  readonly anchorKeyPem: string;
  readonly issuerPem: string;
  readonly issuerKeyPem: string;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256' };
const SIGNATURE = { name: 'ECDSA', hash: 'SHA-256' };

export async function makeAuthority(options: AuthorityOptions): Promise<Authority> {
  const notBefore = new Date(options.notBeforeMs);
  const usages = new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true);
  const anchorKeys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const anchor = await X509CertificateGenerator.createSelfSigned({
    name: `CN=root.linkerd.${options.trustDomain}`,
    keys: anchorKeys,
    notBefore,
    notAfter: new Date(options.notBeforeMs + options.anchorLifetimeMs),
    signingAlgorithm: SIGNATURE,
    extensions: [
      new BasicConstraintsExtension(true, undefined, true),
      usages,
      await SubjectKeyIdentifierExtension.create(anchorKeys.publicKey),
    ],
  });
  const issuerKeys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const issuer = await X509CertificateGenerator.create({
    subject: `CN=identity.linkerd.${options.trustDomain}`,
    issuer: anchor.subjectName,
    publicKey: issuerKeys.publicKey,
    signingKey: anchorKeys.privateKey,
    notBefore,
    notAfter: new Date(options.notBeforeMs + options.issuerLifetimeMs),
    signingAlgorithm: SIGNATURE,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      usages,
      await SubjectKeyIdentifierExtension.create(issuerKeys.publicKey),
      // Tells apart anchors of the same name while one replaces the other.
      await AuthorityKeyIdentifierExtension.create(anchorKeys.publicKey),
    ],
  });
  return {
    anchorPem: `${anchor.toString('pem')}\n`,
    anchorKeyPem: keyPem(anchorKeys.privateKey),
    issuerPem: `${issuer.toString('pem')}\n`,
    issuerKeyPem: keyPem(issuerKeys.privateKey),
  };
}

const keyPem = (key: webcrypto.CryptoKey): string =>
  KeyObject.from(key).export({ type: 'pkcs8', format: 'pem' });
