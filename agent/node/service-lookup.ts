// SPDX-License-Identifier: Apache-2.0
// One Get stream: the endpoints of a service's port as a full set, made of the differences that destination sends; and
// a Watch stream for its routes where Get's headers say that there are any.

import { type Metadata, status } from '@grpc/grpc-js';
import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import { socketFromWire } from '#lib/proto/addresses.ts';
import type { DestinationClient, Update, WeightedAddr } from '#lib/proto/gen/linkerd/destination.ts';
import { CLIENT_POLICY_HEADER, type ClientPolicy, decodeClientPolicy } from '#lib/proto/client-policy.ts';
import type { OutboundPoliciesClient, OutboundPolicy } from '#lib/proto/gen/linkerd/outbound.ts';
import type { ClientRoutes, Endpoint } from '../proxy/model.ts';
import { clientRoutes } from './route-conversion.ts';
import { openRetryingStream, type RetryingStream } from './retrying-stream.ts';

/** Destination says so in its headers, because a service without endpoints has no first message. */
export const INITIAL_ENDPOINTS_HEADER = 'nodemesh-initial-endpoints';

export interface ServiceLookupOptions {
  readonly client: DestinationClient;
  readonly policies: OutboundPoliciesClient;
  readonly path: string;
  readonly contextToken: string;
  readonly localPods: (ip: string) => string | undefined;
  readonly endpointsMax: number;
  /** Something changed; may be called several times a tick. */
  readonly changed: () => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export class ServiceLookup {
  /** What destination said of the service's routes; stays while it is away. */
  routes: ClientRoutes | undefined;
  /** What the service asks of its clients. */
  policy: ClientPolicy = {};
  readonly #options: ServiceLookupOptions;
  readonly #stream: RetryingStream;
  #answered = false;
  #watch: RetryingStream | undefined;
  #addresses = new Map<string, WeightedAddr>();
  #setLabels: Readonly<Record<string, string>> = {};

  constructor(options: ServiceLookupOptions) {
    this.#options = options;
    const { client, path, contextToken, clock, random } = options;
    this.#stream = openRetryingStream<Update>({
      open: () => client.get({ scheme: '', path, contextToken }),
      onHeaders: (headers) => this.#headers(headers),
      onMessage: (update, first) => this.#update(update, first),
      onError: (code, details) => this.#error(code, details),
      clock,
      random,
    });
  }

  get endpoints(): Endpoint[] {
    return [...this.#addresses.values()].flatMap(
      (address) => endpointOf(address, this.#setLabels, this.#options.localPods) ?? [],
    );
  }

  /** Whether destination has answered once, of the routes too; what it said stays while it is away. */
  get resolved(): boolean {
    return this.#answered && (this.policy.routed !== true || this.routes !== undefined);
  }

  close(): void {
    this.#stream.close();
    this.#watch?.close();
  }

  #headers(headers: Metadata): void {
    const policy = decodeClientPolicy(String(headers.get(CLIENT_POLICY_HEADER)[0] ?? ''));
    if (JSON.stringify(policy) !== JSON.stringify(this.policy)) {
      this.policy = policy;
      this.#followRoutes(policy.routed === true);
      this.#options.changed();
    }
    if (headers.get(INITIAL_ENDPOINTS_HEADER)[0] === '0') this.#replace(new Map());
  }

  #followRoutes(routed: boolean): void {
    if (!routed) {
      this.#watch?.close();
      this.#watch = undefined;
      this.routes = undefined;
    } else if (this.#watch === undefined) {
      const { policies, path, contextToken, clock, random, changed, log } = this.#options;
      const target = { $case: 'authority', authority: path } as const;
      this.#watch = openRetryingStream<OutboundPolicy>({
        open: () => policies.watch({ sourceWorkload: contextToken, target }),
        onMessage: (policy) => {
          this.routes = clientRoutes(policy);
          const { invalid } = this.routes;
          if (invalid !== undefined) {
            log.error(
              { path, reason: invalid },
              'the routes of a service cannot be used; its requests are refused',
            );
          }
          changed();
        },
        onError: (code, details) =>
          log.debug({ path, code: status[code], details }, 'routes stream ended; the last known ones stay'),
        clock,
        random,
      });
    }
  }

  #update({ update }: Update, first: boolean): void {
    const addresses = first ? new Map<string, WeightedAddr>() : this.#addresses;
    switch (update?.$case) {
      case 'add':
        this.#setLabels = update.add.metricLabels;
        this.#add(addresses, update.add.addrs);
        break;
      case 'remove':
        for (const address of update.remove.addrs) addresses.delete(keyOf(address));
        break;
      case 'noEndpoints':
        addresses.clear();
        break;
      case undefined:
        // Of a newer destination.
        return;
    }
    this.#replace(addresses);
  }

  #add(addresses: Map<string, WeightedAddr>, added: readonly WeightedAddr[]): void {
    const { endpointsMax, log, path } = this.#options;
    for (const address of added) {
      const key = keyOf(address.addr);
      if (addresses.size >= endpointsMax && !addresses.has(key)) {
        log.warn({ path, endpointsMax }, 'service has more endpoints than are used');
        return;
      }
      addresses.set(key, address);
    }
  }

  #error(code: status, details: string): void {
    const { log, path } = this.#options;
    if (code === status.NOT_FOUND || code === status.INVALID_ARGUMENT) {
      // A definite answer: there is no such service (any more).
      this.#replace(new Map());
      return;
    }
    log.debug({ path, code: status[code], details }, 'endpoints stream ended; the last known ones stay');
  }

  #replace(addresses: Map<string, WeightedAddr>): void {
    this.#addresses = addresses;
    this.#answered = true;
    this.#options.changed();
  }
}

const keyOf = (address: WeightedAddr['addr']): string => {
  const socket = socketFromWire(address);
  return socket === undefined ? '' : `${socket.ip}/${socket.port}`;
};

export function endpointOf(
  address: WeightedAddr,
  setLabels: Readonly<Record<string, string>>,
  localPods: (ip: string) => string | undefined,
): Endpoint | undefined {
  const socket = socketFromWire(address.addr);
  if (socket === undefined) return undefined;
  const strategy = address.tlsIdentity?.strategy;
  const hint = address.protocolHint;
  // Without the transport header nobody is told what is spoken.
  const http2 = hint?.protocol?.$case === 'h2' && hint.opaqueTransport !== undefined;
  return {
    ...socket,
    // Only DNS-like identities; others mean plain text, as linkerd2-proxy does.
    identity: strategy?.$case === 'dnsLikeIdentity' ? strategy.dnsLikeIdentity.name : undefined,
    inboundPort: hint?.opaqueTransport?.inboundPort,
    ...(http2 ? { http2 } : {}),
    weight: address.weight,
    labels: { ...setLabels, ...address.metricLabels },
    localPodUid: localPods(socket.ip),
  };
}
