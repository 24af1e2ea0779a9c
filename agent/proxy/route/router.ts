// SPDX-License-Identifier: Apache-2.0
// The routes of one service as one client pod uses them: for each request its rule, what the rule's filters do, and the
// backend that gets it. Everything that does not depend on the request is made once, when the routes come.
//
//   request ─► rule ─► redirects ─┬─ answered here
//                                 └─► backend by weight ─► its redirects ─► each attempt: failures ─► endpoints of its service

import type { Random } from '#lib/core/clock.ts';
import type { RequestPolicy } from '#lib/core/request-policy.ts';
import { joinLabels } from '#lib/metrics/model.ts';
import type { HttpRoute, HttpTarget, RequestRouter, RouteAnswer, Routed } from '../exchange/types.ts';
import type { BalancerSeries } from '../metrics/balancer-metrics.ts';
import { routeLabels, serviceLabels } from '../metrics/labels.ts';
import { RetrySeries } from '../metrics/retry-metrics.ts';
import { outboundBackendFamilies, outboundRouteFamilies, StreamSeries } from '../metrics/route-metrics.ts';
import type { SeriesPlace } from '../metrics/series-place.ts';
import type {
  ClientRoutes,
  FieldChanges,
  ResourceReference,
  RouteBackend,
  RouteFilter,
  RouteRule,
} from '../model.ts';
import { byWeight, firstAvailable, type Weighted } from './distribution.ts';
import { noChanges, REDIRECT_INVALID, REDIRECT_NOWHERE, type Redirect, redirectLocation } from './filters.ts';
import { createRouteIndex, type RouteIndex } from './route-index.ts';
import type { RoutedRequest } from './routed-request.ts';

/** A service that routes lead to. */
export interface BackendTarget extends HttpTarget {
  balancerOf(protocol: 'http'): BalancerSeries | null;
  release(): void;
}

export interface RouterOptions {
  readonly routes: ClientRoutes;
  /** `name.ns.svc.cluster.local:port` and reference of the service whose routes these are. */
  readonly authority: string;
  readonly parent: ResourceReference;
  /** That service itself, which holds the router and not the other way round. */
  readonly own: BackendTarget;
  /** Another one; held until it is released. */
  readonly backendOf: (authority: string) => BackendTarget;
  readonly place: SeriesPlace;
  readonly random: Random;
  readonly failed: (failure: number) => void;
}

const GRPC_NOT_FOUND = 5;
const GRPC_FAILED_PRECONDITION = 9;
const GRPC_INTERNAL = 13;

const noRoute: RouteAnswer = {
  status: 404,
  grpcStatus: GRPC_NOT_FOUND,
  message: 'no route found for request',
  location: '',
  closes: false,
};
const invalidPolicy: RouteAnswer = {
  status: 500,
  grpcStatus: GRPC_INTERNAL,
  message: 'invalid client policy configuration',
  location: '',
  closes: true,
};
const invalidRedirect: RouteAnswer = { ...invalidPolicy, message: 'invalid redirect' };

export class Router implements RequestRouter {
  readonly #options: RouterOptions;
  readonly #index: RouteIndex<Rule>;
  readonly #targets = new Map<string, BackendTarget>();
  readonly #series: { close(): void }[] = [];
  /** For requests without a rule. */
  readonly #nowhere: HttpTarget;
  readonly #answerAll: RouteAnswer | null;

  constructor(options: RouterOptions) {
    this.#options = options;
    const { routes, authority, failed } = options;
    this.#nowhere = { ...unavailable, authority, failed };
    this.#answerAll = routes.invalid === undefined ? null : invalidPolicy;
    const rules = routes.routes.map((route) => {
      const labels = joinLabels(serviceLabels('parent', options.parent), routeLabels(route.reference));
      const shown = joinLabels(labels, 'hostname=""');
      const { protocol } = routes;
      const families = outboundRouteFamilies(protocol);
      const metrics = this.#made(new StreamSeries(options.place, protocol, families, shown));
      const retries = this.#made(new RetrySeries(options.place, protocol, shown));
      const silent: HttpRoute = { metrics, retries, backend: nobody };
      return route.rules.map((rule) => this.#rule(rule, labels, silent));
    });
    this.#index = createRouteIndex(routes, (route, rule) => rules[route]?.[rule] as Rule);
  }

  route(request: RoutedRequest): Routed {
    if (this.#answerAll !== null) return answered(this.#nowhere, this.#answerAll);
    const hit = this.#index(request);
    if (hit === undefined) return answered(this.#nowhere, noRoute);
    const { rule, prefixLength } = hit;
    const { random } = this.#options;
    const own = redirected(rule.redirects, request, prefixLength);
    if (own !== null) return answered(rule.unavailable.target, own);
    const backend = rule.first ? firstAvailable(rule.backends) : byWeight(rule.backends, random);
    if (backend === undefined) return rule.unavailable;
    const its = redirected(backend.redirects, request, prefixLength);
    return its === null ? backend.routed : answered(backend.routed.target, its);
  }

  close(): void {
    for (const target of this.#targets.values()) target.release();
    for (const series of this.#series) series.close();
  }

  #made<T extends { close(): void }>(series: T): T {
    this.#series.push(series);
    return series;
  }

  #rule(
    { filters, backends, firstAvailable: first, policy }: RouteRule,
    labels: string,
    route: HttpRoute,
  ): Rule {
    const { authority, failed } = this.#options;
    const target: HttpTarget = { ...unavailable, authority, failed, policy, route };
    const requestChanges = changesOf(filters, 'request-fields');
    const responseChanges = changesOf(filters, 'response-fields');
    const { random } = this.#options;
    return {
      redirects: filters.filter(isRedirect),
      first: first === true,
      unavailable: {
        target,
        answer: null,
        requestChanges: noChanges,
        responseChanges: noChanges,
        ...injecting(filters, random),
      },
      backends: backends.map((backend) => {
        const to = this.#backend(backend, labels, route, policy);
        const routed: Routed = {
          target: to ?? target,
          answer: null,
          requestChanges: [...requestChanges, ...changesOf(backend.filters, 'request-fields')],
          responseChanges: [...changesOf(backend.filters, 'response-fields'), ...responseChanges],
          ...injecting([...filters, ...backend.filters], random),
        };
        return new Backend(backend.weight, backend.filters.filter(isRedirect), routed, to !== null);
      }),
    };
  }

  /** Null: its filters answer. */
  #backend(
    { authority, reference }: RouteBackend,
    labels: string,
    route: HttpRoute,
    policy: RequestPolicy,
  ): HttpTarget | null {
    if (authority === undefined) return null;
    const { place, routes, backendOf, failed } = this.#options;
    let service = authority === this.#options.authority ? this.#options.own : this.#targets.get(authority);
    if (service === undefined) {
      service = backendOf(authority);
      this.#targets.set(authority, service);
    }
    const counts = this.#made(
      new StreamSeries(
        place,
        routes.protocol,
        outboundBackendFamilies(routes.protocol),
        joinLabels(labels, serviceLabels('backend', reference)),
        service.balancerOf('http'),
      ),
    );
    return new RoutedTarget(service, policy, { ...route, backend: counts }, failed);
  }
}

interface Rule {
  readonly redirects: readonly Redirect[];
  readonly backends: readonly Backend[];
  readonly first: boolean;
  /** None of its backends takes requests. */
  readonly unavailable: Routed;
}

class Backend implements Weighted {
  readonly weight: number;
  readonly redirects: readonly Redirect[];
  readonly routed: Routed;
  readonly #forwards: boolean;

  constructor(weight: number, redirects: readonly Redirect[], routed: Routed, forwards: boolean) {
    this.weight = weight;
    this.redirects = redirects;
    this.routed = routed;
    this.#forwards = forwards;
  }

  get available(): boolean {
    return !this.#forwards || !this.routed.target.failfast;
  }
}

/** A backend's service under what the route says. */
class RoutedTarget implements HttpTarget {
  readonly authority: string;
  readonly policy: RequestPolicy;
  readonly route: HttpRoute;
  readonly failed: (failure: number) => void;
  readonly #service: HttpTarget;

  constructor(
    service: HttpTarget,
    policy: RequestPolicy,
    route: HttpRoute,
    failed: (failure: number) => void,
  ) {
    this.#service = service;
    this.authority = service.authority;
    this.policy = policy;
    this.route = route;
    this.failed = failed;
  }

  get endpoints(): HttpTarget['endpoints'] {
    return this.#service.endpoints;
  }

  get failfast(): boolean {
    return this.#service.failfast;
  }

  whenAvailable(done: (failure: number) => void): void {
    this.#service.whenAvailable(done);
  }
}

/** Fails at once. */
const unavailable = {
  endpoints: [],
  failfast: true,
  whenAvailable: (): void => undefined,
} satisfies Omit<HttpTarget, 'authority'>;

const nobody = {
  frame: (): void => undefined,
  ended: (): void => undefined,
  started: (): void => undefined,
  waits: (): void => undefined,
  waited: (): void => undefined,
} satisfies HttpRoute['backend'];

const answered = (target: HttpTarget, answer: RouteAnswer): Routed => ({
  target,
  answer,
  requestChanges: noChanges,
  responseChanges: noChanges,
});

type FailureFilter = RouteFilter & { readonly kind: 'failure' };

const isFailure = (filter: RouteFilter): filter is FailureFilter => filter.kind === 'failure';
const isRedirect = (filter: RouteFilter): filter is Redirect => filter.kind === 'redirect';

const changesOf = (
  filters: readonly RouteFilter[],
  kind: 'request-fields' | 'response-fields',
): FieldChanges[] => filters.flatMap((filter) => (filter.kind === kind ? [filter.changes] : []));

function redirected(
  filters: readonly Redirect[],
  request: RoutedRequest,
  prefixLength: number,
): RouteAnswer | null {
  for (const filter of filters) {
    const location = redirectLocation(filter, request, prefixLength);
    if (location === REDIRECT_INVALID) return invalidRedirect;
    if (location === REDIRECT_NOWHERE) continue;
    return { status: filter.status, grpcStatus: GRPC_NOT_FOUND, message: '', location, closes: false };
  }
  return null;
}

/** Failures are of one attempt, so that what is sent again may pass (linkerd2-proxy: the filter is below the retries). */
function injecting(filters: readonly RouteFilter[], random: Random): Pick<Routed, 'inject'> {
  const failures = filters.filter(isFailure);
  if (failures.length === 0) return {};
  const inject = (): RouteAnswer | null => {
    for (const { numerator, denominator, grpc, status, message } of failures) {
      if (random() * denominator >= numerator) continue;
      const grpcStatus = grpc ? status : GRPC_FAILED_PRECONDITION;
      return { status: grpc ? 200 : status, grpcStatus, message, location: '', closes: false };
    }
    return null;
  };
  return { inject };
}
