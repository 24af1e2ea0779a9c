// SPDX-License-Identifier: Apache-2.0
// Destination.Get: the endpoints of a service's port, first all of them, then what changed. As Linkerd's
// destination: no message for a service without endpoints, NOT_FOUND for one that does not exist.

import { errorMessage } from '#lib/core/errors.ts';
import { type EncodedMessage, encodeMessage, type ServerStream } from '#lib/grpc/call.ts';
import { CLIENT_POLICY_HEADER, encodeClientPolicy } from '#lib/proto/client-policy.ts';
import { type GetDestination, Update, type WeightedAddr } from '#lib/proto/gen/linkerd/destination.ts';
import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import { type ExternalWorkload, keyOf, type ResourceKey, type Service } from '#lib/registry/model.ts';
import { addressText, type EndpointAddress, externalAddress, podAddress, sliceAddress } from './addresses.ts';
import { type Authority, parseAuthority } from './authority.ts';
import type { ClusterIndex, Topic } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import { clientPolicy } from './client-policy.ts';
import { portNamesOf } from './external-workloads.ts';
import { Interned } from './interned.ts';
import type { MeshPod } from './mesh-pod.ts';
import { refuseRemote, setLabels } from './mirrors.ts';
import { familyOf, hasSelector, sliceEndpoints } from './slice-endpoints.ts';
import { serviceRoutes } from './service-routes.ts';
import { CallError, status } from '#lib/grpc/status.ts';
import { StreamState, type StreamStateOptions } from './stream-state.ts';

/** How many endpoints there are at first: an addition of ours that other clients do not read. */
const INITIAL_ENDPOINTS_HEADER = 'nodemesh-initial-endpoints';

/** By address and port. */
type Endpoints = ReadonlyMap<string, WeightedAddr>;

/** Of one state of a service, by who asks: thousands of streams hold the same. */
const podEndpoints = new WeakMap<readonly MeshPod[], Map<string, Endpoints>>();

/** What is sent to bring a client from one state to the next; made once for all that are there. */
interface Step {
  readonly before: Endpoints;
  readonly messages: readonly EncodedMessage[];
}
/** By the state that they lead to. */
const steps = new WeakMap<Endpoints, Step>();
const firstSteps = new WeakMap<Endpoints, Step>();

const noEndpoints: Endpoints = new Map();

export interface LookupContext {
  readonly index: ClusterIndex;
  readonly settings: MeshSettings;
  readonly cluster: string;
  /** By the path of a request. Throws a CallError if it is none. */
  readonly targets: Interned<LookupTarget>;
}

/** What a path names, and what answers for it may change with. */
export interface LookupTarget {
  readonly authority: Authority;
  readonly topics: readonly Topic[];
}

export const createLookupTargets = (clusterDomain: string, cluster: string): Interned<LookupTarget> =>
  new Interned((path) => {
    let authority: Authority;
    try {
      authority = parseAuthority(path, clusterDomain);
    } catch (error) {
      throw new CallError(status.INVALID_ARGUMENT, `Invalid authority: ${errorMessage(error)}`);
    }
    const topic: Topic =
      authority.kind === 'ip'
        ? { kind: 'ip', cluster, ip: authority.ip }
        : { kind: 'service', key: { cluster, namespace: authority.namespace, name: authority.name } };
    return { authority, topics: [topic] };
  });

export function serveGet(
  context: LookupContext,
  request: GetDestination,
  call: ServerStream<Update>,
  token: ContextToken,
): void {
  const { authority, topics } = context.targets.of(request.path);
  if (authority.kind === 'ip') {
    throw new CallError(status.INVALID_ARGUMENT, `IP queries not supported by Get API: host=${authority.ip}`);
  }
  new ServedGet(context, call, authority, topics, token).begin();
}

/** One stream. What it refers to is others', too, but for the state that it keeps itself. */
class ServedGet implements StreamStateOptions<Update> {
  readonly stream: ServerStream<Update>;
  readonly #context: LookupContext;
  readonly #authority: ServiceAuthority;
  /** Of the service alone. */
  readonly #topics: readonly Topic[];
  readonly #token: ContextToken;
  readonly #state: StreamState<Update>;
  readonly #policy: string;
  #sent = noEndpoints;

  constructor(
    context: LookupContext,
    stream: ServerStream<Update>,
    authority: ServiceAuthority,
    topics: readonly Topic[],
    token: ContextToken,
  ) {
    this.stream = stream;
    this.#context = context;
    this.#authority = authority;
    this.#topics = topics;
    this.#token = token;
    this.#policy = policyTexts.of(policyText(context, this.#find(), authority, token));
    this.#state = new StreamState(this);
  }

  get index(): ClusterIndex {
    return this.#context.index;
  }

  begin(): void {
    // Headers at once: with no endpoints there is no message, and a client that comes back must not wait for one.
    const initial = endpointsOf(this.#context, this.#find(), this.#authority, this.#token).size;
    this.stream.sendMetadata({
      [INITIAL_ENDPOINTS_HEADER]: String(initial),
      ...(this.#policy === '' ? {} : { [CLIENT_POLICY_HEADER]: this.#policy }),
    });
    this.#state.follow(this.#topics);
    this.#state.refresh();
  }

  #find(): Service {
    const { namespace, name } = this.#authority;
    const service = requireService(this.index, { cluster: this.#context.cluster, namespace, name });
    refuseRemote(service);
    return service;
  }

  difference(): readonly EncodedMessage[] {
    const service = this.#find();
    if (policyText(this.#context, service, this.#authority, this.#token) !== this.#policy) {
      throw new CallError(
        status.UNAVAILABLE,
        'the service asks something else of its clients now: ask again',
      );
    }
    this.#state.follow(hasSelector(service) ? this.#topics : slicesTopics(this.#context, service));
    const before = this.#sent;
    this.#sent = endpointsOf(this.#context, service, this.#authority, this.#token);
    if (this.#sent === before) return nothingNew;
    return stepBetween(before, this.#sent, () => setLabels(service, this.#context.settings));
  }
}

const nothingNew: readonly EncodedMessage[] = [];
/** The same text is one string. */
const policyTexts = new Interned((text) => text);

function stepBetween(
  before: Endpoints,
  now: Endpoints,
  labels: () => Record<string, string>,
): readonly EncodedMessage[] {
  const known = (before === noEndpoints ? firstSteps : steps).get(now);
  if (known?.before === before) return known.messages;
  const messages = differenceBetween(before, now, labels).map((update) =>
    encodeMessage(Update.encode(update).finish(), true),
  );
  if (before === noEndpoints) {
    firstSteps.set(now, { before, messages });
  } else {
    steps.set(now, { before, messages });
    // A state shall not keep all that were before it.
    steps.delete(before);
  }
  return messages;
}

function differenceBetween(
  before: Endpoints,
  now: Endpoints,
  labels: () => Record<string, string>,
): Update[] {
  const removed = [...before].filter(([name]) => !now.has(name));
  const added = [...now].flatMap(([name, address]) => {
    const known = before.get(name);
    if (known === address) return [];
    return known === undefined || addressText(known) !== addressText(address) ? [address] : [];
  });
  const updates: Update[] = [];
  if (added.length > 0)
    updates.push({ update: { $case: 'add', add: { addrs: added, metricLabels: labels() } } });
  if (removed.length > 0) {
    const addrs = removed.flatMap(([, { addr }]) => (addr === undefined ? [] : [addr]));
    updates.push({ update: { $case: 'remove', remove: { addrs } } });
  }
  return updates;
}

/** Addresses that stand in slices may be those of pods, which the service itself does not select. */
function slicesTopics({ index, cluster }: LookupContext, service: Service): Topic[] {
  const ips = [...index.slices(service)].flatMap(({ endpoints }) =>
    endpoints.flatMap((one) => one.addresses),
  );
  return [{ kind: 'service', key: keyOf(service) }, ...ips.map((ip): Topic => ({ kind: 'ip', cluster, ip }))];
}

function policyText(
  { index, settings }: LookupContext,
  service: Service,
  { port }: Authority,
  { ns }: ContextToken,
): string {
  const policy = clientPolicy(service.metadata, settings.allowL5dRequestHeaders);
  const routed = serviceRoutes(index, keyOf(service), port, ns) !== undefined;
  return encodeClientPolicy(routed ? { ...policy, routed } : policy);
}

type ServiceAuthority = Authority & { kind: 'service' };

export function requireService(index: ClusterIndex, key: ResourceKey): Service {
  const service = index.service(key);
  if (service === undefined) {
    throw new CallError(status.NOT_FOUND, `Service ${key.namespace}/${key.name} does not exist`);
  }
  if (service.spec.type === 'ExternalName') {
    throw new CallError(status.INVALID_ARGUMENT, `Service ${key.namespace}/${key.name} is an ExternalName`);
  }
  return service;
}

function endpointsOf(
  context: LookupContext,
  service: Service,
  authority: ServiceAuthority,
  token: ContextToken,
): Endpoints {
  const { index, settings, cluster } = context;
  const zone = index.zoneOfNode(cluster, token.nodeName);
  const local = service.spec.internalTrafficPolicy === 'Local';
  const family = preferredFamily(service, token);
  if (!hasSelector(service)) {
    const wanted = { authority, local, nodeName: token.nodeName, zone };
    return byAddress(
      sliceEndpoints(service, index.slices(service), wanted, family).map((address) => {
        const meshPod = address.gateway === undefined ? index.podsOfIp(cluster, address.ip)[0] : undefined;
        if (meshPod !== undefined) return podAddress(meshPod, address, { zone }, settings);
        const external = index.externalWorkloadsAt(cluster, address.ip, address.port)[0];
        return external === undefined || address.gateway !== undefined
          ? sliceAddress(address, { zone })
          : externalAddress(external, address, { zone }, settings);
      }),
    );
  }
  const backends = index.backends(service);
  const made = podEndpoints.get(backends) ?? new Map<string, Endpoints>();
  podEndpoints.set(backends, made);
  const asked = [authority.port, authority.instance, family, zone, local ? token.nodeName : ''].join('/');
  const known = made.get(asked);
  if (known !== undefined) return known;
  if (made.size >= VIEWS_MAX) made.clear();
  // A port that the service does not have is taken for a target port, as Linkerd does.
  const target =
    service.spec.ports.find((port) => port.port === authority.port && port.protocol === 'TCP')?.targetPort ??
    authority.port;
  const { instance, name } = authority;
  const pods = backends.filter(({ pod: { spec } }) => {
    if (local && spec.nodeName !== token.nodeName) return false;
    return instance === '' || (spec.hostname === instance && spec.subdomain === name);
  });
  // They run on no node, and have no host name in the cluster.
  const external = local || instance !== '' ? [] : index.externalBackends(service);
  const wanted = [
    ...pods.map((meshPod) => podBackend(meshPod, zone, settings)),
    ...external.map((workload) => externalBackend(workload, zone, settings)),
  ];
  const endpoints = byAddress(
    inZone(wanted, index.zoneHints(service), zone).flatMap(({ ips, portNames, address }) => {
      const port = typeof target === 'number' ? target : portNames.get(target);
      return port === undefined ? [] : [address({ ip: addressFor(ips, family), port })];
    }),
  );
  made.set(asked, endpoints);
  return endpoints;
}

/** Whoever asks for ever other ports of a service shall not fill the memory. */
const VIEWS_MAX = 1000;

const byAddress = (addresses: readonly WeightedAddr[]): Endpoints =>
  new Map(addresses.map((address) => [addressKey(address), address]));

/** A pod or an external workload behind a service. */
interface Backend {
  readonly ips: readonly string[];
  readonly portNames: ReadonlyMap<string, number>;
  readonly address: (at: EndpointAddress) => WeightedAddr;
}

const podBackend = (meshPod: MeshPod, zone: string, settings: MeshSettings): Backend => ({
  ips: meshPod.pod.status.podIPs,
  portNames: meshPod.portNames,
  address: (at) => podAddress(meshPod, at, { zone }, settings),
});

const externalBackend = (workload: ExternalWorkload, zone: string, settings: MeshSettings): Backend => ({
  ips: workload.spec.workloadIps,
  portNames: portNamesOf(workload),
  address: (at) => externalAddress(workload, at, { zone }, settings),
});

/** Those whose hints name the client's zone; all of them if one has no hint, or none is for that zone. */
function inZone(
  backends: readonly Backend[],
  hints: ReadonlyMap<string, readonly string[]>,
  zone: string,
): readonly Backend[] {
  const near: Backend[] = [];
  for (const backend of backends) {
    const zones = backend.ips.flatMap((ip) => hints.get(ip) ?? []);
    if (zones.length === 0) return backends;
    if (zones.includes(zone)) near.push(backend);
  }
  return near.length === 0 ? backends : near;
}

/** One address each: of the wanted family, or the first. */
const addressFor = (ips: readonly string[], family: 'IPv4' | 'IPv6'): string =>
  ips.find((ip) => familyOf(ip) === family) ?? ips[0] ?? '';

/** The family that was dialled, or that the service prefers. */
function preferredFamily(service: Service, { ipFamily }: ContextToken): 'IPv4' | 'IPv6' {
  if (ipFamily !== '') return ipFamily === 'IPv6' ? 'IPv6' : 'IPv4';
  return familyOf(service.spec.clusterIPs[0] ?? '');
}

const addressKey = ({ addr }: WeightedAddr): string => {
  const ip = addr?.ip?.ip;
  const text = ip?.$case === 'ipv6' ? `${ip.ipv6.first}:${ip.ipv6.last}` : String(ip?.ipv4);
  return `${text}/${addr?.port}`;
};
