// SPDX-License-Identifier: Apache-2.0
// HTTPRoute (of policy.linkerd.io and of the Gateway API) and GRPCRoute. What the mesh could not do makes the whole
// route count for nothing, so that it is better refused when somebody applies it.

import * as v from 'valibot';
import { errorMessage } from '#lib/core/errors.ts';
import { linearRegExp } from '#lib/regexp/linear-regexp.ts';
import { parseGoDurationMs } from '#lib/registry/annotations.ts';
import {
  type GrpcRouteSpec,
  grpcRouteSpec,
  type HttpRouteSpec,
  httpRouteSpec,
  type RouteFilterSpec,
  type RouteParentRef,
} from '#lib/registry/route-schema.ts';
import { type Judgement, problemsOf } from '../shapes.ts';

const POLICY = 'policy.linkerd.io';
const HOST = /^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/i;

/** Which parents concern the mesh; others belong to somebody else, and so does the route. */
export type ParentKind = 'Service' | 'Server' | 'EgressNetwork';

export function parentKinds(parents: readonly Partial<RouteParentRef>[], group: string): Set<ParentKind> {
  const kinds = new Set<ParentKind>();
  for (const parent of parents) {
    const of = parent.group ?? group;
    if (parent.kind === 'Service' && (of === '' || of === 'core')) kinds.add('Service');
    if (of === POLICY && (parent.kind === 'Server' || (parent.kind ?? '') === '')) kinds.add('Server');
    if (of === POLICY && parent.kind === 'EgressNetwork') kinds.add('EgressNetwork');
  }
  return kinds;
}

export function routeJudgement(kind: 'HTTPRoute' | 'GRPCRoute', group: string, given: unknown): Judgement {
  const schema = kind === 'HTTPRoute' ? httpRouteSpec : grpcRouteSpec;
  const result = v.safeParse(schema, given);
  if (!result.success) {
    const problems = problemsOf(schema, given);
    // Another controller may know more of the Gateway API than we do.
    return group === POLICY ? { problems, warnings: [] } : { problems: [], warnings: problems.map(notUsed) };
  }
  const spec: HttpRouteSpec | GrpcRouteSpec = result.output;
  if (parentKinds(spec.parentRefs, group).size === 0) return { problems: [], warnings: [] };
  const problems: string[] = [];
  for (const [index, parent] of spec.parentRefs.entries()) {
    if (parent.kind === 'EgressNetwork' && (parent.port ?? undefined) === undefined) {
      problems.push(`spec.parentRefs[${index}]: cannot target an EgressNetwork without specifying a port`);
    }
  }
  for (const [index, host] of spec.hostnames.entries()) {
    if (!HOST.test(host)) problems.push(`spec.hostnames[${index}]: "${host}" is no host name`);
  }
  for (const [index, rule] of spec.rules.entries()) {
    problems.push(...ruleProblems(kind, rule, `spec.rules[${index}]`));
  }
  return { problems, warnings: [] };
}

const notUsed = (problem: string): string => `nodemesh does not use this route: ${problem}`;

type Rule = HttpRouteSpec['rules'][number] | GrpcRouteSpec['rules'][number];

function ruleProblems(kind: 'HTTPRoute' | 'GRPCRoute', rule: Rule, at: string): string[] {
  const problems: string[] = [];
  const attempt = (place: string, run: () => void): void => {
    try {
      run();
    } catch (error) {
      problems.push(`${place}: ${errorMessage(error)}`);
    }
  };
  for (const [index, match] of rule.matches.entries()) {
    const place = `${at}.matches[${index}]`;
    if ('path' in match && match.path !== null && match.path !== undefined) {
      const { type, value } = match.path;
      if (type === 'RegularExpression') attempt(`${place}.path`, () => void linearRegExp(value));
      else if (!value.startsWith('/')) problems.push(`${place}.path: paths must be absolute, not "${value}"`);
    }
    if (
      kind === 'GRPCRoute' &&
      (match as GrpcRouteSpec['rules'][number]['matches'][number]).method?.type === 'RegularExpression'
    ) {
      problems.push(`${place}.method: unsupported GRPCRoute method match type RegularExpression`);
    }
    const fields = [...match.headers, ...('queryParams' in match ? match.queryParams : [])];
    for (const { name, type, value } of fields) {
      if (type === 'RegularExpression') attempt(`${place} ${name}`, () => void linearRegExp(value));
    }
  }
  for (const filter of [...rule.filters, ...rule.backendRefs.flatMap((ref) => ref.filters)]) {
    const problem = filterProblem(kind, filter);
    if (problem !== undefined) problems.push(`${at}.filters: ${problem}`);
  }
  for (const [index, ref] of rule.backendRefs.entries()) {
    if (ref.kind === 'Service' && (ref.port ?? undefined) === undefined) {
      problems.push(`${at}.backendRefs[${index}]: cannot reference a Service without a port`);
    }
  }
  const timeouts = 'timeouts' in rule ? rule.timeouts : undefined;
  for (const [name, text] of Object.entries(timeouts ?? {})) {
    if (text !== null && text !== undefined && parseGoDurationMs(text) === undefined) {
      problems.push(`${at}.timeouts.${name}: "${text}" is no duration such as 500ms or 10s`);
    }
  }
  const request = parseGoDurationMs(timeouts?.request ?? '') ?? 0;
  const backend = parseGoDurationMs(timeouts?.backendRequest ?? '') ?? 0;
  if (request > 0 && backend > request)
    problems.push(`${at}.timeouts.backendRequest: is longer than request`);
  return problems;
}

function filterProblem(kind: 'HTTPRoute' | 'GRPCRoute', filter: RouteFilterSpec): string | undefined {
  if (filter.type === 'RequestHeaderModifier' || filter.type === 'ResponseHeaderModifier') return undefined;
  if (filter.type !== 'RequestRedirect' || kind === 'GRPCRoute') {
    return `filters of type ${filter.type} are not supported, and one makes the whole route count for nothing`;
  }
  const path = filter.requestRedirect?.path;
  const replacement = path?.type === 'ReplaceFullPath' ? path.replaceFullPath : path?.replacePrefixMatch;
  return path && replacement?.startsWith('/') !== true
    ? 'the path of a redirect must be absolute'
    : undefined;
}
