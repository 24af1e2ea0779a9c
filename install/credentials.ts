// SPDX-License-Identifier: Apache-2.0
// The issuer and trust anchors of an installation: made anew, or checked as they were given.

import { MeshError } from '#lib/core/errors.ts';
import { createIssuer } from '#lib/x509-authority/issuer.ts';
import { makeAuthority } from '#lib/x509-authority/make-authority.ts';
import { lookUp, mergeValues, textAt, trustDomainOf, type Values, type ValuesMap } from './values.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** Nobody keeps the key of a made anchor, so that the issuer can last as long as it does. */
const MADE_LIFETIME_MS = 3650 * DAY_MS;

const ANCHORS = 'identityTrustAnchorsPEM';
const CERTIFICATE = 'identity.issuer.tls.crtPEM';
const KEY = 'identity.issuer.tls.keyPEM';

export interface Credentials {
  readonly anchorsPem: string;
  readonly certificatePem: string;
  readonly keyPem: string;
}

export const credentialsOf = (values: Values): Credentials => ({
  anchorsPem: textAt(values, ANCHORS),
  certificatePem: textAt(values, CERTIFICATE),
  keyPem: textAt(values, KEY),
});

export const withCredentials = (values: ValuesMap, credentials: Credentials): ValuesMap =>
  mergeValues(values, {
    identityTrustAnchorsPEM: credentials.anchorsPem,
    identity: { issuer: { tls: { crtPEM: credentials.certificatePem, keyPEM: credentials.keyPem } } },
  });

export const issuerIsExternal = (values: ValuesMap): boolean =>
  lookUp(values, 'identity.issuer.scheme') === 'kubernetes.io/tls';

/** Whether some of the three were given; an error if not all were that are needed. */
export function hasCredentials(values: Values): boolean {
  const { anchorsPem, certificatePem, keyPem } = credentialsOf(values);
  if (anchorsPem === '' && certificatePem === '' && keyPem === '') return false;
  if (anchorsPem === '')
    throw missing('a trust anchors file must be specified if other credentials are provided');
  if (certificatePem === '') {
    throw missing('a certificate file must be specified if other credentials are provided');
  }
  if (keyPem === '') throw missing('a private key file must be specified if other credentials are provided');
  return true;
}

const missing = (message: string): MeshError =>
  new MeshError('MESH_CONFIG_INVALID', message, {
    remedy:
      'give --identity-issuer-certificate-file, --identity-issuer-key-file and --identity-trust-anchors-file together',
  });

/** Rejects unless identity could work with them. */
export async function checkCredentials(credentials: Credentials, wallMs: number): Promise<void> {
  try {
    await createIssuer(credentials, wallMs);
  } catch (error) {
    throw new MeshError(
      'MESH_CERTIFICATE_INVALID',
      `failed to validate issuer credentials: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}

export async function makeCredentials(values: Values, wallMs: number): Promise<Credentials> {
  const authority = await makeAuthority({
    trustDomain: trustDomainOf(values),
    notBeforeMs: wallMs - HOUR_MS,
    anchorLifetimeMs: MADE_LIFETIME_MS,
    issuerLifetimeMs: MADE_LIFETIME_MS,
  });
  return {
    anchorsPem: authority.anchorPem,
    certificatePem: authority.issuerPem,
    keyPem: authority.issuerKeyPem,
  };
}
