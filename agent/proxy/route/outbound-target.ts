// SPDX-License-Identifier: Apache-2.0
// One destination as one client pod reaches it: its endpoints, kept while their metadata stays the same, for HTTP
// (balanced per request by the exchange) and for TCP (balanced per connection here).

import { formatSocketAddress } from '#lib/core/addresses.ts';
import type { Timer } from '#lib/core/clock.ts';
import type { RequestPolicy } from '#lib/core/request-policy.ts';
import { joinLabels, renderLabels } from '#lib/metrics/model.ts';
import type { Cell } from '#lib/metrics/store.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';
import { Breaker } from '../balance/breaker.ts';
import { type AuthorityOverride, authorityOverride } from '../exchange/authority-override.ts';
import type { EndpointFacts, HttpEndpoint, HttpMetrics, HttpRoute, HttpTarget } from '../exchange/types.ts';
import { FAILURE_DISCOVERY, FAILURE_FAILFAST, FAILURE_LIMIT, FAILURE_NONE } from '../failure.ts';
import { BreakingMetrics } from '../balance/breaking-metrics.ts';
import { type BalancedProtocol, BalancerSeries } from '../metrics/balancer-metrics.ts';
import { errorLabel, isOfClient } from '../metrics/error-labels.ts';
import { EndpointHttpMetrics } from '../metrics/http-metrics.ts';
import {
  DIRECTION_OUTBOUND,
  defaultRouteOf,
  endpointLabels,
  parentOf,
  routeLabels,
  serviceLabels,
  targetLabels,
  type UpstreamTls,
} from '../metrics/labels.ts';
import { RetrySeries } from '../metrics/retry-metrics.ts';
import { TcpRouteSeries } from '../metrics/tcp-route-metrics.ts';
import { outboundBackendFamilies, outboundRouteFamilies, StreamSeries } from '../metrics/route-metrics.ts';
import type { SeriesPlace } from '../metrics/series-place.ts';
import type { ZoneCost } from '../metrics/transport-metrics.ts';
import type { ClientRoutes, Destination, Endpoint, FailureAccrual } from '../model.ts';
import { countOnce, countRefusal, type WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import type { SessionProtocol } from '../tls/transport-header.ts';
import type { DestinationHandle } from './destinations.ts';
import { type Dialled, dialEndpoint, dialSelf, onThisNode } from './dial.ts';
import { MemoryPass } from './memory-pass.ts';
import { Router } from './router.ts';

const IDLE_MS = 5_000;
const WAITING_MAX = 10_000;

type Waiter = (failure: number) => void;

export class OutboundTarget implements HttpTarget {
  readonly ip: string;
  readonly port: number;
  /** Of the pod's connections to it. */
  readonly clientLabels: string;
  readonly #context: WorkerContext;
  readonly #pod: PodState;
  readonly #handle: DestinationHandle | undefined;
  #destination: Destination | undefined;
  #all: readonly OutboundEndpoint[] = [];
  /** Of all those whose breaker admits requests. */
  #endpoints: readonly OutboundEndpoint[] = [];
  #failfast = false;
  /** What a service's balancers count; made when something is balanced. */
  readonly #balancers = new Map<BalancedProtocol, BalancerSeries>();
  #tcpRoute: TcpRouteSeries | null = null;
  /** Null without routes. */
  router: Router | null = null;
  #routes = '';
  #route: {
    readonly metrics: StreamSeries;
    readonly backend: StreamSeries;
    readonly retries: RetrySeries;
  } | null = null;
  /** Connections of the pod by what they speak. */
  readonly #protocols = new Map<string, Cell>();
  readonly #unknown = new Set<Waiter>();
  readonly #empty = new Set<Waiter>();
  #unknownTimer: Timer | null = null;
  #emptyTimer: Timer | null = null;
  #holders = 0;
  #eviction: Timer | null = null;
  #closed = false;

  constructor(context: WorkerContext, pod: PodState, ip: string, port: number) {
    this.#context = context;
    this.#pod = pod;
    this.ip = ip;
    this.port = port;
    this.clientLabels = `${DIRECTION_OUTBOUND},peer="src",${targetLabels(ip, port)},tls="no_identity",no_tls_reason="loopback",${pod.labels}`;
    this.#handle = context.destinations.acquire(pod.uid, pod.pod.namespace, ip, port, (destination) =>
      this.#update(destination),
    );
    if (this.#handle === undefined) countRefusal(context, pod, 'destinations');
    if (this.#handle?.current !== undefined) this.#update(this.#handle.current);
  }

  get authority(): string {
    return this.#destination?.kind === 'service'
      ? this.#destination.authority
      : formatSocketAddress(this.ip, this.port);
  }

  get policy(): RequestPolicy | undefined {
    return this.#destination?.kind === 'service' ? this.#destination : undefined;
  }

  /**
   * The default route: to the service itself. Other routes are made of their own references in the same way: the
   * route's series has the labels of parent and route, the backend's those of parent, route and backend.
   */
  get route(): HttpRoute {
    if (this.#route !== null) return this.#route;
    const parent = parentOf(this.#destination);
    const labels = joinLabels(serviceLabels('parent', parent), routeLabels(defaultRouteOf(parent, 'http')));
    this.#route = {
      // Host names are no labels: series would be as many as clients like.
      metrics: new StreamSeries(
        this.#place,
        'http',
        outboundRouteFamilies('http'),
        joinLabels(labels, 'hostname=""'),
      ),
      backend: new StreamSeries(
        this.#place,
        'http',
        outboundBackendFamilies('http'),
        joinLabels(labels, serviceLabels('backend', parent)),
        this.balancerOf('http'),
      ),
      retries: new RetrySeries(this.#place, 'http', joinLabels(labels, 'hostname=""')),
    };
    return this.#route;
  }

  /** The counts of a service's balancer; what is no service has none. */
  balancerOf(protocol: BalancedProtocol): BalancerSeries | null {
    if (this.#destination?.kind !== 'service' || this.#closed) return null;
    let series = this.#balancers.get(protocol);
    if (series === undefined) {
      const service = parentOf(this.#destination);
      const own = { logical: this.authority, concrete: this.authority };
      const labels = [
        serviceLabels('parent', service),
        serviceLabels('backend', service),
        protocol === 'http' ? '' : renderLabels(own),
      ].reduce(joinLabels);
      series = new BalancerSeries(this.#place, protocol, labels, this.#context.failfastMs);
      series.updated(true, 0, 0);
      this.#balancers.set(protocol, series);
      this.#countEndpoints(protocol, series);
    }
    return series;
  }

  /** Counts of its opaque connections' default route. */
  get tcpRoute(): TcpRouteSeries {
    if (this.#tcpRoute !== null) return this.#tcpRoute;
    const parent = parentOf(this.#destination);
    const isService = this.#destination?.kind === 'service';
    const labels = [
      serviceLabels('parent', parent),
      routeLabels(defaultRouteOf(parent, 'opaq')),
      renderLabels({
        target_ip: isService ? '' : this.ip,
        target_port: String(isService ? parent.port : this.port),
      }),
    ].reduce(joinLabels);
    this.#tcpRoute = new TcpRouteSeries(this.#place, labels);
    return this.#tcpRoute;
  }

  get #place(): SeriesPlace {
    return { store: this.#context.store, owner: this.#pod.uid, podLabels: this.#pod.labels };
  }

  get endpoints(): readonly OutboundEndpoint[] {
    return this.#endpoints;
  }

  get failfast(): boolean {
    return this.#failfast;
  }

  /** Nothing may be detected on connections to it. */
  get opaque(): boolean {
    return (
      this.#destination !== undefined && this.#destination.kind !== 'unknown' && this.#destination.opaque
    );
  }

  /** A connection uses the target; the target outlives it a little. */
  hold(): void {
    this.#holders++;
    this.#eviction?.cancel();
    this.#eviction = null;
  }

  readonly onClientClosed = (): void => this.release();

  release(): void {
    if (--this.#holders > 0 || this.#closed) return;
    this.#eviction = this.#context.clock.after(IDLE_MS, () => {
      this.#pod.outboundTargets.delete(formatSocketAddress(this.ip, this.port));
      this.close();
    });
  }

  /** Calls once the destination is known (synchronously if it is), or with why it is not. */
  whenKnown(done: Waiter): void {
    if (this.known) done(FAILURE_NONE);
    else if (this.#handle === undefined || this.#unknown.size >= WAITING_MAX) done(FAILURE_LIMIT);
    else {
      this.#unknown.add(done);
      this.#limitUnknown();
    }
  }

  /** A service is known with its endpoints and its routes: where a request goes must not depend on when it came. */
  get known(): boolean {
    const destination = this.#destination;
    return destination !== undefined && (destination.kind !== 'service' || destination.resolved);
  }

  #limitUnknown(): void {
    const { clock, discoveryTimeoutMs, failfastMs } = this.#context;
    const [waitMs, failure] =
      this.#destination === undefined
        ? [discoveryTimeoutMs, FAILURE_DISCOVERY]
        : [failfastMs, FAILURE_FAILFAST];
    this.#unknownTimer ??= clock.after(waitMs, () => {
      this.#unknownTimer = null;
      release(this.#unknown, failure);
    });
  }

  whenAvailable(done: Waiter): void {
    if (this.#endpoints.length > 0) setImmediate(done, FAILURE_NONE);
    else if (this.#empty.size >= WAITING_MAX) setImmediate(done, FAILURE_LIMIT);
    else {
      this.#empty.add(done);
      // One timer from the first that waits, as a queue in fail-fast has.
      this.#emptyTimer ??= this.#context.clock.after(this.#context.failfastMs, () => {
        this.#emptyTimer = null;
        this.#failfast = true;
        for (const series of this.#balancers.values()) series.shut(this.#context.clock.wallMs());
        this.#context.log.warn(
          { client: this.#pod.name, service: this.authority },
          'no endpoint of a service is available; requests fail at once until there is one',
        );
        release(this.#empty, FAILURE_FAILFAST);
      });
    }
  }

  /** Of two endpoints drawn at random the one with fewer connections; undefined if there is none. */
  pickTcp(except?: OutboundEndpoint): OutboundEndpoint | undefined {
    // Breakers judge responses, of which TCP has none.
    const candidates = except === undefined ? this.#all : this.#all.filter((endpoint) => endpoint !== except);
    const count = candidates.length;
    if (count < 2) return candidates[0];
    const first = Math.floor(this.#context.random() * count);
    let second = Math.floor(this.#context.random() * (count - 1));
    if (second >= first) second++;
    const left = candidates[first] as OutboundEndpoint;
    const right = candidates[second] as OutboundEndpoint;
    return left.connections <= right.connections ? left : right;
  }

  /** A connection of the pod is served as this. */
  countProtocol(protocol: 'http/1' | 'http/2' | 'opaq'): void {
    let cell = this.#protocols.get(protocol);
    if (cell === undefined) {
      const labels = joinLabels(
        `protocol="${protocol}"`,
        serviceLabels('parent', parentOf(this.#destination)),
      );
      cell = this.#context.store.cell(
        'outbound_tcp_protocol_connections_total',
        joinLabels(labels, this.#pod.labels),
        this.#pod.uid,
      );
      this.#protocols.set(protocol, cell);
    }
    cell.add(1);
  }

  #releaseProtocols(): void {
    for (const cell of this.#protocols.values()) this.#context.store.release(cell);
    this.#protocols.clear();
  }

  countError(kind: 'http' | 'tcp', failure: number): void {
    const error = `error="${errorLabel(failure)}"`;
    const labels = kind === 'http' ? error : joinLabels(targetLabels(this.ip, this.port), error);
    countOnce(this.#context, `outbound_${kind}_errors_total`, labels, this.#pod);
  }

  /** A request was not answered by an endpoint. */
  readonly failed = (failure: number): void => {
    if (!isOfClient(failure)) this.countError('http', failure);
  };

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#eviction?.cancel();
    this.#unknownTimer?.cancel();
    this.#emptyTimer?.cancel();
    this.#handle?.release();
    for (const endpoint of this.#all) endpoint.close();
    this.router?.close();
    this.router = null;
    this.#closeSeries();
    this.#releaseProtocols();
    release(this.#unknown, FAILURE_DISCOVERY);
    release(this.#empty, FAILURE_DISCOVERY);
  }

  #update(destination: Destination): void {
    if (this.#closed) return;
    const { authority: named } = this;
    this.#destination = destination;
    if (this.authority !== named) this.#closeSeries();
    // Their labels name it.
    this.#releaseProtocols();
    const wanted =
      destination.kind === 'service'
        ? destination.endpoints
        : [destination.kind === 'endpoint' ? destination.endpoint : this.#original()];
    const authority = destination.kind === 'service' ? destination.authority : undefined;
    const accrual = destination.kind === 'service' ? destination.accrual : undefined;
    this.#useRoutes(destination.kind === 'service' ? destination.routes : undefined);
    const before = new Map(this.#all.map((endpoint) => [endpoint.key, endpoint]));
    const earlier = before.size;
    this.#all = wanted.map((endpoint) => {
      const key = JSON.stringify([authority, accrual, endpoint]);
      const known = before.get(key);
      before.delete(key);
      if (known !== undefined) return known;
      return new OutboundEndpoint(this.#context, this.#pod, this, { authority, accrual, endpoint, key });
    });
    for (const endpoint of before.values()) endpoint.close();
    const removed = before.size;
    const added = this.#all.length - (earlier - removed);
    for (const series of this.#balancers.values()) series.updated(false, added, removed);
    this.#unknownTimer?.cancel();
    this.#unknownTimer = null;
    if (this.known) release(this.#unknown, FAILURE_NONE);
    else if (this.#unknown.size > 0) this.#limitUnknown();
    this.admissionChanged();
  }

  #useRoutes(routes: ClientRoutes | undefined): void {
    const text = routes === undefined ? '' : `${this.authority} ${JSON.stringify(routes)}`;
    if (text === this.#routes) return;
    this.#routes = text;
    const before = this.router;
    this.router =
      routes === undefined
        ? null
        : new Router({
            routes,
            authority: this.authority,
            parent: parentOf(this.#destination),
            own: this,
            backendOf: (name) => this.#backend(name),
            place: this.#place,
            random: this.#context.random,
            failed: this.failed,
          });
    // After the next one, so that backends that stay are kept.
    before?.close();
  }

  #backend(authority: string): OutboundTarget {
    const [name = '', port = ''] = authority.split(':');
    const target = outboundTarget(this.#context, this.#pod, name, Number(port));
    target.hold();
    return target;
  }

  /** A breaker opened or shut. */
  admissionChanged(): void {
    this.#endpoints = this.#all.filter((endpoint) => endpoint.admits);
    for (const [protocol, series] of this.#balancers) this.#countEndpoints(protocol, series);
    if (this.#endpoints.length === 0) return;
    this.#emptyTimer?.cancel();
    this.#emptyTimer = null;
    if (this.#failfast) {
      this.#failfast = false;
      for (const series of this.#balancers.values()) series.opened(this.#context.clock.wallMs());
    }
    release(this.#empty, FAILURE_NONE);
  }

  /** Breakers judge responses, of which TCP has none. */
  #countEndpoints(protocol: BalancedProtocol, series: BalancerSeries): void {
    const all = this.#all.length;
    const ready = protocol === 'http' ? this.#endpoints.length : all;
    series.hasEndpoints(ready, all - ready);
  }

  #closeSeries(): void {
    for (const series of this.#balancers.values()) series.close();
    this.#balancers.clear();
    this.#route?.metrics.close();
    this.#route?.backend.close();
    this.#route?.retries.close();
    this.#route = null;
    this.#tcpRoute?.close();
    this.#tcpRoute = null;
  }

  /** What nobody knows is forwarded to where it was going, in plain text. */
  #original(): Endpoint {
    return {
      ip: this.ip,
      port: this.port,
      identity: undefined,
      inboundPort: undefined,
      weight: 1,
      labels: {},
      localPodUid: undefined,
    };
  }
}

/** The pod's one for that address, or for a service's name; to be held. */
export function outboundTarget(
  context: WorkerContext,
  pod: PodState,
  ip: string,
  port: number,
): OutboundTarget {
  const key = formatSocketAddress(ip, port);
  let target = pod.outboundTargets.get(key);
  if (target === undefined) {
    target = new OutboundTarget(context, pod, ip, port);
    pod.outboundTargets.set(key, target);
  }
  return target;
}

function release(waiters: Set<Waiter>, failure: number): void {
  const all = [...waiters];
  waiters.clear();
  for (const waiter of all) waiter(failure);
}

interface EndpointSettings {
  readonly authority: string | undefined;
  readonly accrual: FailureAccrual | undefined;
  readonly endpoint: Endpoint;
  /** All of the above as text. */
  readonly key: string;
}

export class OutboundEndpoint implements HttpEndpoint {
  readonly name: string;
  readonly key: string;
  readonly metrics: HttpMetrics;
  slot: HttpEndpoint['slot'] = null;
  readonly multiplexed: boolean;
  readonly authorityOverride: AuthorityOverride | null;
  readonly identity: string;
  readonly endsClients: boolean;
  /** TCP connections now. */
  connections = 0;
  readonly #onTcpClosed = (): void => {
    this.connections--;
  };
  readonly #context: WorkerContext;
  readonly #pod: PodState;
  readonly #target: OutboundTarget;
  readonly #endpoint: Endpoint;
  readonly #self: boolean;
  readonly #transportLabels: string;
  readonly #zone: ZoneCost;
  readonly #series: EndpointHttpMetrics;
  readonly #breaker: Breaker | null;
  #passage: MemoryPass | null = null;

  constructor(context: WorkerContext, pod: PodState, target: OutboundTarget, settings: EndpointSettings) {
    const { authority, accrual, endpoint, key } = settings;
    this.#context = context;
    this.#pod = pod;
    this.#target = target;
    this.#endpoint = endpoint;
    this.key = key;
    this.name = formatSocketAddress(endpoint.ip, endpoint.port);
    this.#self = endpoint.localPodUid === pod.uid || pod.owns(endpoint.ip);
    this.multiplexed = endpoint.http2 === true && !this.#self;
    const { authorityOverride: named } = endpoint;
    this.authorityOverride = named === undefined || this.#self ? null : authorityOverride(named);
    this.identity = this.#self ? '' : (endpoint.identity ?? '');
    this.endsClients = authority === undefined && this.identity !== '';
    const labels = joinLabels(endpointLabels(authority, endpoint, this.#tls()), pod.labels);
    this.#series = new EndpointHttpMetrics(context.store, joinLabels(DIRECTION_OUTBOUND, labels), pod.uid);
    this.#breaker =
      accrual === undefined
        ? null
        : new Breaker({ ...context, accrual, changed: () => this.#breakerChanged() });
    this.metrics = this.#breaker === null ? this.#series : new BreakingMetrics(this.#series, this.#breaker);
    this.#zone = { locality: localityOf(endpoint), podLabels: pod.labels };
    this.#transportLabels = `${DIRECTION_OUTBOUND},peer="dst",${labels}`;
  }

  get facts(): EndpointFacts {
    const { ip, port, identity, labels } = this.#endpoint;
    const tls = this.#tls();
    return { ip, port, identity: tls === 'loopback' ? undefined : identity, tls, labels };
  }

  /** Whether its breaker lets a request go there. */
  get admits(): boolean {
    return this.#breaker === null || this.#breaker.admits;
  }

  #breakerChanged(): void {
    this.#context.log.info(
      { client: this.#pod.name, service: this.#target.authority, endpoint: this.name },
      this.admits ? 'an endpoint gets requests again' : 'an endpoint gets no requests for a while',
    );
    this.#target.admissionChanged();
  }

  get passage(): MemoryPass | null {
    const passage = this.#passage;
    if (passage === null ? this.#endpoint.localPodUid === undefined : passage.stands) return passage;
    return this.#findPassage();
  }

  #findPassage(): MemoryPass | null {
    this.#passage?.retire();
    this.#passage = null;
    const context = this.#context;
    if (context.sameNode !== 'memory' || this.#self) return null;
    const server = onThisNode(context, this.#endpoint);
    if (server === undefined) return null;
    const passage = new MemoryPass(context, this.#pod, server, this.#endpoint, ({ socket }) =>
      this.#track(socket),
    );
    if (passage.stands) this.#passage = passage;
    return this.#passage;
  }

  connect(http2: boolean, done: Dialled): void {
    this.#dial(http2 ? 'http2' : 'http1', done);
  }

  /** For one opaque connection. */
  connectTcp(done: Dialled): void {
    this.connections++;
    const { ip, port } = this.#endpoint;
    const connected: Dialled = (failure, source) => {
      if (source === null) this.connections--;
      else {
        source.socket.on('close', this.#onTcpClosed);
        this.#track(source.socket);
      }
      done(failure, source);
    };
    if (this.#self) dialSelf(this.#context, this.#pod, { ip, port }, connected);
    else dialEndpoint(this.#context, this.#pod, this.#endpoint, undefined, connected);
  }

  close(): void {
    this.#series.close();
    this.#breaker?.close();
    this.#passage?.retire();
    this.slot?.retire();
  }

  #dial(protocol: SessionProtocol, done: Dialled): void {
    const { ip, port } = this.#endpoint;
    const connected: Dialled = (failure, source) => {
      if (source !== null) this.#track(source.socket);
      done(failure, source);
    };
    if (this.#self) dialSelf(this.#context, this.#pod, { ip, port }, connected);
    else dialEndpoint(this.#context, this.#pod, this.#endpoint, protocol, connected);
  }

  #track(socket: StreamSocket): void {
    this.#context.transports.track(socket, this.#transportLabels, this.#pod.uid, this.#zone);
  }

  #tls(): UpstreamTls {
    if (this.#self) return 'loopback';
    if (this.#endpoint.identity === undefined) return 'plain';
    return onThisNode(this.#context, this.#endpoint) === undefined ? 'mtls' : 'carrier';
  }
}

function localityOf({ labels }: Endpoint): ZoneCost['locality'] {
  const text = labels['zone_locality'];
  if (text === 'local') return 'Local';
  return text === 'remote' ? 'Remote' : 'Unknown';
}

/** Answers every request with "destination cannot be resolved now". */
export function unresolvedTarget(target: OutboundTarget, failure: number): HttpTarget {
  return {
    authority: target.authority,
    endpoints: [],
    failfast: false,
    failed: target.failed,
    whenAvailable: (done) => void setImmediate(done, failure),
  };
}
