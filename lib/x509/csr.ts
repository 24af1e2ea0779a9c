// SPDX-License-Identifier: Apache-2.0
// Makes the certificate signing request of a mesh identity (RFC 2986): empty subject, one DNS name, a P-256 key,
// signed with ECDSA-SHA256. node:crypto has no writer for requests and the agent carries no X.509 library.

import { type KeyObject, sign } from 'node:crypto';
import { MeshError } from '#lib/core/errors.ts';
import {
  derBitString,
  derContext,
  derContextConstructed,
  derObjectIdentifier,
  derOctetString,
  derSequence,
  derSetOfOne,
  derSmallInteger,
  derTrue,
} from './der.ts';

const EXTENSION_REQUEST = derObjectIdentifier('1.2.840.113549.1.9.14');
const SUBJECT_ALTERNATIVE_NAME = derObjectIdentifier('2.5.29.17');
const ECDSA_WITH_SHA256 = derSequence(derObjectIdentifier('1.2.840.10045.4.3.2'));
const DNS_NAME_TAG = 2;
const REQUEST_ATTRIBUTES_TAG = 0;

/** The request for `dnsName`, in DER, for the key pair given. */
export function createCertificateRequest(
  dnsName: string,
  keys: { readonly publicKey: KeyObject; readonly privateKey: KeyObject },
): Buffer {
  if (!/^[\x21-\x7e]{1,255}$/.test(dnsName))
    throw new MeshError('MESH_CERTIFICATE_INVALID', `"${dnsName}" cannot be the DNS name of a certificate`);
  const names = derSequence(derContext(DNS_NAME_TAG, Buffer.from(dnsName, 'latin1')));
  // Critical, because the subject is empty (RFC 5280 4.2.1.6).
  const extensions = derSequence(derSequence(SUBJECT_ALTERNATIVE_NAME, derTrue, derOctetString(names)));
  const information = derSequence(
    derSmallInteger(0),
    derSequence(),
    keys.publicKey.export({ type: 'spki', format: 'der' }),
    derContextConstructed(REQUEST_ATTRIBUTES_TAG, derSequence(EXTENSION_REQUEST, derSetOfOne(extensions))),
  );
  const signature = sign('sha256', information, keys.privateKey);
  return derSequence(information, ECDSA_WITH_SHA256, derBitString(signature));
}
