// SPDX-License-Identifier: Apache-2.0
// Checks of certificates: which mesh identity a leaf carries, and whether a chain leads to a trust anchor. TLS
// handshakes are verified by OpenSSL; this is for what comes after them and before a certificate is published.

import { X509Certificate } from 'node:crypto';
import { MeshError } from '#lib/core/errors.ts';

const CHAIN_LENGTH_MAX = 8;
const PEM_BLOCK = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

export interface SubjectName {
  readonly kind: 'dns' | 'uri';
  readonly value: string;
}

/** The DNS and URI names of a leaf, in their order. The subject is never looked at. */
export function subjectNames(certificate: X509Certificate): readonly SubjectName[] {
  const names: SubjectName[] = [];
  // node:crypto prints names as `DNS:a, URI:b` and quotes, as JSON, those that could be mistaken.
  for (const [, kind, text = ''] of (certificate.subjectAltName ?? '').matchAll(
    /(?:^|, )(DNS|URI):("(?:[^"\\]|\\.)*"|[^,]*)/g,
  )) {
    const value = text.startsWith('"') ? unquote(text) : text;
    if (value !== '') names.push({ kind: kind === 'DNS' ? 'dns' : 'uri', value });
  }
  return names;
}

function unquote(text: string): string {
  const value: unknown = JSON.parse(text);
  return typeof value === 'string' ? value : '';
}

/** The identity of a client: its first name, or undefined if the certificate carries none. */
export function presentedIdentity(certificate: X509Certificate): string | undefined {
  return subjectNames(certificate)[0]?.value;
}

/** An error that names both sides unless one of the leaf's names equals `expected` exactly. */
export function identityMismatch(certificate: X509Certificate, expected: string): MeshError | undefined {
  const names = subjectNames(certificate);
  if (names.some((name) => name.value === expected)) return undefined;
  const presented = names.length === 0 ? 'no name' : names.map((name) => name.value).join(', ');
  return new MeshError(
    'MESH_CERTIFICATE_INVALID',
    `the certificate does not match the identity: expected ${expected}, presented ${presented}`,
  );
}

/** The certificates of a PEM text one by one, also where files were joined without a line feed between them. */
export const pemBlocks = (pem: string): string[] => pem.match(PEM_BLOCK) ?? [];

/** All certificates of a PEM text. */
export function parseCertificates(pem: string, what: string): X509Certificate[] {
  try {
    return pemBlocks(pem).map((block) => new X509Certificate(block));
  } catch (error) {
    throw MeshError.from(error, 'MESH_CERTIFICATE_INVALID', `${what} cannot be read`);
  }
}

export interface ChainToCheck {
  readonly leaf: X509Certificate;
  readonly intermediates: readonly X509Certificate[];
  readonly anchors: readonly X509Certificate[];
  readonly wallMs: number;
}

/** The chain from the leaf's issuer to an anchor (inclusive), or the reason why there is none. */
export function checkChain(chain: ChainToCheck): { path: readonly X509Certificate[] } | { error: MeshError } {
  const expired = outsideValidity(chain.leaf, chain.wallMs);
  if (expired !== undefined) return { error: expired };
  const path = findPath(chain.leaf, chain, 0);
  if (path !== undefined) return { path };
  return {
    error: new MeshError(
      'MESH_CERTIFICATE_INVALID',
      `the certificate of ${describe(chain.leaf)} does not lead to a trust anchor that is valid now`,
      { remedy: 'compare its issuer with the trust anchors' },
    ),
  };
}

function findPath(
  certificate: X509Certificate,
  chain: ChainToCheck,
  depth: number,
): readonly X509Certificate[] | undefined {
  if (depth >= CHAIN_LENGTH_MAX) return undefined;
  const signs = (candidate: X509Certificate): boolean =>
    candidate.ca &&
    outsideValidity(candidate, chain.wallMs) === undefined &&
    certificate.checkIssued(candidate) &&
    certificate.verify(candidate.publicKey);
  const anchor = chain.anchors.find(signs);
  if (anchor !== undefined) return [anchor];
  for (const intermediate of chain.intermediates) {
    if (!signs(intermediate)) continue;
    const rest = findPath(intermediate, chain, depth + 1);
    if (rest !== undefined) return [intermediate, ...rest];
  }
  return undefined;
}

/** An error if `wallMs` is before or after the certificate's validity. */
export function outsideValidity(certificate: X509Certificate, wallMs: number): MeshError | undefined {
  const early = wallMs < certificate.validFromDate.getTime();
  if (!early && wallMs <= certificate.validToDate.getTime()) return undefined;
  return new MeshError(
    'MESH_CERTIFICATE_INVALID',
    early
      ? `the certificate of ${describe(certificate)} is not valid before ${certificate.validFromDate.toISOString()}`
      : `the certificate of ${describe(certificate)} expired at ${certificate.validToDate.toISOString()}`,
  );
}

/** A short name of a certificate for messages. */
export function describe(certificate: X509Certificate): string {
  return (
    presentedIdentity(certificate) ?? (certificate.subject?.replaceAll('\n', ', ') || 'an unnamed subject')
  );
}
