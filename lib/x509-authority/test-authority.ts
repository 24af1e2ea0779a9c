// SPDX-License-Identifier: Apache-2.0
// An authority with an issuer that is ready to use, for tests that need certificates.

import { createIssuer, type CertificateIssuer } from './issuer.ts';
import { type Authority, makeAuthority } from './make-authority.ts';
import { type Leaf, makeLeaf } from './make-leaf.ts';

const HOUR_MS = 3_600_000;

export interface TestAuthority extends Authority {
  readonly issuer: CertificateIssuer;
  /** A leaf that is valid from one hour before to one hour after `wallMs` (default: the authority's). */
  leaf(identity: string, wallMs?: number): Promise<Leaf>;
}

/** Valid from a day before `wallMs` (default: now) to ten days after it. */
export async function makeTestAuthority(wallMs = Date.now()): Promise<TestAuthority> {
  const authority = await makeAuthority({
    trustDomain: 'cluster.local',
    notBeforeMs: wallMs - 24 * HOUR_MS,
    anchorLifetimeMs: 20 * 24 * HOUR_MS,
    issuerLifetimeMs: 11 * 24 * HOUR_MS,
  });
  const issuer = await createIssuer(
    { certificatePem: authority.issuerPem, keyPem: authority.issuerKeyPem, anchorsPem: authority.anchorPem },
    wallMs,
  );
  return {
    ...authority,
    issuer,
    leaf: (identity, atMs = wallMs) =>
      makeLeaf(issuer, { identity, notBeforeMs: atMs - HOUR_MS, notAfterMs: atMs + HOUR_MS }),
  };
}
