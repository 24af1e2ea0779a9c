// SPDX-License-Identifier: Apache-2.0
// The names of mesh identities: `<account>.<namespace>.serviceaccount.identity.<mesh namespace>.<trust domain>`,
// as Linkerd forms them. No certificates here.

/** What all identities of one mesh have in common. */
export interface IdentityDomain {
  /** The namespace after `identity.`, usually `linkerd`. */
  readonly identityNamespace: string;
  readonly trustDomain: string;
}

export interface Account {
  readonly namespace: string;
  readonly name: string;
}

const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** A DNS label (RFC 1123), the only form of account and namespace names that can be part of an identity. */
export const isDnsLabel = (text: string): boolean => LABEL.test(text);

export function identityOf(account: Account, domain: IdentityDomain): string {
  return `${account.name}.${account.namespace}.serviceaccount.identity.${domain.identityNamespace}.${domain.trustDomain}`;
}

/** The account an identity stands for, or undefined if it is none of this mesh. */
export function parseIdentity(identity: string, domain: IdentityDomain): Account | undefined {
  const [name = '', namespace = '', ...rest] = identity.split('.');
  if (!isDnsLabel(name) || !isDnsLabel(namespace)) return undefined;
  const tail = `serviceaccount.identity.${domain.identityNamespace}.${domain.trustDomain}`;
  return rest.join('.') === tail ? { namespace, name } : undefined;
}

/** `system:serviceaccount:<namespace>:<account>` as TokenReviews name accounts. */
export function parseAccountUser(username: string): Account | undefined {
  const [system, kind, namespace = '', name = '', ...rest] = username.split(':');
  if (system !== 'system' || kind !== 'serviceaccount' || rest.length > 0) return undefined;
  return isDnsLabel(namespace) && isDnsLabel(name) ? { namespace, name } : undefined;
}
