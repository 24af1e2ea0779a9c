// SPDX-License-Identifier: Apache-2.0
// The certificates of the identities that this node's agent speaks for: its pods' and its own. The keeping is
// lib/identity-client; this is where the agent takes it from, in the type that the workers receive.

import type { Certificate } from '../proxy/model.ts';
import {
  type Certificates as KeptCertificates,
  type CertificatesOptions,
  createCertificates as keepCertificates,
} from '#lib/identity-client/certificates.ts';

export type { CertificatesOptions } from '#lib/identity-client/certificates.ts';

export interface Certificates extends KeptCertificates {
  get(identity: string): Certificate | undefined;
  ready(identity: string): Promise<Certificate>;
  onChange(listener: (certificate: Certificate) => void): () => void;
}

export function createCertificates(options: CertificatesOptions): Certificates {
  return keepCertificates(options);
}
