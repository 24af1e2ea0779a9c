// SPDX-License-Identifier: Apache-2.0
// Makes leaf certificates with the issuer's key, behind an interface so that another signer can take its place.
// Who may have one is decided elsewhere.

import 'reflect-metadata';
import { createPrivateKey, type KeyObject, randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  X509Certificate as IssuerCertificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { MeshError } from '#lib/core/errors.ts';
import { checkChain, describe, outsideValidity, parseCertificates } from '#lib/x509/verify.ts';

export interface LeafRequest {
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKeyDer: Uint8Array;
  readonly dnsName: string;
  readonly notBeforeMs: number;
  /** Clamped to the end of the issuer's own chain. */
  readonly notAfterMs: number;
}

export interface IssuedLeaf {
  readonly leafDer: Buffer;
  /** From the leaf's issuer upwards; the anchor is not part of it. */
  readonly intermediatesDer: readonly Buffer[];
  readonly notAfterMs: number;
}

export interface CertificateIssuer {
  /** For logs. */
  readonly subject: string;
  /** When the first certificate of its chain, the anchor included, ends. */
  readonly notAfterMs: number;
  issue(request: LeafRequest): Promise<IssuedLeaf>;
}

export interface IssuerTexts {
  /** The issuer's certificate, then any further intermediates. */
  readonly certificatePem: string;
  readonly keyPem: string;
  readonly anchorsPem: string;
}

/** An issuer after all checks: a certificate authority, in its time, leading to an anchor, with its own key. */
export async function createIssuer(texts: IssuerTexts, wallMs: number): Promise<CertificateIssuer> {
  const [certificate, ...intermediates] = parseCertificates(texts.certificatePem, "the issuer's certificate");
  if (certificate === undefined) throw invalid("the issuer's certificate file holds no certificate");
  const key = readKey(texts.keyPem);
  if (!certificate.checkPrivateKey(key)) throw invalid("the issuer's key does not belong to its certificate");
  if (!certificate.ca) throw invalid(`the issuer ${describe(certificate)} is no certificate authority`);
  const path = pathToAnchor(certificate, intermediates, texts.anchorsPem, wallMs);
  const signingKey = await importSigningKey(key);
  const chain = [certificate, ...intermediates.filter((other) => !other.checkIssued(other))];
  const notAfterMs = Math.min(...[certificate, ...path].map((one) => one.validToDate.getTime()));
  const issuer = new IssuerCertificate(Uint8Array.from(certificate.raw));
  const authorityKey = await AuthorityKeyIdentifierExtension.create(issuer);

  return {
    subject: describe(certificate),
    notAfterMs,
    async issue(request) {
      const endMs = Math.min(request.notAfterMs, notAfterMs);
      const leaf = await X509CertificateGenerator.create({
        serialNumber: randomSerial(),
        // The subject stays empty, as Linkerd's proxies ask for it; the name is in the extension.
        issuer: issuer.subjectName,
        notBefore: new Date(request.notBeforeMs),
        notAfter: new Date(endMs),
        publicKey: await importPublicKey(request.publicKeyDer),
        signingKey,
        signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
        extensions: [
          new BasicConstraintsExtension(false, undefined, true),
          new KeyUsagesExtension(KeyUsageFlags.digitalSignature | KeyUsageFlags.keyEncipherment, true),
          new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
          new SubjectAlternativeNameExtension([{ type: 'dns', value: request.dnsName }], true),
          authorityKey,
        ],
      });
      return {
        leafDer: Buffer.from(leaf.rawData),
        intermediatesDer: chain.map((one) => one.raw),
        notAfterMs: leaf.notAfter.getTime(),
      };
    },
  };
}

function pathToAnchor(
  certificate: X509Certificate,
  intermediates: readonly X509Certificate[],
  anchorsPem: string,
  wallMs: number,
): readonly X509Certificate[] {
  const anchors = parseCertificates(anchorsPem, 'the trust anchors');
  const isAnchor = anchors.some((anchor) => anchor.raw.equals(certificate.raw));
  // A self-signed issuer that is itself an anchor needs no path.
  if (isAnchor) {
    const expired = outsideValidity(certificate, wallMs);
    if (expired !== undefined) throw expired;
    return [];
  }
  const result = checkChain({ leaf: certificate, intermediates, anchors, wallMs });
  if ('error' in result) throw result.error;
  return result.path;
}

function readKey(pem: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (error) {
    throw MeshError.from(error, 'MESH_CERTIFICATE_INVALID', "the issuer's key cannot be read");
  }
}

const CURVES: Readonly<Record<string, string>> = {
  prime256v1: 'P-256',
  secp384r1: 'P-384',
  secp521r1: 'P-521',
};

async function importSigningKey(key: KeyObject): Promise<webcrypto.CryptoKey> {
  const namedCurve = CURVES[key.asymmetricKeyDetails?.namedCurve ?? ''];
  if (namedCurve === undefined)
    throw invalid("the issuer's key must be ECDSA on P-256, P-384 or P-521", 'make an ECDSA issuer');
  const der = Uint8Array.from(key.export({ type: 'pkcs8', format: 'der' }));
  return await webcrypto.subtle.importKey('pkcs8', der, { name: 'ECDSA', namedCurve }, false, ['sign']);
}

const importPublicKey = (der: Uint8Array): Promise<webcrypto.CryptoKey> =>
  webcrypto.subtle.importKey('spki', Uint8Array.from(der), { name: 'ECDSA', namedCurve: 'P-256' }, true, [
    'verify',
  ]);

/** Positive, random, of 16 bytes (RFC 5280 4.1.2.2 allows 20). */
function randomSerial(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

const invalid = (message: string, remedy?: string): MeshError =>
  new MeshError('MESH_CERTIFICATE_INVALID', message, remedy === undefined ? {} : { remedy });
