// SPDX-License-Identifier: Apache-2.0
// Routes of Kubernetes as messages of linkerd2-proxy-api. What the mesh cannot do makes the whole route unusable, with
// the reason; a backend that is not there answers 500 for its share of the requests.

import type { RequestPolicy } from '#lib/core/request-policy.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { durationOfMs } from '#lib/proto/durations.ts';
import type { Duration } from '#lib/proto/gen/google/protobuf/duration.ts';
import type {
  HeaderMatch,
  HostMatch,
  HttpRouteMatch,
  RequestHeaderModifier,
  RequestRedirect,
} from '#lib/proto/gen/linkerd/http_route.ts';
import { HttpMethod_Registered, Scheme_Registered } from '#lib/proto/gen/linkerd/http_types.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import type {
  GrpcRoute as GrpcRouteMessage,
  GrpcRoute_Filter,
  GrpcRoute_Retry,
  HttpRoute as HttpRouteMessage,
  HttpRoute_Filter,
  HttpRoute_Retry,
  Timeouts,
} from '#lib/proto/gen/linkerd/outbound.ts';
import { type ClientPolicy, timeoutsOf } from '#lib/proto/client-policy.ts';
import { linearRegExp } from '#lib/regexp/linear-regexp.ts';
import { parseGoDurationMs } from '#lib/registry/annotations.ts';
import type { AnyRoute, GrpcRoute, HttpRoute, PolicyHttpRoute } from '#lib/registry/model.ts';
import type { RouteBackendRef, RouteFilterSpec, RouteValueMatch } from '#lib/registry/route-schema.ts';
import { balancer, nowhere } from './backend-message.ts';
import { requestPolicy } from './client-policy.ts';

/** Where a backend's requests go, or why nowhere. */
export type ResolvedBackend =
  | { readonly authority: string; readonly reference: Metadata }
  | { readonly problem: string; readonly reference: Metadata };

/** Who asks: an agent, or a proxy of Linkerd, which knows nothing that Linkerd's messages do not have. */
export type Asker = 'agent' | 'proxy';

export interface RouteContext {
  readonly asker: Asker;
  readonly resolve: (route: AnyRoute, ref: RouteBackendRef) => ResolvedBackend;
  /** The service itself, for rules without backends. */
  readonly parent: ResolvedBackend;
  /** What the service says, for routes that say nothing. */
  readonly policy: ClientPolicy;
}

const problems = new WeakMap<AnyRoute, string>();

/** What of the route cannot be done; empty: nothing. */
export function routeProblem(route: AnyRoute): string {
  let problem = problems.get(route);
  if (problem === undefined) {
    problem = '';
    try {
      checkRoute(route);
    } catch (error) {
      problem = errorMessage(error);
    }
    problems.set(route, problem);
  }
  return problem;
}

function checkRoute(route: AnyRoute): void {
  hostsOf(route);
  if (route.kind === 'GRPCRoute') {
    for (const { matches, filters, backendRefs } of route.spec.rules) {
      matches.forEach(grpcMatch);
      [...filters, ...backendRefs.flatMap((ref) => ref.filters)].forEach(grpcFilter);
    }
    return;
  }
  for (const { matches, filters, backendRefs, timeouts } of route.spec.rules) {
    matches.forEach(httpMatch);
    [...filters, ...backendRefs.flatMap((ref) => ref.filters)].forEach(httpFilter);
    requestLimit(timeouts);
  }
}

export function httpRouteMessage(
  route: HttpRoute | PolicyHttpRoute,
  context: RouteContext,
): HttpRouteMessage {
  return {
    metadata: referenceTo(route),
    hosts: hostsOf(route),
    rules: route.spec.rules.map((rule) => {
      const policy = policyOf(route, requestLimit(rule.timeouts), context);
      return {
        matches: rule.matches.map(httpMatch),
        filters: rule.filters.map(httpFilter),
        backends: distribution(
          route,
          rule.backendRefs,
          context,
          (filter) => [httpFilter(filter)],
          httpFailure,
        ),
        ...limitsMessage(policy),
      };
    }),
  };
}

export function grpcRouteMessage(route: GrpcRoute, context: RouteContext): GrpcRouteMessage {
  const policy = policyOf(route, undefined, context);
  // Linkerd's message has no place for it: a proxy would refuse the whole policy and answer every request with an error.
  const filtersFor = (filter: RouteFilterSpec): GrpcRoute_Filter[] =>
    filter.type === 'ResponseHeaderModifier' && context.asker === 'proxy' ? [] : [grpcFilter(filter)];
  return {
    metadata: referenceTo(route),
    hosts: hostsOf(route),
    rules: route.spec.rules.map((rule) => ({
      matches: rule.matches.map(grpcMatch),
      filters: rule.filters.flatMap(filtersFor),
      backends: distribution(route, rule.backendRefs, context, filtersFor, grpcFailure),
      requestTimeout: duration(policy.timeouts?.requestMs),
      timeouts: timeoutsMessage(policy),
      retry: grpcRetry(policy),
      allowL5dRequestHeaders: policy.allowL5dRequestHeaders === true,
    })),
  };
}

const kindsOfRoutes = {
  HTTPRoute: { group: 'gateway.networking.k8s.io', kind: 'HTTPRoute' },
  PolicyHTTPRoute: { group: 'policy.linkerd.io', kind: 'HTTPRoute' },
  GRPCRoute: { group: 'gateway.networking.k8s.io', kind: 'GRPCRoute' },
} as const;

function referenceTo({ kind, metadata: { namespace, name } }: AnyRoute): Metadata {
  const resource = { ...kindsOfRoutes[kind], namespace, name, section: '', port: 0 };
  return { kind: { $case: 'resource', resource } };
}

// ---- what matches

function hostsOf({ spec }: AnyRoute): HostMatch[] {
  return spec.hostnames.map((host) => {
    if (!/^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/i.test(host)) {
      throw new Error(`"${host}" is no host name`);
    }
    const reverseLabels = host.slice(2).split('.').reverse();
    return host.startsWith('*.')
      ? { match: { $case: 'suffix', suffix: { reverseLabels } } }
      : { match: { $case: 'exact', exact: host } };
  });
}

type HttpMatchSpec = HttpRoute['spec']['rules'][number]['matches'][number];
type GrpcMatchSpec = GrpcRoute['spec']['rules'][number]['matches'][number];

function httpMatch(match: HttpMatchSpec): HttpRouteMatch {
  const { path, method } = match;
  return {
    path: path === null || path === undefined ? undefined : { kind: pathMatch(path) },
    headers: match.headers.map(headerMatch),
    queryParams: match.queryParams.map(({ name, type, value }) => ({
      name,
      value:
        type === 'Exact' ? { $case: 'exact', exact: value } : { $case: 'regex', regex: expression(value) },
    })),
    method:
      method === null || method === undefined
        ? undefined
        : { type: { $case: 'registered', registered: HttpMethod_Registered[method] } },
  };
}

function pathMatch({
  type,
  value,
}: NonNullable<HttpMatchSpec['path']>): NonNullable<HttpRouteMatch['path']>['kind'] {
  if (type === 'RegularExpression') return { $case: 'regex', regex: expression(value) };
  if (!value.startsWith('/')) throw new Error(`paths must be absolute, not "${value}"`);
  return type === 'Exact' ? { $case: 'exact', exact: value } : { $case: 'prefix', prefix: value };
}

function headerMatch({ name, type, value }: RouteValueMatch): HeaderMatch {
  return {
    name,
    value:
      type === 'Exact'
        ? { $case: 'exact', exact: Buffer.from(value) }
        : { $case: 'regex', regex: expression(value) },
  };
}

function expression(pattern: string): string {
  linearRegExp(pattern);
  return pattern;
}

function grpcMatch({ method, headers }: GrpcMatchSpec): GrpcRouteMessage['rules'][number]['matches'][number] {
  if (method?.type === 'RegularExpression') throw new Error('unsupported GRPCRoute method match type');
  return {
    rpc: { service: method?.service ?? '', method: method?.method ?? '' },
    headers: headers.map(headerMatch),
  };
}

// ---- filters

const headersOf = (fields: readonly { readonly name: string; readonly value: string }[]) => ({
  headers: fields.map(({ name, value }) => ({ name, value: Buffer.from(value) })),
});

function modifier(changes: RouteFilterSpec['requestHeaderModifier']): RequestHeaderModifier {
  return {
    add: headersOf(changes?.add ?? []),
    set: headersOf(changes?.set ?? []),
    remove: [...(changes?.remove ?? [])],
  };
}

function httpFilter(filter: RouteFilterSpec): HttpRoute_Filter {
  switch (filter.type) {
    case 'RequestHeaderModifier':
      return {
        kind: {
          $case: 'requestHeaderModifier',
          requestHeaderModifier: modifier(filter.requestHeaderModifier),
        },
      };
    case 'ResponseHeaderModifier':
      return {
        kind: {
          $case: 'responseHeaderModifier',
          responseHeaderModifier: modifier(filter.responseHeaderModifier),
        },
      };
    case 'RequestRedirect':
      return { kind: { $case: 'redirect', redirect: redirect(filter.requestRedirect) } };
    default:
      throw new Error(`filters of type ${filter.type} are not supported`);
  }
}

function grpcFilter(filter: RouteFilterSpec): GrpcRoute_Filter {
  const { kind } = httpFilter(filter);
  if (kind?.$case === 'requestHeaderModifier' || kind?.$case === 'responseHeaderModifier') return { kind };
  throw new Error(`filters of type ${filter.type} are not supported in a GRPCRoute`);
}

function redirect(spec: RouteFilterSpec['requestRedirect']): RequestRedirect {
  const replacement =
    spec?.path?.type === 'ReplaceFullPath' ? spec.path.replaceFullPath : spec?.path?.replacePrefixMatch;
  if (spec?.path && replacement?.startsWith('/') !== true) {
    throw new Error('the path of a redirect must be absolute');
  }
  return {
    scheme: spec?.scheme
      ? {
          type: {
            $case: 'registered',
            registered: spec.scheme === 'https' ? Scheme_Registered.HTTPS : Scheme_Registered.HTTP,
          },
        }
      : undefined,
    host: spec?.hostname ?? '',
    path:
      replacement === null || replacement === undefined
        ? undefined
        : {
            replace:
              spec?.path?.type === 'ReplaceFullPath'
                ? { $case: 'full', full: replacement }
                : { $case: 'prefix', prefix: replacement },
          },
    port: spec?.port ?? 0,
    status: spec?.statusCode ?? 302,
  };
}

// ---- backends

const always = { numerator: 1, denominator: 1 };
const httpFailure = (message: string): HttpRoute_Filter => ({
  kind: { $case: 'failureInjector', failureInjector: { status: 500, message, ratio: always } },
});
/** gRPC's "unavailable". */
const grpcFailure = (message: string): GrpcRoute_Filter => ({
  kind: { $case: 'failureInjector', failureInjector: { code: 14, message, ratio: always } },
});

function distribution<F>(
  route: AnyRoute,
  refs: readonly RouteBackendRef[],
  { resolve, parent }: RouteContext,
  filters: (spec: RouteFilterSpec) => F[],
  failure: (message: string) => F,
) {
  if (refs.length === 0) {
    return {
      kind: {
        $case: 'firstAvailable' as const,
        firstAvailable: { backends: [backend(parent, [], failure)] },
      },
    };
  }
  const backends = refs.map((ref) => ({
    backend: backend(resolve(route, ref), ref.filters.flatMap(filters), failure),
    weight: ref.weight,
  }));
  return { kind: { $case: 'randomAvailable' as const, randomAvailable: { backends } } };
}

function backend<F>(resolved: ResolvedBackend, filters: readonly F[], failure: (message: string) => F) {
  if ('problem' in resolved) {
    return { backend: nowhere(resolved.reference), filters: [failure(resolved.problem)] };
  }
  return { backend: balancer(resolved.reference, resolved.authority), filters: [...filters] };
}

// ---- limits

type RuleTimeouts = HttpRoute['spec']['rules'][number]['timeouts'];

/** As with Linkerd `backendRequest` is checked and not used. */
function requestLimit(timeouts: RuleTimeouts): number | undefined {
  const [request = 0, attempt = 0] = [timeouts?.request, timeouts?.backendRequest].map((text) => {
    const ms = parseGoDurationMs(text ?? '0');
    if (ms === undefined) throw new Error(`"${text}" is no duration`);
    return ms;
  });
  if (request > 0 && attempt > request) {
    throw new Error('timeouts.backendRequest is longer than timeouts.request');
  }
  return request === 0 ? undefined : request;
}

/** Annotations of the route, then its rule, then the service: each of timeouts and retries as a whole. */
function policyOf(route: AnyRoute, requestMs: number | undefined, { policy }: RouteContext): RequestPolicy {
  const own = requestPolicy(route.metadata.annotations);
  return { ...policy, ...own, ...timeoutsOf({ requestMs, ...own.timeouts }) };
}

const duration = (ms: number | undefined): Duration | undefined =>
  ms === undefined ? undefined : durationOfMs(ms);

const timeoutsMessage = ({ timeouts }: RequestPolicy): Timeouts | undefined =>
  timeouts && {
    request: duration(timeouts.requestMs),
    response: duration(timeouts.responseMs),
    idle: duration(timeouts.idleMs),
  };

/** Of a rule for HTTP. */
export const limitsMessage = (policy: RequestPolicy) => ({
  requestTimeout: duration(policy.timeouts?.requestMs),
  timeouts: timeoutsMessage(policy),
  retry: httpRetry(policy),
  allowL5dRequestHeaders: policy.allowL5dRequestHeaders === true,
});

const retryLimits = ({ maxRetries, timeoutMs }: NonNullable<RequestPolicy['retry']>) => ({
  maxRetries,
  maxRequestBytes: 65_536,
  timeout: duration(timeoutMs),
  backoff: { minBackoff: duration(25), maxBackoff: duration(250), jitterRatio: 1 },
});

function httpRetry({ retry }: RequestPolicy): HttpRoute_Retry | undefined {
  if (retry === undefined) return undefined;
  const statusRanges = retry.statuses.map(([start, end]) => ({ start, end }));
  return { ...retryLimits(retry), conditions: { statusRanges } };
}

function grpcRetry({ retry }: RequestPolicy): GrpcRoute_Retry | undefined {
  if (retry === undefined) return undefined;
  const on = (code: number): boolean => retry.grpcCodes.includes(code);
  return {
    ...retryLimits(retry),
    conditions: {
      cancelled: on(1),
      deadlineExceeded: on(4),
      resourceExhausted: on(8),
      internal: on(13),
      unavailable: on(14),
    },
  };
}
