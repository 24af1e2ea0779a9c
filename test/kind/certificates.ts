// SPDX-License-Identifier: Apache-2.0
// The keys and certificates of a cluster: one authority for everything that is dialled or dials, one for the API
// server's aggregation, and the key that signs service accounts' tokens. They live as long as the cluster.

import 'reflect-metadata';
import { createPrivateKey, KeyObject, webcrypto } from 'node:crypto';
import {
  BasicConstraintsExtension,
  type Extension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  X509Certificate,
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

type Make = (of: webcrypto.CryptoKey, subject: string, extensions: Extension[]) => Promise<X509Certificate>;

const makerOf =
  (signingKey: webcrypto.CryptoKey, issuer: string, nowMs: number): Make =>
  (publicKey, subject, extensions) =>
    X509CertificateGenerator.create({
      serialNumber: `01${serial()}`,
      subject,
      issuer,
      notBefore: new Date(nowMs - 3_600_000),
      notAfter: new Date(nowMs + YEAR_MS),
      publicKey,
      signingKey,
      signingAlgorithm: SIGNING,
      extensions,
    });

export async function makeAuthority(commonName: string, nowMs: number): Promise<Authority> {
  const keys = await makeKeys();
  const issuer = `CN=${commonName}`;
  const make = makerOf(keys.privateKey, issuer, nowMs);
  const own = await make(keys.publicKey, issuer, [
    new BasicConstraintsExtension(true, undefined, true),
    new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.digitalSignature, true),
  ]);
  return authorityOf({ certificatePem: `${own.toString('pem')}\n`, keyPem: keyPem(keys) }, make);
}

/** One that was made before, of which the files are left. */
export async function readAuthority(pair: KeyPair, nowMs: number): Promise<Authority> {
  const der = createPrivateKey(pair.keyPem).export({ type: 'pkcs8', format: 'der' });
  const key = await webcrypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
  return authorityOf(pair, makerOf(key, new X509Certificate(pair.certificatePem).subject, nowMs));
}

const authorityOf = (pair: KeyPair, make: Make): Authority => ({
  ...pair,
  issue: async (name) => {
    const leafKeys = await makeKeys();
    const organization = name.organization === undefined ? '' : `O=${name.organization}, `;
    const alternatives = [
      ...(name.dns ?? []).map((value) => ({ type: 'dns' as const, value })),
      ...(name.ip ?? []).map((value) => ({ type: 'ip' as const, value })),
    ];
    const leaf = await make(leafKeys.publicKey, `${organization}CN=${name.commonName}`, [
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
      ...(alternatives.length === 0 ? [] : [new SubjectAlternativeNameExtension(alternatives)]),
    ]);
    return { certificatePem: `${leaf.toString('pem')}\n`, keyPem: keyPem(leafKeys) };
  },
});

/** The key of service accounts' tokens: the API server signs with the private one and checks with the public one. */
export async function makeTokenKey(): Promise<{ readonly keyPem: string; readonly publicPem: string }> {
  const keys = await makeKeys();
  return {
    keyPem: keyPem(keys),
    publicPem: KeyObject.from(keys.publicKey).export({ type: 'spki', format: 'pem' }),
  };
}
