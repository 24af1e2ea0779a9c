// SPDX-License-Identifier: Apache-2.0
// Outbound policy of linkerd2-proxy-api as the routes that proxy workers use. A policy with anything in it that cannot
// be used is none at all, with the reason: requests are refused then, not sent somewhere else. A filter of a kind that
// is not known answers 500 by itself.

import { errorMessage } from '#lib/core/errors.ts';
import type { RequestPolicy, RequestTimeouts, RetryPolicy } from '#lib/core/request-policy.ts';
import { durationToMs } from '#lib/proto/durations.ts';
import type { Duration } from '#lib/proto/gen/google/protobuf/duration.ts';
import type {
  HeaderMatch,
  HostMatch as HostMatchMessage,
  HttpRouteMatch as HttpRouteMatchMessage,
  PathMatch,
  RequestHeaderModifier,
  RequestRedirect,
} from '#lib/proto/gen/linkerd/http_route.ts';
import {
  HttpMethod_Registered,
  Scheme_Registered,
  type Headers,
  type HttpMethod,
} from '#lib/proto/gen/linkerd/http_types.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import type {
  Backend,
  GrpcRoute,
  GrpcRoute_Filter,
  GrpcRoute_Retry,
  HttpRoute,
  HttpRoute_Filter,
  HttpRoute_Retry,
  OutboundPolicy,
  Timeouts,
} from '#lib/proto/gen/linkerd/outbound.ts';
import { timeoutsOf } from '#lib/proto/client-policy.ts';
import { linearRegExp } from '#lib/regexp/linear-regexp.ts';
import type {
  ClientRoute,
  ClientRoutes,
  FieldChanges,
  GrpcRouteMatch,
  HostMatch,
  HttpRouteMatch,
  ResourceReference,
  RouteBackend,
  RouteFilter,
  RouteRule,
  ValueMatch,
} from '../proxy/model.ts';

/** RFC 9110 5.1, 5.5. */
const FIELD_NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const FIELD_VALUE = /^(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?$/;
/** They frame messages, or say what only proxies may say. */
const OWN_FIELDS =
  /^(?:connection|content-length|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade|l5d-.*)$/;
export const WEIGHT_MAX = 1_000_000;
const GRPC_STATUS_MAX = 16;

export function clientRoutes(policy: OutboundPolicy): ClientRoutes {
  const kind = policy.protocol?.kind;
  const protocol = kind?.$case === 'grpc' ? 'grpc' : 'http';
  try {
    const routes =
      kind?.$case === 'grpc'
        ? kind.grpc.routes.map((route) => convert(route, grpcMatch, grpcFilter))
        : httpRoutesOf(kind).map((route) => convert(route, httpMatch, httpFilter));
    return { protocol, routes };
  } catch (error) {
    return { protocol, routes: [], invalid: errorMessage(error) };
  }
}

function httpRoutesOf(kind: NonNullable<OutboundPolicy['protocol']>['kind']): readonly HttpRoute[] {
  switch (kind?.$case) {
    case 'detect':
      return kind.detect.http1?.routes ?? [];
    case 'http1':
      return kind.http1.routes;
    case 'http2':
      return kind.http2.routes;
    case 'opaque':
      // Its profile says so too: there is nothing to route on such a port.
      return [];
    case 'grpc':
    case undefined:
      throw new Error('it names no protocol');
  }
}

interface Distribution<F> {
  readonly kind?:
    | { readonly $case: 'empty' }
    | {
        readonly $case: 'firstAvailable';
        readonly firstAvailable: { readonly backends: readonly Target<F>[] };
      }
    | {
        readonly $case: 'randomAvailable';
        readonly randomAvailable: {
          readonly backends: readonly { readonly backend: Target<F> | undefined; readonly weight: number }[];
        };
      }
    | undefined;
}

interface Target<F> {
  readonly backend: Backend | undefined;
  readonly filters: readonly F[];
}

/** What routes of both kinds have in common. */
interface AnyRoute<M, F> {
  readonly metadata: Metadata | undefined;
  readonly hosts: readonly HostMatchMessage[];
  readonly rules: readonly {
    readonly matches: readonly M[];
    readonly filters: readonly F[];
    readonly backends: Distribution<F> | undefined;
    readonly timeouts: Timeouts | undefined;
    readonly retry: HttpRoute_Retry | GrpcRoute_Retry | undefined;
    readonly allowL5dRequestHeaders: boolean;
  }[];
}

type HttpRuleMessage = HttpRoute['rules'][number];
type GrpcRuleMessage = GrpcRoute['rules'][number];

function convert<M, F>(
  route: AnyRoute<M, F>,
  match: (message: M) => RouteRule['matches'][number],
  filter: (message: F) => RouteFilter,
): ClientRoute {
  return {
    reference: referenceOf(route.metadata),
    hosts: route.hosts.map(hostMatch),
    rules: route.rules.map((rule) => ({
      matches: rule.matches.map(match),
      filters: rule.filters.map(filter),
      ...distribution(rule.backends, filter),
      policy: requestPolicy(rule),
    })),
  };
}

export function referenceOf(metadata: Metadata | undefined): ResourceReference {
  const kind = metadata?.kind;
  if (kind?.$case === 'resource') {
    const { group, namespace, name, port } = kind.resource;
    return { group, kind: kind.resource.kind, namespace, name, port };
  }
  return { group: '', kind: 'default', namespace: '', name: kind?.default ?? '', port: 0 };
}

// ---- what matches

function hostMatch({ match }: HostMatchMessage): HostMatch {
  if (match?.$case === 'exact') return { kind: 'exact', value: match.exact };
  if (match === undefined) throw new Error('a host without a name');
  return { kind: 'suffix', value: match.suffix.reverseLabels.toReversed().join('.') };
}

function httpMatch(message: HttpRouteMatchMessage): HttpRouteMatch {
  return {
    ...(message.path === undefined ? {} : { path: pathMatch(message.path) }),
    fields: message.headers.map(fieldMatch),
    parameters: message.queryParams.map(({ name, value }) => ({ name, value: valueMatch(name, value) })),
    ...(message.method === undefined ? {} : { method: methodOf(message.method) }),
  };
}

function pathMatch({ kind }: PathMatch): NonNullable<HttpRouteMatch['path']> {
  switch (kind?.$case) {
    case 'regex':
      return { kind: 'regex', value: expression(kind.regex) };
    case 'exact':
      return { kind: 'exact', value: absolute(kind.exact) };
    case 'prefix':
      return { kind: 'prefix', value: absolute(kind.prefix) };
    case undefined:
      throw new Error('a path of an unknown kind');
  }
}

function absolute(path: string): string {
  if (!path.startsWith('/')) throw new Error(`paths must be absolute, not "${path}"`);
  return path;
}

function fieldMatch({ name, value }: HeaderMatch): { name: string; value: ValueMatch } {
  const text = value?.$case === 'exact' ? { ...value, exact: latin1(value.exact) } : value;
  return { name: fieldName(name), value: valueMatch(name, text) };
}

function valueMatch(
  name: string,
  value:
    | { readonly $case: 'exact'; readonly exact: string }
    | { readonly $case: 'regex'; readonly regex: string }
    | undefined,
): ValueMatch {
  if (value === undefined) throw new Error(`"${name}" is matched by nothing that is known`);
  return value.$case === 'exact'
    ? { kind: 'exact', value: value.exact }
    : { kind: 'regex', value: expression(value.regex) };
}

function expression(pattern: string): string {
  linearRegExp(pattern);
  return pattern;
}

/** By number. */
const methods = Object.fromEntries(Object.entries(HttpMethod_Registered).map(([name, code]) => [code, name]));

function methodOf({ type }: HttpMethod): string {
  const name = type?.$case === 'registered' ? methods[type.registered] : type?.unregistered;
  if (name === undefined || !FIELD_NAME.test(name)) throw new Error(`"${name ?? ''}" is no method`);
  return name;
}

function grpcMatch({ rpc, headers }: GrpcRuleMessage['matches'][number]): GrpcRouteMatch {
  return {
    ...(rpc === undefined || rpc.service === '' ? {} : { service: rpc.service }),
    ...(rpc === undefined || rpc.method === '' ? {} : { method: rpc.method }),
    fields: headers.map(fieldMatch),
  };
}

// ---- filters

function httpFilter({ kind }: HttpRoute_Filter): RouteFilter {
  switch (kind?.$case) {
    case 'requestHeaderModifier':
      return { kind: 'request-fields', changes: fieldChanges(kind.requestHeaderModifier) };
    case 'responseHeaderModifier':
      return { kind: 'response-fields', changes: fieldChanges(kind.responseHeaderModifier) };
    case 'redirect':
      return redirect(kind.redirect);
    case 'failureInjector': {
      const { status, message, ratio } = kind.failureInjector;
      if (status < 200 || status > 599) throw new Error(`failures cannot be answered with status ${status}`);
      return { kind: 'failure', status, grpc: false, message, ...share(ratio) };
    }
    case undefined:
      return unknownFilter;
  }
}

function grpcFilter({ kind }: GrpcRoute_Filter): RouteFilter {
  if (kind?.$case !== 'failureInjector') return httpFilter({ kind });
  const { code, message, ratio } = kind.failureInjector;
  if (code > GRPC_STATUS_MAX) throw new Error(`${code} is no status of gRPC`);
  return { kind: 'failure', status: code, grpc: true, message, ...share(ratio) };
}

/** As with Linkerd. */
const unknownFilter: RouteFilter = {
  kind: 'failure',
  status: 500,
  grpc: false,
  message: 'a filter of the route is not supported',
  numerator: 1,
  denominator: 1,
};

function share(ratio: { readonly numerator: number; readonly denominator: number } | undefined) {
  const { numerator, denominator } = ratio ?? { numerator: 1, denominator: 1 };
  if (denominator === 0) throw new Error('a share of failures with the denominator 0');
  return { numerator, denominator };
}

function redirect({ scheme, host, path, port, status }: RequestRedirect): RouteFilter {
  const location = status === 0 ? 301 : status;
  if (location < 300 || location > 399) throw new Error(`redirects cannot have the status ${status}`);
  if (port > 65_535) throw new Error(`${port} is no port`);
  if (!/^[-a-zA-Z0-9._:[\]]*$/.test(host)) throw new Error(`"${host}" is no host`);
  return {
    kind: 'redirect',
    status: location,
    ...(scheme?.type === undefined ? {} : { scheme: schemeOf(scheme.type) }),
    ...(host === '' ? {} : { host }),
    ...(port === 0 ? {} : { port }),
    ...(path?.replace === undefined ? {} : { path: replacement(path.replace) }),
  };
}

function schemeOf(type: NonNullable<NonNullable<RequestRedirect['scheme']>['type']>): string {
  if (type.$case === 'registered') return type.registered === Scheme_Registered.HTTPS ? 'https' : 'http';
  if (!/^[a-z][-a-z0-9+.]*$/.test(type.unregistered)) throw new Error(`"${type.unregistered}" is no scheme`);
  return type.unregistered;
}

function replacement(replace: NonNullable<NonNullable<RequestRedirect['path']>['replace']>) {
  const [kind, value] =
    replace.$case === 'full' ? (['full', replace.full] as const) : (['prefix', replace.prefix] as const);
  if (!/^(?:\/[\x21-\x7e]*)?$/.test(value)) throw new Error(`a redirect to the path "${value}"`);
  return { kind, value };
}

function fieldChanges({ add, set, remove }: RequestHeaderModifier): FieldChanges {
  return {
    add: fieldsOf(add),
    set: fieldsOf(set),
    remove: remove.map((name) => changeable(name)),
  };
}

const fieldsOf = (headers: Headers | undefined): [name: string, value: string][] =>
  (headers?.headers ?? []).map((header) => {
    const name = changeable(header.name);
    const value = latin1(header.value);
    if (!FIELD_VALUE.test(value)) throw new Error(`the field ${name} cannot have the value "${value}"`);
    return [name, value];
  });

function changeable(name: string): string {
  const lower = fieldName(name);
  if (OWN_FIELDS.test(lower)) throw new Error(`the field ${lower} cannot be changed by a route`);
  return lower;
}

function fieldName(name: string): string {
  if (!FIELD_NAME.test(name)) throw new Error(`"${name}" is no name of a field`);
  return name.toLowerCase();
}

const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');

// ---- backends

function distribution<F>(
  message: Distribution<F> | undefined,
  filter: (message: F) => RouteFilter,
): Pick<RouteRule, 'backends' | 'firstAvailable'> {
  const kind = message?.kind;
  switch (kind?.$case) {
    case 'firstAvailable':
      return {
        backends: kind.firstAvailable.backends.map((one) => backend(one, 1, filter)),
        firstAvailable: true,
      };
    case 'randomAvailable': {
      const backends = kind.randomAvailable.backends.map((one) => backend(one.backend, one.weight, filter));
      return { backends };
    }
    case 'empty':
      return { backends: [] };
    case undefined:
      throw new Error('backends are shared in an unknown way');
  }
}

function backend<F>(
  target: Target<F> | undefined,
  weight: number,
  filter: (message: F) => RouteFilter,
): RouteBackend {
  if (weight > WEIGHT_MAX) throw new Error(`a backend has a weight of more than ${WEIGHT_MAX}`);
  const filters = (target?.filters ?? []).map(filter);
  const kind = target?.backend?.kind;
  const authority = kind?.$case === 'balancer' ? kind.balancer.discovery?.kind?.dst.path : undefined;
  if (authority === undefined || authority === '') {
    const answers = filters.some((one) => one.kind === 'failure' || one.kind === 'redirect');
    if (!answers) throw new Error('a backend of an unknown kind');
  }
  return {
    ...(authority === undefined || authority === '' ? {} : { authority }),
    weight,
    filters,
    reference: referenceOf(target?.backend?.metadata),
  };
}

// ---- limits

function requestPolicy(
  rule: Pick<HttpRuleMessage | GrpcRuleMessage, 'timeouts' | 'retry' | 'allowL5dRequestHeaders'>,
): RequestPolicy {
  const { timeouts, retry } = rule;
  const limits: RequestTimeouts = {
    requestMs: milliseconds(timeouts?.request),
    responseMs: milliseconds(timeouts?.response),
    idleMs: milliseconds(timeouts?.idle),
  };
  return {
    ...timeoutsOf(limits),
    ...(retry === undefined || retry.maxRetries === 0 ? {} : { retry: retryPolicy(retry) }),
    ...(rule.allowL5dRequestHeaders ? { allowL5dRequestHeaders: true } : {}),
  };
}

function retryPolicy({ maxRetries, timeout, conditions }: HttpRoute_Retry | GrpcRoute_Retry): RetryPolicy {
  const timeoutMs = milliseconds(timeout);
  const limits = { maxRetries, ...(timeoutMs === undefined ? {} : { timeoutMs }) };
  if (conditions === undefined) return { statuses: [], grpcCodes: [], ...limits };
  if ('statusRanges' in conditions) {
    const statuses = conditions.statusRanges.map(({ start, end }) => {
      if (start < 100 || end > 599 || start > end)
        throw new Error(`no range of statuses: ${start} to ${end}`);
      return [start, end] as const;
    });
    return { statuses, grpcCodes: [], ...limits };
  }
  const { cancelled, deadlineExceeded, resourceExhausted, internal, unavailable } = conditions;
  const codes = [
    [cancelled, 1],
    [deadlineExceeded, 4],
    [resourceExhausted, 8],
    [internal, 13],
    [unavailable, 14],
  ] as const;
  return { statuses: [], grpcCodes: codes.flatMap(([on, code]) => (on ? [code] : [])), ...limits };
}

/** None, or nothing, is no limit. */
function milliseconds(duration: Duration | undefined): number | undefined {
  if (duration === undefined) return undefined;
  const ms = durationToMs(duration);
  if (ms < 0) throw new Error('a time below zero');
  return ms === 0 ? undefined : ms;
}
