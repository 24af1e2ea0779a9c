// SPDX-License-Identifier: Apache-2.0
// The application behind an inbound HTTP connection: one endpoint, reached from inside the pod as the client that it
// serves. Shared by the connections of one client, so that pooled connections never mix clients' addresses.

import { formatSocketAddress } from '#lib/core/addresses.ts';
import type { Timer } from '#lib/core/clock.ts';
import { joinLabels } from '#lib/metrics/model.ts';
import type { EndpointFacts, HttpEndpoint, HttpTarget } from '../exchange/types.ts';
import {
  FAILURE_CONNECT_REFUSED,
  FAILURE_CONNECT_TIMEOUT,
  FAILURE_FAILFAST,
  FAILURE_NONE,
} from '../failure.ts';
import { errorLabel, isOfClient } from '../metrics/error-labels.ts';
import { EndpointHttpMetrics } from '../metrics/http-metrics.ts';
import {
  authorizationLabels,
  DEFAULT_ROUTE_LABELS,
  DIRECTION_INBOUND,
  serverLabels,
  targetLabels,
} from '../metrics/labels.ts';
import { inboundRequestFamilies, inboundResponseFamilies, StreamSeries } from '../metrics/route-metrics.ts';
import { countOnce, type WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import { authorize } from '../policy/authorize.ts';
import { type InboundClient, type InboundServer, inboundLabels, policyClient } from '../policy/client.ts';
import { type Dialled, type DialMark, dialTcp } from './dial.ts';

/** How long requests over HTTP/2 wait for the application to take connections. */
const FAILFAST_MS = 1_000;
const RECONNECT_MS = 100;
/** Longer than a pooled connection stays idle. */
const IDLE_MS = 5_000;

/** The kernel's mark for connections to the pod's application on behalf of a client. */
export function clientMark(pod: PodState, client: InboundClient): DialMark {
  // The pod itself, dialling from inside, has its own address anyway.
  return pod.pod.clientAddressOfProxy || pod.owns(client.ip)
    ? { kind: 'own' }
    : { kind: 'client', ip: client.ip, port: client.port };
}

/** A connection to the pod's application, counted as inbound and `dst`. */
export function dialApplication(
  context: WorkerContext,
  pod: PodState,
  server: InboundServer,
  client: InboundClient,
  done: Dialled,
): void {
  const timeoutMs = pod.pod.connectTimeoutInboundMs;
  const mark = clientMark(pod, client);
  dialTcp(context, pod, { ...server, timeoutMs, mark }, (failure, source) => {
    if (failure === FAILURE_CONNECT_REFUSED) context.applicationRefused(pod);
    if (source !== null) {
      context.transports.track(
        source.socket,
        `${DIRECTION_INBOUND},peer="dst",tls="no_identity",no_tls_reason="loopback",${pod.labels}`,
        pod.uid,
      );
    }
    done(failure, source);
  });
}

export function countInboundError(
  context: WorkerContext,
  pod: PodState,
  server: InboundServer,
  kind: 'http' | 'tcp',
  error: string,
): void {
  const labels = joinLabels(`error="${error}"`, targetLabels(server.ip, server.port));
  countOnce(
    context,
    `inbound_${kind}_errors_total`,
    kind === 'http'
      ? joinLabels(labels, serverLabels(pod.policyOf(server.port).source, server.port))
      : labels,
    pod,
  );
}

function inboundHttpLabels(pod: PodState, server: InboundServer, client: InboundClient): string {
  const authorization = authorize(pod.policyOf(server.port), policyClient(client));
  return [
    DIRECTION_INBOUND,
    inboundLabels(pod, server, client),
    DEFAULT_ROUTE_LABELS,
    authorization === null ? '' : authorizationLabels(authorization.labels),
    pod.labels,
  ].reduce(joinLabels);
}

/** Requests that are answered here, of one client; to be closed. */
export function inboundHttpMetrics(
  context: WorkerContext,
  pod: PodState,
  server: InboundServer,
  client: InboundClient,
): EndpointHttpMetrics {
  return new EndpointHttpMetrics(context.store, inboundHttpLabels(pod, server, client), pod.uid);
}

/** The target for this client, made or found; to be released. */
export function inboundTarget(
  context: WorkerContext,
  pod: PodState,
  server: InboundServer,
  client: InboundClient,
): InboundTarget {
  const labels = inboundHttpLabels(pod, server, client);
  // Applications that see the client's address get no connection that another client's request opened.
  const key = `${pod.pod.clientAddressOfProxy ? '' : client.ip}|${labels}`;
  let target = pod.inboundTargets.get(key);
  if (target === undefined) {
    target = new InboundTarget(context, pod, server, labels, () => pod.inboundTargets.delete(key));
    pod.inboundTargets.set(key, target);
  }
  target.hold(client);
  return target;
}

/** The server's default route; one of a resource has its own labels in the place of these. */
function inboundRoute(context: WorkerContext, pod: PodState, server: InboundServer): InboundTarget['route'] {
  const policy = pod.policyOf(server.port).source;
  const kind = policy.protocol === 'grpc' ? 'grpc' : 'http';
  const place = { store: context.store, owner: pod.uid, podLabels: pod.labels };
  const labels = joinLabels(serverLabels(policy, server.port, 'parent'), DEFAULT_ROUTE_LABELS);
  return {
    metrics: new StreamSeries(place, kind, inboundRequestFamilies(kind), labels),
    backend: new StreamSeries(place, kind, inboundResponseFamilies(kind), labels),
  };
}

export class InboundTarget implements HttpTarget, HttpEndpoint {
  readonly authority: string;
  readonly name: string;
  readonly endpoints: readonly HttpEndpoint[] = [this];
  readonly failfast = false;
  /** HTTP/1 to an application stays HTTP/1. */
  readonly multiplexed = false;
  /** This is the end. */
  readonly passage = null;
  readonly metrics: EndpointHttpMetrics;
  readonly route: { readonly metrics: StreamSeries; readonly backend: StreamSeries };
  slot: HttpEndpoint['slot'] = null;
  readonly #context: WorkerContext;
  readonly #pod: PodState;
  readonly #server: InboundServer;
  readonly #onIdle: () => void;
  /** The client connection that came last: the application sees its port. */
  #client: InboundClient | null = null;
  #holders = 0;
  #eviction: Timer | null = null;

  constructor(
    context: WorkerContext,
    pod: PodState,
    server: InboundServer,
    labels: string,
    onIdle: () => void,
  ) {
    this.#context = context;
    this.#pod = pod;
    this.#server = server;
    this.#onIdle = onIdle;
    this.name = formatSocketAddress(server.ip, server.port);
    this.authority = this.name;
    this.metrics = new EndpointHttpMetrics(context.store, labels, pod.uid);
    this.route = inboundRoute(context, pod, server);
  }

  readonly failed = (failure: number): void => {
    if (isOfClient(failure)) return;
    countInboundError(this.#context, this.#pod, this.#server, 'http', errorLabel(failure));
  };

  hold(client: InboundClient): void {
    this.#client = client;
    this.#holders++;
    this.#eviction?.cancel();
    this.#eviction = null;
  }

  release(): void {
    if (--this.#holders > 0) return;
    this.#eviction = this.#context.clock.after(IDLE_MS, () => {
      this.#onIdle();
      this.close();
    });
  }

  close(): void {
    this.#eviction?.cancel();
    this.metrics.close();
    this.route.metrics.close();
    this.route.backend.close();
    this.slot?.retire();
  }

  get facts(): EndpointFacts {
    return { ...this.#server, identity: undefined, tls: 'loopback', labels: {} };
  }

  whenAvailable(done: (failure: number) => void): void {
    setImmediate(done, FAILURE_NONE);
  }

  connect(http2: boolean, done: Dialled): void {
    if (http2) this.#dialAgain(this.#context.clock.nowMs() + FAILFAST_MS, RECONNECT_MS, done);
    else this.#dial(done);
  }

  #dial(done: Dialled): void {
    dialApplication(this.#context, this.#pod, this.#server, this.#client as InboundClient, done);
  }

  /** The one connection that all requests over HTTP/2 share is tried again for a while, as with Linkerd. */
  #dialAgain(untilMs: number, pauseMs: number, done: Dialled): void {
    const { clock } = this.#context;
    this.#dial((failure, source) => {
      if (failure !== FAILURE_CONNECT_REFUSED && failure !== FAILURE_CONNECT_TIMEOUT) done(failure, source);
      else if (clock.nowMs() + pauseMs >= untilMs) {
        clock.after(Math.max(0, untilMs - clock.nowMs()), () => done(FAILURE_FAILFAST, null));
      } else clock.after(pauseMs, () => this.#dialAgain(untilMs, pauseMs * 2, done));
    });
  }
}
