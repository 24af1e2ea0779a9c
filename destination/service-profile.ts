// SPDX-License-Identifier: Apache-2.0
// A ServiceProfile as proxies are told of it: routes, retry budget and targets. Of the client's namespace, or else of the
// service's; one that cannot be put into messages counts as none, as with Linkerd.

import { durationOfMs } from '#lib/proto/durations.ts';
import type {
  DestinationProfile,
  RequestMatch,
  ResponseMatch,
  Route,
  WeightedDst,
} from '#lib/proto/gen/linkerd/destination.ts';
import { HttpMethod_Registered, type HttpMethod } from '#lib/proto/gen/linkerd/http_types.ts';
import { parseGoDurationMs } from '#lib/registry/annotations.ts';
import type { Service, ServiceProfile } from '#lib/registry/model.ts';
import type { ClusterIndex } from './cluster-index.ts';

/** What a ServiceProfile says. */
export type ProfileParts = Pick<DestinationProfile, 'routes' | 'retryBudget' | 'dstOverrides'>;

export interface FoundProfile {
  readonly parts: ProfileParts;
  /** '' without a ServiceProfile. */
  readonly name: string;
  readonly namespace: string;
}

const DEPTH_MAX = 32;
const WEIGHT_MAX = 0xffff_ffff;

const defaultParts: ProfileParts = {
  routes: [],
  retryBudget: { retryRatio: 0.2, minRetriesPerSecond: 10, ttl: durationOfMs(10_000) },
  dstOverrides: [],
};

export const defaultBudget = defaultParts.retryBudget;

/** `fqdn`: the service's name as profiles have it. */
export function findProfile(
  index: ClusterIndex,
  service: Service,
  fqdn: string,
  port: number,
  clientNamespace: string,
): FoundProfile {
  const { namespace } = service.metadata;
  for (const place of [clientNamespace, namespace]) {
    const found = index.serviceProfile({ cluster: service.cluster, namespace: place, name: fqdn });
    const parts = found && partsOf(found, port);
    if (parts !== undefined) return { parts, name: fqdn, namespace: place };
  }
  return { parts: defaultParts, name: '', namespace };
}

function partsOf({ spec }: ServiceProfile, port: number): ProfileParts | undefined {
  try {
    return {
      routes: spec.routes.map(routeOf),
      retryBudget: spec.retryBudget ? budgetOf(spec.retryBudget) : defaultBudget,
      dstOverrides: spec.dstOverrides.map((one) => targetOf(one, port)),
    };
  } catch {
    // The webhook tells its author why.
    return undefined;
  }
}

type Spec = ServiceProfile['spec'];

function budgetOf({ retryRatio, minRetriesPerSecond, ttl }: NonNullable<Spec['retryBudget']>) {
  const ttlMs = parseGoDurationMs(ttl);
  if (ttlMs === undefined) throw new Error(`ttl "${ttl}" is no duration`);
  if (retryRatio < 0 || !Number.isInteger(minRetriesPerSecond) || minRetriesPerSecond < 0) {
    throw new Error('a retry budget below nothing');
  }
  return { retryRatio, minRetriesPerSecond, ttl: durationOfMs(ttlMs) };
}

/** Weights are thousandths, times ten. */
function targetOf({ authority, weight }: Spec['dstOverrides'][number], port: number): WeightedDst {
  const quantity = /^(\d+(?:\.\d+)?)(m?)$/.exec(String(weight));
  if (quantity === null || authority === '') throw new Error(`weight ${weight} of "${authority}"`);
  const [, number = '', unit] = quantity;
  const thousandths = Number(number) * (unit === 'm' ? 1 : 1000);
  return {
    authority: authority.includes(':') ? authority : `${authority}:${port}`,
    weight: Math.min(WEIGHT_MAX, Math.round(thousandths * 10)),
    backendRef: undefined,
  };
}

function routeOf({ name, condition, timeout, isRetryable, responseClasses }: Spec['routes'][number]): Route {
  const timeoutMs = parseGoDurationMs(timeout ?? '');
  return {
    condition: requestMatch(condition, 0),
    responseClasses: responseClasses.map((one) => ({
      condition: responseMatch(one.condition, 0),
      isFailure: one.isFailure,
    })),
    metricsLabels: { route: name },
    isRetryable,
    timeout: timeoutMs === undefined || timeoutMs === 0 ? undefined : durationOfMs(timeoutMs),
  };
}

/** The parts of a condition with several, all of which must hold. */
function parts<M>(
  given: unknown,
  depth: number,
  leaves: Readonly<Record<string, (value: unknown) => M>>,
  forms: {
    readonly all: (matches: M[]) => M;
    readonly any: (matches: M[]) => M;
    readonly not: (match: M) => M;
  },
): M {
  if (depth > DEPTH_MAX || typeof given !== 'object' || given === null) throw new Error('no condition');
  const inner = (value: unknown): M => parts(value, depth + 1, leaves, forms);
  const list = (value: unknown): M[] => {
    if (!Array.isArray(value)) throw new Error('no list of conditions');
    return value.map(inner);
  };
  const found = Object.entries(given).map(([field, value]) => {
    if (field === 'all') return forms.all(list(value));
    if (field === 'any') return forms.any(list(value));
    if (field === 'not') return forms.not(inner(value));
    const leaf = Object.hasOwn(leaves, field) ? leaves[field] : undefined;
    if (leaf === undefined) throw new Error(`there is no condition ${field}`);
    return leaf(value);
  });
  const [only] = found;
  if (only === undefined) throw new Error('an empty condition');
  return found.length === 1 ? only : forms.all(found);
}

const requestMatch = (given: unknown, depth: number): RequestMatch =>
  parts<RequestMatch>(
    given,
    depth,
    {
      pathRegex: (regex) => ({ match: { $case: 'path', path: { regex: String(regex) } } }),
      method: (method) => ({ match: { $case: 'method', method: methodOf(String(method)) } }),
    },
    {
      all: (matches) => ({ match: { $case: 'all', all: { matches } } }),
      any: (matches) => ({ match: { $case: 'any', any: { matches } } }),
      not: (match) => ({ match: { $case: 'not', not: match } }),
    },
  );

const responseMatch = (given: unknown, depth: number): ResponseMatch =>
  parts<ResponseMatch>(
    given,
    depth,
    { status: (status) => ({ match: { $case: 'status', status: range(status) } }) },
    {
      all: (matches) => ({ match: { $case: 'all', all: { matches } } }),
      any: (matches) => ({ match: { $case: 'any', any: { matches } } }),
      not: (match) => ({ match: { $case: 'not', not: match } }),
    },
  );

function range(given: unknown): { min: number; max: number } {
  const { min = 0, max = 0 } = (given ?? {}) as { readonly min?: unknown; readonly max?: unknown };
  if (!isStatus(min) || !isStatus(max)) throw new Error('no range of statuses');
  return { min, max };
}

const isStatus = (value: unknown): value is number =>
  value === 0 || (Number.isInteger(value) && Number(value) >= 100 && Number(value) <= 599);

function methodOf(method: string): HttpMethod {
  const known = new Map<string, HttpMethod_Registered>(Object.entries(HttpMethod_Registered));
  const registered = known.get(method.toUpperCase());
  return {
    type:
      registered === undefined
        ? { $case: 'unregistered', unregistered: method }
        : { $case: 'registered', registered },
  };
}
