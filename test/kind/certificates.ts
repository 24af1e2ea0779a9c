// SPDX-License-Identifier: Apache-2.0
// The keys and certificates of a cluster: one authority for everything that is dialled or dials, one for the API
// server's aggregation, and the key that signs service accounts' tokens. They live as long as the cluster.

import 'reflect-metadata';
import { KeyObject, webcrypto } from 'node:crypto';
import {
  BasicConstraintsExtension,
  type Extension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
} from '@peculiar/x509';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const SIGNING = { name: 'ECDSA', hash: 'SHA-256' } as const;
const YEAR_MS = 365 * 24 * 3_600_000;

export interface KeyPair {
  readonly certificatePem: string;
  readonly keyPem: string;
}

export interface Name {
  readonly commonName: string;
  /** Kubernetes reads it as the user's group. */
  readonly organization?: string;
  readonly dns?: readonly string[];
  readonly ip?: readonly string[];
}

export interface Authority {
  readonly certificatePem: string;
  readonly keyPem: string;
  issue(name: Name): Promise<KeyPair>;
}

const makeKeys = (): Promise<webcrypto.CryptoKeyPair> =>
  webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);

const keyPem = (keys: webcrypto.CryptoKeyPair): string =>
  KeyObject.from(keys.privateKey).export({ type: 'pkcs8', format: 'pem' });

const serial = (): string => Buffer.from(webcrypto.getRandomValues(new Uint8Array(15))).toString('hex');

export async function makeAuthority(commonName: string, nowMs: number): Promise<Authority> {
  const notBefore = new Date(nowMs - 3_600_000);
  const notAfter = new Date(nowMs + YEAR_MS);
  const keys = await makeKeys();
  const issuer = `CN=${commonName}`;
  const make = (of: webcrypto.CryptoKeyPair, subject: string, extensions: Extension[]) =>
    X509CertificateGenerator.create({
      serialNumber: `01${serial()}`,
      subject,
      issuer,
      notBefore,
      notAfter,
      publicKey: of.publicKey,
      signingKey: keys.privateKey,
      signingAlgorithm: SIGNING,
      extensions,
    });
  const own = await make(keys, issuer, [
    new BasicConstraintsExtension(true, undefined, true),
    new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.digitalSignature, true),
  ]);
  return {
    certificatePem: `${own.toString('pem')}\n`,
    keyPem: keyPem(keys),
    issue: async (name) => {
      const leafKeys = await makeKeys();
      const organization = name.organization === undefined ? '' : `O=${name.organization}, `;
      const alternatives = [
        ...(name.dns ?? []).map((value) => ({ type: 'dns' as const, value })),
        ...(name.ip ?? []).map((value) => ({ type: 'ip' as const, value })),
      ];
      const leaf = await make(leafKeys, `${organization}CN=${name.commonName}`, [
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
        ...(alternatives.length === 0 ? [] : [new SubjectAlternativeNameExtension(alternatives)]),
      ]);
      return { certificatePem: `${leaf.toString('pem')}\n`, keyPem: keyPem(leafKeys) };
    },
  };
}

/** The key of service accounts' tokens: the API server signs with the private one and checks with the public one. */
export async function makeTokenKey(): Promise<{ readonly keyPem: string; readonly publicPem: string }> {
  const keys = await makeKeys();
  return {
    keyPem: keyPem(keys),
    publicPem: KeyObject.from(keys.publicKey).export({ type: 'spki', format: 'pem' }),
  };
}
