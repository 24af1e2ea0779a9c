// SPDX-License-Identifier: Apache-2.0
// Checks a Certify request as far as it can be judged alone: sizes, and the certificate signing request.

import 'reflect-metadata';
import { createPublicKey, type KeyObject } from 'node:crypto';
import { Pkcs10CertificateRequest, SubjectAlternativeNameExtension } from '@peculiar/x509';
import { errorMessage } from '#lib/core/errors.ts';
import type { CertifyRequest } from '#lib/proto/gen/linkerd/identity.ts';
import { Refusal } from './rules.ts';

const IDENTITY_BYTES_MAX = 253;
const TOKEN_BYTES_MAX = 16 * 1024;
const REQUEST_BYTES_MAX = 8 * 1024;

/** Refuses absent and oversized fields before anything costs time. */
export function checkFields(request: CertifyRequest): void {
  const fields = [
    ['identity', Buffer.byteLength(request.identity), IDENTITY_BYTES_MAX],
    ['token', request.token.length, TOKEN_BYTES_MAX],
    ['certificate signing request', request.certificateSigningRequest.length, REQUEST_BYTES_MAX],
  ] as const;
  for (const [name, bytes, bytesMax] of fields) {
    if (bytes === 0) throw new Refusal('field-missing', `the request has no ${name}`);
    if (bytes > bytesMax)
      throw new Refusal('field-too-long', `the ${name} has ${bytes} bytes, at most ${bytesMax} are allowed`);
  }
}

/** The public key (SubjectPublicKeyInfo, DER) of a request that asks for exactly `identity`. */
export async function checkCertificateRequest(der: Uint8Array, identity: string): Promise<Buffer> {
  const request = parse(der);
  const publicKeyDer = Buffer.from(request.publicKey.rawData);
  const key = readPublicKey(publicKeyDer);
  const kind = `${key.asymmetricKeyType} ${key.asymmetricKeyDetails?.namedCurve ?? ''}`.trim();
  if (kind !== 'ec prime256v1')
    throw new Refusal('request-key', `the key of the request is ${kind}, not ECDSA on P-256`);
  checkNames(request, identity);
  if (!(await signatureHolds(request)))
    throw new Refusal('request-signature', 'the request is not signed by its own key');
  return publicKeyDer;
}

function parse(der: Uint8Array): Pkcs10CertificateRequest {
  try {
    return new Pkcs10CertificateRequest(Uint8Array.from(der));
  } catch (error) {
    throw new Refusal('request-unreadable', `the certificate signing request: ${errorMessage(error)}`);
  }
}

function readPublicKey(der: Buffer): KeyObject {
  try {
    return createPublicKey({ key: der, format: 'der', type: 'spki' });
  } catch (error) {
    throw new Refusal('request-key', `the key of the request cannot be read: ${errorMessage(error)}`);
  }
}

function checkNames(request: Pkcs10CertificateRequest, identity: string): void {
  const alternatives = Array.from(request.extensions).filter(
    (extension) => extension instanceof SubjectAlternativeNameExtension,
  );
  const names = alternatives.flatMap((extension) => extension.names.items);
  const [only, ...others] = names;
  if (only?.type !== 'dns' || only.value !== identity || others.length > 0) {
    const asked = names.map((name) => `${name.type} ${name.value}`).join(', ') || 'none';
    throw new Refusal(
      'request-names',
      `the request must name ${identity} and nothing else; it names ${asked}`,
    );
  }
  const subject = request.subject;
  if (subject !== '' && subject !== `CN=${identity}`)
    throw new Refusal('request-names', `the subject "${subject}" of the request is not ${identity}`);
}

async function signatureHolds(request: Pkcs10CertificateRequest): Promise<boolean> {
  try {
    return await request.verify();
  } catch {
    // An algorithm that does not fit the key: not signed by it.
    return false;
  }
}
