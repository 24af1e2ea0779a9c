// SPDX-License-Identifier: Apache-2.0
// Certificates that should not be trusted, and some that should, made with the keys of a running local mesh.

import 'reflect-metadata';
import { createPrivateKey, KeyObject, webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SubjectAlternativeNameExtension, X509Certificate, X509CertificateGenerator } from '@peculiar/x509';
import { createIssuer } from '#lib/x509-authority/issuer.ts';
import { makeAuthority } from '#lib/x509-authority/make-authority.ts';
import { makeLeaf } from '#lib/x509-authority/make-leaf.ts';

const HOUR_MS = 3_600_000;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256' };
const SIGNATURE = { name: 'ECDSA', hash: 'SHA-256' };

export interface TlsIdentity {
  readonly chainPem: string;
  readonly keyPem: string;
}

export interface CertificateMaker {
  /** Signed by the mesh's issuer; valid from an hour before to an hour after `atMs`. */
  readonly mesh: (identity: string, atMs?: number) => Promise<TlsIdentity>;
  /** Another mesh's authority of the same name. */
  readonly foreign: (identity: string) => Promise<TlsIdentity>;
  readonly selfSigned: (identity: string) => Promise<TlsIdentity>;
  /** What somebody can make who has a pod's key: a certificate signed with the pod's own. */
  readonly signedBy: (signer: TlsIdentity, identity: string) => Promise<TlsIdentity>;
}

export async function certificateMaker(keysDir: string): Promise<CertificateMaker> {
  const read = (name: string): string => readFileSync(join(keysDir, name), 'utf8');
  const now = Date.now();
  const issuer = await createIssuer(
    { certificatePem: read('issuer.crt'), keyPem: read('issuer.key'), anchorsPem: read('ca.crt') },
    now,
  );
  const other = await makeAuthority({
    trustDomain: 'cluster.local',
    notBeforeMs: now - HOUR_MS,
    anchorLifetimeMs: 24 * HOUR_MS,
    issuerLifetimeMs: 24 * HOUR_MS,
  });
  const foreignIssuer = await createIssuer(
    { certificatePem: other.issuerPem, keyPem: other.issuerKeyPem, anchorsPem: other.anchorPem },
    now,
  );
  const around = (atMs: number) => ({ notBeforeMs: atMs - HOUR_MS, notAfterMs: atMs + HOUR_MS });
  return {
    mesh: (identity, atMs = now) => makeLeaf(issuer, { identity, ...around(atMs) }),
    foreign: (identity) => makeLeaf(foreignIssuer, { identity, ...around(now) }),
    selfSigned: async (identity) => {
      const keys = await makeKeys();
      const certificate = await X509CertificateGenerator.createSelfSigned({
        name: `CN=${identity}`,
        keys,
        ...validity(now),
        signingAlgorithm: SIGNATURE,
        extensions: [namesOf(identity)],
      });
      return { chainPem: certificate.toString('pem'), keyPem: pemOf(keys.privateKey) };
    },
    signedBy: async (signer, identity) => {
      const keys = await makeKeys();
      const signerKey = createPrivateKey(signer.keyPem).export({ type: 'pkcs8', format: 'der' });
      const certificate = await X509CertificateGenerator.create({
        subject: `CN=${identity}`,
        issuer: new X509Certificate(signer.chainPem).subjectName,
        publicKey: keys.publicKey,
        signingKey: await webcrypto.subtle.importKey('pkcs8', Uint8Array.from(signerKey), ALGORITHM, false, [
          'sign',
        ]),
        ...validity(now),
        signingAlgorithm: SIGNATURE,
        extensions: [namesOf(identity)],
      });
      return {
        chainPem: `${certificate.toString('pem')}\n${signer.chainPem}`,
        keyPem: pemOf(keys.privateKey),
      };
    },
  };
}

const makeKeys = () => webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
const namesOf = (identity: string) => new SubjectAlternativeNameExtension([{ type: 'dns', value: identity }]);
const validity = (now: number) => ({ notBefore: new Date(now - HOUR_MS), notAfter: new Date(now + HOUR_MS) });
const pemOf = (key: webcrypto.CryptoKey): string =>
  KeyObject.from(key).export({ type: 'pkcs8', format: 'pem' });
