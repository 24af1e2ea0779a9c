// SPDX-License-Identifier: Apache-2.0
// One Get stream: the endpoints of a service's port as a full set, made of the differences that destination sends; and
// beside it what the service's clients shall do.

import { type Metadata, status } from '@grpc/grpc-js';
import { socketFromWire } from '#lib/proto/addresses.ts';
import type { DestinationClient, Update, WeightedAddr } from '#lib/proto/gen/linkerd/destination.ts';
import type { Endpoint } from '../proxy/model.ts';
import { openRetryingStream, type RetryingStream } from './retrying-stream.ts';
import { ServicePolicy, type ServicePolicyOptions } from './service-policy.ts';

/** Destination says so in its headers, because a service without endpoints has no first message. */
export const INITIAL_ENDPOINTS_HEADER = 'nodemesh-initial-endpoints';

export interface ServiceLookupOptions extends ServicePolicyOptions {
  readonly client: DestinationClient;
  readonly localPods: (ip: string) => string | undefined;
  readonly endpointsMax: number;
}

export class ServiceLookup {
  readonly policy: ServicePolicy;
  readonly #options: ServiceLookupOptions;
  readonly #stream: RetryingStream;
  #answered = false;
  #addresses = new Map<string, WeightedAddr>();
  #setLabels: Readonly<Record<string, string>> = {};

  constructor(options: ServiceLookupOptions) {
    this.#options = options;
    const { client, path, contextToken, clock, random } = options;
    this.policy = new ServicePolicy(options);
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
  get answered(): boolean {
    return this.#answered && this.policy.complete;
  }

  /** Whether requests can be told where to go: a stock Linkerd says nothing while a service has no endpoint. */
  get resolved(): boolean {
    return this.answered || (this.#options.stock && this.policy.complete);
  }

  close(): void {
    this.#stream.close();
    this.policy.close();
  }

  #headers(headers: Metadata): void {
    this.policy.headers(headers);
    if (headers.get(INITIAL_ENDPOINTS_HEADER)[0] === '0') this.#replace(new Map());
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

/** A name that may be sent as it is, perhaps with a port. */
const AUTHORITY =
  /^[A-Za-z0-9](?:[-.A-Za-z0-9]{0,252})(?::(?!0)\d{1,4}|:[1-5]\d{4}|:6[0-4]\d{3}|:65[0-4]\d\d|:655[0-2]\d|:6553[0-5])?$/;

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
  const hint = address.protocolHint;
  const override = address.authorityOverride?.authorityOverride;
  // What is behind a gateway cannot be reached without its name.
  if (override !== undefined && !AUTHORITY.test(override)) return undefined;
  const tls = tlsOf(address);
  // Without the transport header nobody is told what is spoken.
  const headed =
    hint?.opaqueTransport !== undefined || (override !== undefined && tls.identity !== undefined);
  const http2 = hint?.protocol?.$case === 'h2' && headed;
  return {
    ...socket,
    ...tls,
    inboundPort: hint?.opaqueTransport?.inboundPort,
    ...(override === undefined ? {} : { authorityOverride: override }),
    ...(http2 ? { http2 } : {}),
    weight: address.weight,
    labels: { ...setLabels, ...address.metricLabels },
    localPodUid: localPods(socket.ip),
  };
}

/** An identity that is a URI cannot be a server's name too: without one, it means plain text, as for linkerd2-proxy. */
function tlsOf({ tlsIdentity }: WeightedAddr): Pick<Endpoint, 'identity' | 'serverName'> {
  const strategy = tlsIdentity?.strategy;
  const serverName = tlsIdentity?.serverName?.name ?? '';
  if (strategy?.$case === 'dnsLikeIdentity') {
    const identity = strategy.dnsLikeIdentity.name;
    return serverName === '' || serverName === identity ? { identity } : { identity, serverName };
  }
  if (strategy?.$case === 'uriLikeIdentity' && serverName !== '') {
    return { identity: strategy.uriLikeIdentity.uri, serverName };
  }
  return { identity: undefined };
}
