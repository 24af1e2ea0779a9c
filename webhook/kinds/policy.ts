// SPDX-License-Identifier: Apache-2.0
// Server, the authorization kinds, rate limits and EgressNetwork.

import * as v from 'valibot';
import { networkContains, parseNetwork } from '#lib/core/addresses.ts';
import { inboundPolicies } from '#lib/registry/mesh-settings.ts';
import {
  exactlyOne,
  labelSelector,
  list,
  name,
  network,
  type Problems,
  problemsOf,
  reference,
  text,
} from '../shapes.ts';

const PROTOCOLS = ['unknown', 'HTTP/1', 'HTTP/2', 'gRPC', 'opaque', 'TLS'];

const PORT = 'expected a port from 1 to 65535 or the name of a container port';
const isPort = (port: number | string): boolean =>
  typeof port === 'number'
    ? Number.isInteger(port) && port >= 1 && port <= 65535
    : /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/.test(port);

const server = v.pipe(
  v.strictObject({
    podSelector: v.optional(labelSelector),
    externalWorkloadSelector: v.optional(labelSelector),
    port: v.pipe(v.union([v.number(), v.string()], PORT), v.check(isPort, PORT)),
    proxyProtocol: v.optional(v.picklist(PROTOCOLS, `expected one of ${PROTOCOLS.join(', ')}`)),
    accessPolicy: v.optional(
      v.picklist(
        inboundPolicies,
        `Invalid 'accessPolicy' field: expected one of ${inboundPolicies.join(', ')}`,
      ),
    ),
  }),
  exactlyOne('podSelector', 'externalWorkloadSelector'),
);

const DNS_IDENTITY = /^(\*|(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)$/;
const SPIFFE_IDENTITY = /^spiffe:\/\/[a-z0-9._-]+(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._-]+)*$/;
const identity = v.pipe(
  text,
  v.check(
    (value) => DNS_IDENTITY.test(value) || SPIFFE_IDENTITY.test(value),
    'is no identity: expected a name such as web.shop.serviceaccount.identity.linkerd.cluster.local, *.suffix, * or spiffe://…',
  ),
);

const meshTls = v.pipe(
  v.strictObject({
    unauthenticatedTLS: v.optional(v.boolean('expected true or false')),
    identities: v.optional(list(identity)),
    serviceAccounts: v.optional(list(v.strictObject({ name, namespace: v.optional(text) }))),
  }),
  v.check(
    ({ unauthenticatedTLS, identities, serviceAccounts }) =>
      unauthenticatedTLS !== true ||
      ((identities ?? []).length === 0 && (serviceAccounts ?? []).length === 0),
    'unauthenticatedTLS lets everybody in: identities and serviceAccounts may not be set beside it',
  ),
);

const serverAuthorization = v.strictObject({
  server: v.pipe(
    v.strictObject({ name: v.optional(name), selector: v.optional(labelSelector) }),
    exactlyOne('name', 'selector'),
  ),
  client: v.pipe(
    v.strictObject({
      networks: v.optional(list(network)),
      unauthenticated: v.optional(v.boolean('expected true or false')),
      meshTLS: v.optional(meshTls),
    }),
    v.check(
      ({ unauthenticated, meshTLS }) => unauthenticated !== true || meshTLS === undefined,
      'unauthenticated and meshTLS may not be set together',
    ),
  ),
});

const authorizationPolicy = v.strictObject({
  targetRef: reference,
  requiredAuthenticationRefs: list(reference),
});

const meshTlsAuthentication = v.pipe(
  v.strictObject({
    identities: v.optional(v.pipe(list(identity), v.minLength(1, 'needs at least one'))),
    identityRefs: v.optional(v.pipe(list(reference), v.minLength(1, 'needs at least one'))),
  }),
  exactlyOne('identities', 'identityRefs'),
);

const networkAuthentication = v.strictObject({
  networks: v.pipe(list(network), v.minLength(1, 'needs at least one')),
});

const rate = v.strictObject({
  requestsPerSecond: v.pipe(
    v.number('expected a number'),
    v.integer('expected a whole number'),
    v.minValue(1, 'must be greater than 0'),
  ),
});

const rateLimit = v.strictObject({
  targetRef: reference,
  total: v.optional(rate),
  identity: v.optional(rate),
  overrides: v.optional(list(v.strictObject({ ...rate.entries, clientRefs: list(reference) }))),
});

const egressNetwork = v.strictObject({
  trafficPolicy: v.picklist(['Allow', 'Deny'], 'expected Allow or Deny'),
  networks: v.optional(v.pipe(list(network), v.minLength(1, 'needs at least one, or leave it out for all'))),
});

type Reference = v.InferOutput<typeof reference>;
interface Range {
  readonly cidr: string;
  readonly except?: readonly string[];
}

const POLICY = 'policy.linkerd.io';
const isKind = ({ group = '', kind }: Reference, of: string, wanted: string): boolean =>
  kind.toLowerCase() === wanted.toLowerCase() && (group === of || (of === '' && group === 'core'));

const rules = {
  Server: { schema: server, more: () => [] },
  ServerAuthorization: {
    schema: serverAuthorization,
    more: (spec: v.InferOutput<typeof serverAuthorization>) =>
      rangeProblems(spec.client.networks as readonly Range[] | undefined, 'spec.client.networks'),
  },
  AuthorizationPolicy: { schema: authorizationPolicy, more: authorizationProblems },
  MeshTLSAuthentication: {
    schema: meshTlsAuthentication,
    more: (spec: v.InferOutput<typeof meshTlsAuthentication>) =>
      (spec.identityRefs ?? []).flatMap((ref, index) => {
        const at = `spec.identityRefs[${index}]`;
        if (isKind(ref, '', 'Namespace')) {
          return ref.namespace === undefined ? [] : [`${at}: a Namespace has no namespace`];
        }
        return isKind(ref, '', 'ServiceAccount')
          ? []
          : [`${at}: expected a ServiceAccount or a Namespace, not ${ref.kind}`];
      }),
  },
  NetworkAuthentication: {
    schema: networkAuthentication,
    more: (spec: v.InferOutput<typeof networkAuthentication>) =>
      rangeProblems(spec.networks as readonly Range[], 'spec.networks'),
  },
  HTTPLocalRateLimitPolicy: { schema: rateLimit, more: rateProblems },
  EgressNetwork: {
    schema: egressNetwork,
    more: (spec: v.InferOutput<typeof egressNetwork>) =>
      rangeProblems(spec.networks as readonly Range[] | undefined, 'spec.networks'),
  },
};

export type PolicyKind = keyof typeof rules;
export const policyKinds = Object.keys(rules) as readonly PolicyKind[];

export function policyProblems(kind: PolicyKind, spec: unknown, namespace: string): Problems {
  const { schema, more } = rules[kind];
  const problems = problemsOf(schema, spec);
  return problems.length > 0
    ? problems
    : (more as (spec: unknown, namespace: string) => string[])(spec, namespace);
}

function rangeProblems(ranges: readonly Range[] = [], at: string): string[] {
  return ranges.flatMap(({ cidr, except = [] }, index) =>
    except.flatMap((one) => {
      const place = `${at}[${index}].except`;
      if (covers(one, cidr)) return [`${place}: ${one} leaves nothing of ${cidr} (completely negated)`];
      return covers(cidr, one) ? [] : [`${place}: ${cidr} does not include exception ${one}`];
    }),
  );
}

function covers(outer: string, inner: string): boolean {
  const a = parseNetwork(outer);
  const b = parseNetwork(inner);
  return a !== undefined && b !== undefined && a.prefix <= b.prefix && networkContains(a, b.bytes);
}

function authorizationProblems(spec: v.InferOutput<typeof authorizationPolicy>, namespace: string): string[] {
  const problems: string[] = [];
  const { targetRef, requiredAuthenticationRefs } = spec;
  if (isKind(targetRef, '', 'Namespace')) {
    if (targetRef.name !== namespace) problems.push('spec.targetRef: cannot target another namespace');
  } else if (
    !isKind(targetRef, POLICY, 'Server') &&
    !isKind(targetRef, POLICY, 'HTTPRoute') &&
    !isKind(targetRef, 'gateway.networking.k8s.io', 'HTTPRoute') &&
    !isKind(targetRef, 'gateway.networking.k8s.io', 'GRPCRoute')
  ) {
    problems.push(
      `spec.targetRef: expected a Server, HTTPRoute, GRPCRoute or Namespace, not ${targetRef.group ?? ''}/${targetRef.kind}`,
    );
  }
  const count = (group: string, kind: string): number =>
    requiredAuthenticationRefs.filter((ref) => isKind(ref, group, kind)).length;
  const tls = count(POLICY, 'MeshTLSAuthentication');
  const networks = count(POLICY, 'NetworkAuthentication');
  const accounts = count('', 'ServiceAccount');
  const at = 'spec.requiredAuthenticationRefs';
  if (tls > 1) problems.push(`${at}: only a single MeshTLSAuthentication may be set`);
  if (networks > 1) problems.push(`${at}: only a single NetworkAuthentication may be set`);
  if (accounts > 1) problems.push(`${at}: only a single ServiceAccount may be set`);
  if (tls > 0 && accounts > 0) {
    problems.push(`${at}: a MeshTLSAuthentication and a ServiceAccount may not be set together`);
  }
  const others = requiredAuthenticationRefs.length - tls - networks - accounts;
  if (others > 0) {
    problems.push(
      `${at}: unsupported authentication kind(s): expected MeshTLSAuthentication, NetworkAuthentication or ServiceAccount`,
    );
  }
  return problems;
}

function rateProblems(spec: v.InferOutput<typeof rateLimit>): string[] {
  const problems: string[] = [];
  const { targetRef, total, identity: each, overrides = [] } = spec;
  if (!isKind(targetRef, POLICY, 'Server'))
    problems.push(`spec.targetRef: invalid targetRef kind ${targetRef.kind}, expected a Server`);
  const most = total?.requestsPerSecond;
  if (most !== undefined && (each?.requestsPerSecond ?? 0) > most) {
    problems.push('spec.identity.requestsPerSecond: is more than total.requestsPerSecond');
  }
  for (const [index, one] of overrides.entries()) {
    const at = `spec.overrides[${index}]`;
    if (most !== undefined && one.requestsPerSecond > most) {
      problems.push(`${at}.requestsPerSecond: is more than total.requestsPerSecond`);
    }
    if (one.clientRefs.some((ref) => !isKind(ref, '', 'ServiceAccount'))) {
      problems.push(`${at}.clientRefs: expected ServiceAccounts`);
    }
  }
  return problems;
}
