// SPDX-License-Identifier: Apache-2.0
// What stands behind an original destination, for proxy workers: a GetProfile stream per client namespace and
// address, and a Get stream per service behind it, shared by all who ask. Nothing is delivered before destination
// has answered; while it is away the last answer stays; only a definite "nothing known" makes a destination
// `unknown`, for an outage must not turn mesh traffic into plain text.

import { isIP } from 'node:net';
import { status } from '@grpc/grpc-js';
import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { formatSocketAddress } from '#lib/core/addresses.ts';
import type { Log } from '#lib/core/log.ts';
import type { OutboundPoliciesClient } from '#lib/proto/gen/linkerd/outbound.ts';
import type {
  DestinationClient,
  DestinationProfile,
  WeightedAddr,
} from '#lib/proto/gen/linkerd/destination.ts';
import type { Destination, Endpoint } from '../proxy/model.ts';
import { profileRoutes } from './profile-routes.ts';
import { openRetryingStream } from './retrying-stream.ts';
import { endpointOf, ServiceLookup } from './service-lookup.ts';

export interface DiscoveryTarget {
  /** Of the client pod: profiles may differ by it. */
  readonly namespace: string;
  /** An address that somebody dialled, or the name of a service to which routes lead. */
  readonly ip: string;
  readonly port: number;
}

export interface KnownDestination {
  readonly target: DiscoveryTarget;
  readonly destination: Destination;
}

export interface Subscription {
  close(): void;
}

export interface DiscoveryOptions {
  /** Our own, on the connection of the node stream, or a stock Linkerd's (destination-client.ts). */
  readonly client: DestinationClient;
  readonly policies: OutboundPoliciesClient;
  readonly stock?: boolean;
  readonly nodeName: string;
  /** Uid of the pod of this node that is enrolled and has the address. */
  readonly localPods: (ip: string) => string | undefined;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Streams that nobody uses are kept for this long. */
  readonly idleMs?: number;
  readonly lookupsMax?: number;
  /** What an earlier agent knew: delivered until destination has answered here. */
  readonly restored?: readonly KnownDestination[];
  /** `known` has changed. */
  readonly changed?: () => void;
  readonly endpointsMax?: number;
}

export interface Discovery {
  /** `key` is for logs; the callback never runs before this returns. */
  subscribe(key: string, target: DiscoveryTarget, deliver: (destination: Destination) => void): Subscription;
  /** A pod of this node was enrolled or left: `localPodUid` of endpoints may differ. */
  localPodsChanged(): void;
  /** Streams that are open or paused, for metrics. */
  /** Look-ups that were not made because of the limit. */
  readonly refused: number;
  readonly streams: { readonly profiles: number; readonly services: number };
  /** The last answers, no more than `max` of them, for a later agent. */
  known(max: number): readonly KnownDestination[];
  close(): void;
}

const IDLE_MS = 5_000;
const LOOKUPS_MAX = 10_000;
const ENDPOINTS_MAX = 10_000;

export function createDiscovery(options: DiscoveryOptions): Discovery {
  return new StreamingDiscovery(options);
}

/** Counts its users; closed a while after the last one left. */
interface Shared {
  users: number;
  idle: Timer | undefined;
  readonly close: () => void;
}

interface ProfileLookup extends Shared {
  readonly target: DiscoveryTarget;
  readonly subscribers: Set<Subscriber>;
  profile: DestinationProfile | undefined;
  service: SharedService | undefined;
  /** Of an earlier agent; until destination has answered. */
  restored: Destination | undefined;
  /** The last delivered value, and its text to compare with. */
  destination: Destination | undefined;
  text: string;
}

interface SharedService extends Shared {
  readonly key: string;
  readonly lookup: ServiceLookup;
}

interface Subscriber {
  readonly deliver: (destination: Destination) => void;
  /** Told since it subscribed. */
  told: Destination | undefined;
}

class StreamingDiscovery implements Discovery {
  readonly #options: DiscoveryOptions;
  readonly #profiles = new Map<string, ProfileLookup>();
  readonly #services = new Map<string, SharedService>();
  readonly #dirty = new Set<ProfileLookup>();
  readonly #restored: Map<string, KnownDestination>;
  refused = 0;
  #closed = false;

  constructor(options: DiscoveryOptions) {
    this.#options = options;
    this.#restored = new Map((options.restored ?? []).map((one) => [nameOf(one.target), one]));
  }

  get streams(): Discovery['streams'] {
    return { profiles: this.#profiles.size, services: this.#services.size };
  }

  subscribe(key: string, target: DiscoveryTarget, deliver: (destination: Destination) => void): Subscription {
    const name = nameOf(target);
    const lookup = this.#profiles.get(name) ?? this.#openProfile(name, target);
    if (lookup === undefined) {
      this.refused++;
      this.#options.log.warn(
        { key, lookupsMax: this.#max },
        'too many destinations are in use at once; this one is not resolved',
      );
      return { close: () => undefined };
    }
    const subscriber: Subscriber = { deliver, told: undefined };
    lookup.subscribers.add(subscriber);
    this.#use(lookup);
    this.#touch(lookup);
    let open = true;
    return {
      close: () => {
        if (!open) return;
        open = false;
        lookup.subscribers.delete(subscriber);
        this.#leave(lookup);
      },
    };
  }

  known(max: number): readonly KnownDestination[] {
    const known = new Map<string, KnownDestination>();
    for (const { target, destination } of this.#profiles.values()) {
      if (known.size >= max) break;
      if (destination !== undefined) known.set(nameOf(target), { target, destination });
    }
    // What nobody has asked for since the start may still be asked for after the next one.
    for (const [name, one] of this.#restored) if (known.size < max && !known.has(name)) known.set(name, one);
    return [...known.values()];
  }

  localPodsChanged(): void {
    const { localPods } = this.#options;
    for (const lookup of this.#profiles.values()) {
      // Only where it makes a difference: to compare all that is known takes a tenth of a second on a busy node.
      if (endpointsOf(lookup.destination).some(({ ip, localPodUid }) => localPods(ip) !== localPodUid)) {
        this.#touch(lookup);
      }
    }
  }

  close(): void {
    this.#closed = true;
    for (const shared of [...this.#profiles.values(), ...this.#services.values()]) {
      shared.idle?.cancel();
      shared.close();
    }
  }

  get #max(): number {
    return this.#options.lookupsMax ?? LOOKUPS_MAX;
  }

  #openProfile(name: string, target: DiscoveryTarget): ProfileLookup | undefined {
    if (this.#profiles.size >= this.#max) this.#closeIdle();
    if (this.#profiles.size >= this.#max) return undefined;
    const { client, clock, random, log } = this.#options;
    const path = formatSocketAddress(target.ip, target.port);
    const contextToken = this.#contextToken(target);
    // What a name stands for needs no profile.
    const named = isNamed(target);
    const stream = named
      ? undefined
      : openRetryingStream<DestinationProfile>({
          open: () => client.getProfile({ scheme: '', path, contextToken }),
          onMessage: (profile) => this.#profileChanged(lookup, profile),
          onError: (code, details) => {
            log.debug({ path, code: status[code], details }, 'profile stream ended; the last answer stays');
          },
          clock,
          random,
        });
    const lookup: ProfileLookup = {
      target,
      subscribers: new Set(),
      users: 0,
      idle: undefined,
      profile: undefined,
      service: undefined,
      restored: this.#restored.get(name)?.destination,
      destination: undefined,
      text: '',
      close: () => {
        stream?.close();
        this.#profiles.delete(name);
        if (lookup.service !== undefined) this.#leave(lookup.service);
        lookup.service = undefined;
      },
    };
    this.#profiles.set(name, lookup);
    this.#restored.delete(name);
    if (named) this.#follow(lookup, path);
    return lookup;
  }

  #contextToken({ namespace, ip }: DiscoveryTarget): string {
    const { nodeName, stock } = this.#options;
    const family = ip.includes(':') ? { ipFamily: 'IPv6' } : {};
    // Linkerd refuses a workload without a name, and looks at its namespace alone: lookups are shared by a namespace.
    const pod = stock === true ? { pod: nodeName } : {};
    return JSON.stringify({ ns: namespace, nodeName, ...pod, ...family });
  }

  #profileChanged(lookup: ProfileLookup, profile: DestinationProfile): void {
    lookup.profile = profile;
    this.#follow(lookup, authorityOf(profile, lookup.target.port));
  }

  #follow(lookup: ProfileLookup, authority: string | undefined): void {
    const key = authority && `${this.#contextToken(lookup.target)}|${authority}`;
    if (lookup.service?.key !== key) {
      const before = lookup.service;
      lookup.service =
        authority === undefined || key === undefined
          ? undefined
          : this.#openService(key, authority, lookup.target);
      if (lookup.service !== undefined) this.#use(lookup.service);
      if (before !== undefined) this.#leave(before);
    }
    this.#touch(lookup);
  }

  #openService(key: string, authority: string, target: DiscoveryTarget): SharedService {
    const known = this.#services.get(key);
    if (known !== undefined) return known;
    const { client, policies, stock, localPods, endpointsMax, clock, random, log } = this.#options;
    const lookup = new ServiceLookup({
      client,
      policies,
      stock: stock === true,
      path: authority,
      contextToken: this.#contextToken(target),
      localPods,
      endpointsMax: endpointsMax ?? ENDPOINTS_MAX,
      changed: () => {
        for (const profile of this.#profiles.values()) if (profile.service === service) this.#touch(profile);
      },
      clock,
      random,
      log,
    });
    const service: SharedService = {
      key,
      lookup,
      users: 0,
      idle: undefined,
      close: () => {
        lookup.close();
        this.#services.delete(key);
      },
    };
    this.#services.set(key, service);
    return service;
  }

  #use(shared: Shared): void {
    shared.users++;
    shared.idle?.cancel();
    shared.idle = undefined;
  }

  #leave(shared: Shared): void {
    if (--shared.users > 0 || this.#closed) return;
    shared.idle = this.#options.clock.after(this.#options.idleMs ?? IDLE_MS, shared.close);
  }

  #closeIdle(): void {
    for (const lookup of this.#profiles.values()) {
      if (lookup.users > 0) continue;
      lookup.idle?.cancel();
      lookup.close();
    }
  }

  /** Deliveries are gathered until the end of the tick. */
  #touch(lookup: ProfileLookup): void {
    if (this.#dirty.size === 0) setImmediate(() => this.#flush());
    this.#dirty.add(lookup);
  }

  #flush(): void {
    const lookups = [...this.#dirty];
    this.#dirty.clear();
    if (this.#closed) return;
    for (const lookup of lookups) {
      this.#refresh(lookup);
      const { destination } = lookup;
      if (destination === undefined) continue;
      for (const subscriber of lookup.subscribers) {
        if (subscriber.told === destination) continue;
        subscriber.told = destination;
        subscriber.deliver(destination);
      }
    }
  }

  #refresh(lookup: ProfileLookup): void {
    const answered = this.#destinationOf(lookup);
    // Endpoints come a moment after the profile.
    const complete =
      answered !== undefined && (answered.kind !== 'service' || lookup.service?.lookup.answered === true);
    if (complete) lookup.restored = undefined;
    const destination = complete ? answered : (this.#localized(lookup.restored) ?? kept(lookup, answered));
    const text = destination === undefined ? '' : JSON.stringify(destination);
    if (text === lookup.text) return;
    lookup.text = text;
    lookup.destination = destination;
    this.#options.changed?.();
  }

  /** As it was, with the pods of this node as they are now. */
  #localized(destination: Destination | undefined): Destination | undefined {
    if (destination === undefined || destination.kind === 'unknown') return destination;
    const { localPods } = this.#options;
    const here = (endpoint: Endpoint): Endpoint => ({ ...endpoint, localPodUid: localPods(endpoint.ip) });
    return destination.kind === 'endpoint'
      ? { ...destination, endpoint: here(destination.endpoint) }
      : { ...destination, endpoints: destination.endpoints.map(here) };
  }

  #destinationOf({ profile, service, target }: ProfileLookup): Destination | undefined {
    const named = isNamed(target);
    const authority = named
      ? formatSocketAddress(target.ip, target.port)
      : profile && authorityOf(profile, target.port);
    if (authority !== undefined && service !== undefined) {
      const { resolved, endpoints, policy } = service.lookup;
      const routes = (profile && profileRoutes(profile)) ?? policy.routes;
      const { routed: _, ...limits } = policy.limits;
      const opaque = profile?.opaqueProtocol === true || policy.opaque;
      // Routes lead to a service's endpoints, not to its own routes.
      const own = routes === undefined || named ? {} : { routes };
      return { kind: 'service', authority, opaque, resolved, endpoints, ...limits, ...own };
    }
    if (profile === undefined) return undefined;
    const address = profile.endpoint;
    const endpoint = address && endpointOf(address, {}, this.#options.localPods);
    // A bare address, or a port that the service does not have: nothing is known of it.
    if (address === undefined || endpoint === undefined || !isWorkload(address)) return { kind: 'unknown' };
    const opaque = profile.opaqueProtocol || address.protocolHint?.protocol?.$case === 'opaque';
    return { kind: 'endpoint', opaque, endpoint };
  }
}

/** What was known of the same service, where new routes of it are on their way; else the answer as far as it is there. */
function kept({ destination }: ProfileLookup, answered: Destination | undefined): Destination | undefined {
  if (destination?.kind !== 'service' || answered?.kind !== 'service') return answered;
  return destination.resolved && destination.authority === answered.authority ? destination : answered;
}

/** Of nothing else is anything known. */
const isWorkload = ({ metricLabels }: WeightedAddr): boolean =>
  metricLabels['pod'] !== undefined || metricLabels['external_workload'] !== undefined;

const isNamed = ({ ip }: DiscoveryTarget): boolean => isIP(ip) === 0;

const nameOf = (target: DiscoveryTarget): string =>
  `${target.namespace}|${formatSocketAddress(target.ip, target.port)}`;

function endpointsOf(destination: Destination | undefined): readonly Endpoint[] {
  if (destination === undefined || destination.kind === 'unknown') return [];
  return destination.kind === 'service' ? destination.endpoints : [destination.endpoint];
}

const authorityOf = (profile: DestinationProfile, port: number): string | undefined =>
  profile.fullyQualifiedName === '' ? undefined : `${profile.fullyQualifiedName}:${port}`;
