// SPDX-License-Identifier: Apache-2.0
// Destination.GetProfile: what stands behind an address or a name. A ClusterIP or a service's name gives the
// service's profile, a pod's address the endpoint, any other address a bare endpoint: "nothing known".

import { portsContain } from '#lib/core/addresses.ts';
import type { EncodedMessage, ServerStream } from '#lib/grpc/call.ts';
import { DestinationProfile, type GetDestination } from '#lib/proto/gen/linkerd/destination.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import { type ExternalWorkload, keyOf, type ResourceKey, type Service } from '#lib/registry/model.ts';
import { hostPortsOf } from '#lib/registry/workload-config.ts';
import { bareAddress, type EndpointAddress, externalAddress, podAddress } from './addresses.ts';
import type { Authority } from './authority.ts';
import type { ClusterIndex, Topic } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import { type LookupContext, type LookupTarget, requireService } from './get.ts';
import { opaquePortsOf } from './external-workloads.ts';
import type { MeshPod } from './mesh-pod.ts';
import { defaultBudget, findProfile } from './service-profile.ts';
import { hasPort, serviceProtocol } from './service-protocol.ts';
import { familyOf } from './slice-endpoints.ts';
import { CallError, status } from '#lib/grpc/status.ts';
import { sharedMessage } from './shared-message.ts';
import { StreamState, type StreamStateOptions } from './stream-state.ts';

export function serveGetProfile(
  context: LookupContext,
  request: GetDestination,
  call: ServerStream<DestinationProfile>,
  token: ContextToken,
): void {
  new ServedProfile(context, call, context.targets.of(request.path), token).begin();
}

/** One stream. What it refers to is others', too, but for the state that it keeps itself. */
class ServedProfile implements StreamStateOptions<DestinationProfile> {
  readonly stream: ServerStream<DestinationProfile>;
  readonly #context: LookupContext;
  readonly #target: LookupTarget;
  readonly #token: ContextToken;
  readonly #state: StreamState<DestinationProfile>;
  #sent: EncodedMessage | undefined;

  constructor(
    context: LookupContext,
    stream: ServerStream<DestinationProfile>,
    target: LookupTarget,
    token: ContextToken,
  ) {
    this.stream = stream;
    this.#context = context;
    this.#target = target;
    this.#token = token;
    this.#state = new StreamState(this);
  }

  get index(): ClusterIndex {
    return this.#context.index;
  }

  begin(): void {
    this.#state.follow(this.#target.topics);
    this.#state.refresh();
  }

  difference(): readonly EncodedMessage[] {
    const { authority, topics } = this.#target;
    const found =
      authority.kind === 'ip'
        ? ofIp(this.#context, authority, topics, this.#token)
        : ofName(this.#context, authority, topics, this.#token);
    this.#state.follow(found.topics);
    const now = sharedMessage(DestinationProfile.encode(found.profile).finish());
    if (this.#sent !== undefined && (now === this.#sent || now.equals(this.#sent))) return [];
    this.#sent = now;
    return [now];
  }
}

interface Found {
  readonly profile: DestinationProfile;
  /** What to listen to from now on. */
  readonly topics: readonly Topic[];
}

function ofIp(
  context: LookupContext,
  address: EndpointAddress,
  topics: readonly Topic[],
  token: ContextToken,
): Found {
  const { index, cluster } = context;
  const service = onlyOne(index.servicesOfIp(cluster, address.ip), `services with ${address.ip}`);
  if (service !== undefined && service.spec.type !== 'ExternalName') {
    return {
      profile: serviceProfile(context, service, address.port, token),
      topics: [...topics, { kind: 'service', key: keyOf(service) }],
    };
  }
  const pod = onlyOne(index.podsOfIp(cluster, address.ip), `pods with ${address.ip}`);
  if (pod !== undefined) return { profile: endpointProfile(context, pod, address, token), topics };
  const { ip, port } = address;
  const behind = onlyOne(index.podsOfHostPort(cluster, ip, port), `pods behind ${ip}:${port}`);
  if (behind === undefined) {
    const external = index.externalWorkloadsAt(cluster, ip, port);
    const workload = onlyOne(external, `external workloads at ${ip}:${port}`);
    if (workload !== undefined) {
      return { profile: externalProfile(context, workload, address, token), topics };
    }
  }
  const at = behind === undefined ? address : behindHostPort(behind, address);
  return { profile: endpointProfile(context, behind, at, token), topics };
}

/** Who has a clue that is no clue is told nothing. */
function onlyOne<T>(found: readonly T[], what: string): T | undefined {
  if (found.length > 1) throw new CallError(status.FAILED_PRECONDITION, `found ${found.length} ${what}`);
  return found[0];
}

/** The pod's own address and port: nothing leads from the node's address to where the pod takes mesh traffic. */
function behindHostPort({ pod }: MeshPod, { ip, port }: EndpointAddress): EndpointAddress {
  const own = pod.status.podIPs.find((one) => familyOf(one) === familyOf(ip));
  const target = hostPortsOf(pod).find(({ hostPort }) => hostPort === port);
  return own === undefined || target === undefined ? { ip, port } : { ip: own, port: target.containerPort };
}

function ofName(
  context: LookupContext,
  authority: Authority & { kind: 'service' },
  topics: readonly Topic[],
  token: ContextToken,
): Found {
  const { index, cluster } = context;
  const key: ResourceKey = { cluster, namespace: authority.namespace, name: authority.name };
  if (index.service(key) === undefined) {
    // Not NOT_FOUND, as with Linkerd.
    throw new CallError(status.UNKNOWN, `service "${key.namespace}/${key.name}" not found`);
  }
  const service = requireService(index, key);
  if (authority.instance === '')
    return { profile: serviceProfile(context, service, authority.port, token), topics };
  const pod = index
    .backends(service)
    .find(({ pod }) => pod.spec.hostname === authority.instance && pod.spec.subdomain === authority.name);
  const ip = pod?.pod.status.podIPs[0];
  if (ip === undefined) {
    throw new CallError(
      status.NOT_FOUND,
      `${authority.instance} is no pod of service ${key.namespace}/${key.name}`,
    );
  }
  return { profile: endpointProfile(context, pod, { ip, port: authority.port }, token), topics };
}

const empty: DestinationProfile = {
  fullyQualifiedName: '',
  opaqueProtocol: false,
  retryBudget: undefined,
  routes: [],
  dstOverrides: [],
  endpoint: undefined,
  parentRef: undefined,
  profileRef: undefined,
};

function serviceProfile(
  context: LookupContext,
  service: Service,
  port: number,
  token: ContextToken,
): DestinationProfile {
  const { settings } = context;
  const { name, namespace } = service.metadata;
  // The client must leave a port that is not there alone: Linkerd says so by an empty profile.
  if (!hasPort(service, port)) return empty;
  const fullyQualifiedName = `${name}.${namespace}.svc.${settings.clusterDomain}`;
  const found = findProfile(context.index, service, fullyQualifiedName, port, token.ns);
  return {
    ...empty,
    ...found.parts,
    fullyQualifiedName,
    opaqueProtocol: serviceProtocol(context, service, port) === 'opaque',
    parentRef: resource('core', 'Service', name, namespace, port),
    profileRef: resource('linkerd.io', 'ServiceProfile', found.name, found.namespace, 0),
  };
}

function endpointProfile(
  context: LookupContext,
  meshPod: MeshPod | undefined,
  address: EndpointAddress,
  token: ContextToken,
): DestinationProfile {
  const { index, settings, cluster } = context;
  if (meshPod === undefined) return { ...empty, endpoint: bareAddress(address), retryBudget: defaultBudget };
  const requester = { zone: index.zoneOfNode(cluster, token.nodeName) };
  const endpoint = podAddress(meshPod, address, requester, settings);
  return {
    ...empty,
    opaqueProtocol: portsContain(meshPod.config.opaquePorts, address.port),
    retryBudget: defaultBudget,
    endpoint: {
      ...endpoint,
      metricLabels: { ...endpoint.metricLabels, namespace: meshPod.pod.metadata.namespace },
    },
  };
}

function externalProfile(
  { index, settings, cluster }: LookupContext,
  workload: ExternalWorkload,
  address: EndpointAddress,
  token: ContextToken,
): DestinationProfile {
  const { metadata } = workload;
  const requester = { zone: index.zoneOfNode(cluster, token.nodeName) };
  const endpoint = externalAddress(workload, address, requester, settings);
  return {
    ...empty,
    opaqueProtocol: portsContain(opaquePortsOf(workload, settings), address.port),
    retryBudget: defaultBudget,
    endpoint: { ...endpoint, metricLabels: { ...endpoint.metricLabels, namespace: metadata.namespace } },
  };
}

const resource = (group: string, kind: string, name: string, namespace: string, port: number): Metadata => ({
  kind: { $case: 'resource', resource: { group, kind, name, namespace, section: '', port } },
});
