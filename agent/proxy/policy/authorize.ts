// SPDX-License-Identifier: Apache-2.0
// Whether a client may use a server: the first authorization that matches decides, none denies. Pure; judges an
// address, a TLS state and an identity, never a header.

import { type IpBytes, type Network, networkContains, parseIp, parseNetwork } from '#lib/core/addresses.ts';
import type { Authorization, ServerPolicy } from '../model.ts';

/** The client's facts, fixed when its connection was accepted. */
export interface PolicyClient {
  readonly ip: IpBytes;
  /** TLS that ended here, or the kernel's voucher for a pod of this node. */
  readonly secured: boolean;
  /** '' if it proved none. */
  readonly identity: string;
}

interface CompiledAuthorization {
  readonly source: Authorization;
  readonly networks: readonly { readonly net: Network; readonly except: readonly Network[] }[];
}

/** A policy made ready for judging. */
export interface CompiledPolicy {
  readonly source: ServerPolicy;
  readonly authorizations: readonly CompiledAuthorization[];
}

const LOCALHOST: Authorization = {
  networks: [
    { net: '127.0.0.1/32', except: [] },
    { net: '::1/128', except: [] },
  ],
  authentication: { kind: 'unauthenticated' },
  labels: { group: '', kind: 'default', name: 'localhost' },
  audit: false,
};

/** A network that cannot be read matches nobody; one such exception takes its whole entry away. */
export function compilePolicy(source: ServerPolicy): CompiledPolicy {
  return {
    source,
    authorizations: [...source.authorizations, LOCALHOST].map((authorization) => ({
      source: authorization,
      networks: authorization.networks.flatMap(({ net, except }) => {
        const network = parseNetwork(net);
        const exceptions = except.map(parseNetwork);
        if (network === undefined || exceptions.includes(undefined)) return [];
        return [{ net: network, except: exceptions.filter((item) => item !== undefined) }];
      }),
    })),
  };
}

export function authorize(policy: CompiledPolicy, client: PolicyClient): Authorization | null {
  for (const { source, networks } of policy.authorizations) {
    if (!authenticates(source.authentication, client)) continue;
    for (const { net, except } of networks) {
      if (!networkContains(net, client.ip)) continue;
      if (!except.some((network) => networkContains(network, client.ip))) return source;
    }
  }
  return null;
}

function authenticates(wanted: Authorization['authentication'], client: PolicyClient): boolean {
  switch (wanted.kind) {
    case 'unauthenticated':
      return true;
    case 'tls-unauthenticated':
      return client.secured;
    case 'tls':
      return (
        client.secured &&
        client.identity !== '' &&
        (wanted.identities.includes(client.identity) ||
          (isDnsName(client.identity) && wanted.suffixes.some((suffix) => endsIn(client.identity, suffix))))
      );
  }
}

/** Suffixes are of DNS-like identities only: a URI never matches one. */
function isDnsName(identity: string): boolean {
  return !identity.includes('/') && !identity.includes(':');
}

/** Whole labels: `b.c` is a suffix of `a.b.c` and of itself, not of `ab.c`. */
function endsIn(identity: string, suffix: string): boolean {
  const bare = suffix.startsWith('.') ? suffix.slice(1) : suffix;
  return bare === '' || identity === bare || identity.endsWith(`.${bare}`);
}

/** An address that cannot be read is in no network. */
export function clientIp(text: string | undefined): IpBytes {
  return (text === undefined ? undefined : parseIp(text)) ?? new Uint8Array(0);
}
