// SPDX-License-Identifier: Apache-2.0
// What is said about an object that somebody applies: mistakes first, then whether anything enforces it. A policy
// that nothing enforces would only look like protection.

import { isDeepStrictEqual } from 'node:util';
import { type PolicyKind, policyKinds, policyProblems } from './kinds/policy.ts';
import { parentKinds, routeJudgement } from './kinds/route.ts';
import { serviceProfileProblems, serviceProfileWarnings } from './kinds/service-profile.ts';
import type { Judgement } from './shapes.ts';

export interface ReviewedObject {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly spec: unknown;
  /** Of the object before an update. */
  readonly oldSpec: unknown;
}

const POLICY = 'policy.linkerd.io';
const GATEWAY = 'gateway.networking.k8s.io';

/** Kinds and parents of routes that no part of the mesh acts on yet. Each goes from here with its enforcement. */
const notEnforced: Readonly<Record<string, string>> = {
  Server: 'ports are protected by config.linkerd.io/default-inbound-policy on the namespace or pod',
  ServerAuthorization: 'use config.linkerd.io/default-inbound-policy on the namespace or pod',
  AuthorizationPolicy: 'use config.linkerd.io/default-inbound-policy on the namespace or pod',
  HTTPLocalRateLimitPolicy: 'limit requests in the application',
  EgressNetwork: 'limit what leaves the cluster with a NetworkPolicy',
  'route of a Server': 'use config.linkerd.io/default-inbound-policy on the namespace or pod',
  'route of an EgressNetwork': 'limit what leaves the cluster with a NetworkPolicy',
  TLSRoute: 'HTTPRoute and GRPCRoute are acted on',
  TCPRoute: 'HTTPRoute and GRPCRoute are acted on',
};

const refuse = (what: string): Judgement => ({
  problems: [
    `nodemesh does not enforce a ${what} yet, and refuses it so that nobody relies on it; ${notEnforced[what] ?? ''}`,
  ],
  warnings: [],
});

const nothing: Judgement = { problems: [], warnings: [] };

export function judge(object: ReviewedObject): Judgement {
  // Labels, finalizers and statuses of what is there already are nobody's policy.
  if (object.oldSpec !== undefined && isDeepStrictEqual(object.oldSpec, object.spec)) return nothing;
  const { group, kind, namespace, spec } = object;
  if (group === 'linkerd.io' && kind === 'ServiceProfile') {
    const problems = serviceProfileProblems(spec);
    return { problems, warnings: problems.length > 0 ? [] : serviceProfileWarnings(spec) };
  }
  if (group === POLICY && (policyKinds as readonly string[]).includes(kind)) {
    const problems = policyProblems(kind as PolicyKind, spec, namespace);
    if (problems.length > 0) return { problems, warnings: [] };
    return kind in notEnforced ? refuse(kind) : nothing;
  }
  if (kind === 'HTTPRoute' || (kind === 'GRPCRoute' && group === GATEWAY)) {
    const judgement = routeJudgement(kind, group, spec);
    if (judgement.problems.length > 0) return judgement;
    const parents = parentKinds(parentsOf(spec), group);
    if (parents.has('Server')) return refuse('route of a Server');
    if (parents.has('EgressNetwork')) return refuse('route of an EgressNetwork');
    return judgement;
  }
  if (group === GATEWAY && (kind === 'TLSRoute' || kind === 'TCPRoute')) {
    return parentKinds(parentsOf(spec), group).size > 0 ? refuse(kind) : nothing;
  }
  return { problems: [`${kind} of ${group} is not a kind that this webhook knows`], warnings: [] };
}

function parentsOf(spec: unknown): Parameters<typeof parentKinds>[0] {
  const refs = (spec as { readonly parentRefs?: unknown } | null)?.parentRefs;
  return Array.isArray(refs) ? (refs as Parameters<typeof parentKinds>[0]) : [];
}
