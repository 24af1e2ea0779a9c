// SPDX-License-Identifier: Apache-2.0
// What a peer is told by its pod: where the control plane is, who it is, its token.

import { readFileSync } from 'node:fs';
import { type Certified, certify } from './certify.ts';

export const TOKEN_MOUNT = '/var/run/secrets/tokens';
const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';

const required = (name: string): string => {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
};

export const controlAddress = (): string => required('CONTROL_ADDRESS');

/** Of a control-plane program. */
export const controlName = (account: string): string =>
  `${account}.nodemesh.serviceaccount.identity.linkerd.cluster.local`;

export function ownCertificate(): Promise<Certified> {
  return certify({
    host: controlAddress(),
    port: 8080,
    serverName: controlName('linkerd-identity'),
    anchorsPem: readFileSync(`${ACCOUNT}/ca.crt`, 'utf8'),
    identity: required('IDENTITY'),
    token: readFileSync(`${TOKEN_MOUNT}/linkerd-identity-token`, 'utf8'),
  });
}
