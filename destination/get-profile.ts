// SPDX-License-Identifier: Apache-2.0
// Destination.GetProfile: what stands behind an address or a name. A ClusterIP or a service's name gives the
// service's profile, a pod's address the endpoint, any other address a bare endpoint: "nothing known".

import type { ServerWritableStream } from '@grpc/grpc-js';
import { portsContain } from '#lib/core/addresses.ts';
import { DestinationProfile, type GetDestination } from '#lib/proto/gen/linkerd/destination.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import { type ExternalWorkload, keyOf, type ResourceKey, type Service } from '#lib/registry/model.ts';
import { hostPortsOf } from '#lib/registry/workload-config.ts';
import { bareAddress, type EndpointAddress, externalAddress, podAddress } from './addresses.ts';
import { type Authority, parseAuthority } from './authority.ts';
import type { Topic } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import { type LookupContext, requireService } from './get.ts';
import { opaquePortsOf } from './external-workloads.ts';
import type { MeshPod } from './mesh-pod.ts';
import { defaultBudget, findProfile } from './service-profile.ts';
import { hasPort, serviceProtocol } from './service-protocol.ts';
import { familyOf } from './slice-endpoints.ts';
import { CallError, status } from './status.ts';
import { StreamState } from './stream-state.ts';

export function serveGetProfile(
  context: LookupContext,
  call: ServerWritableStream<GetDestination, DestinationProfile>,
  token: ContextToken,
): void {
  const { index, settings, cluster } = context;
  let authority: Authority;
  try {
    authority = parseAuthority(call.request.path, settings.clusterDomain);
  } catch (error) {
    throw new CallError(status.INVALID_ARGUMENT, `Invalid authority: ${(error as Error).message}`);
  }
  const lookup =
    authority.kind === 'ip' ? ofIp(context, authority, token) : ofName(context, authority, token);
  let sent: string | undefined;
  const state = new StreamState<DestinationProfile>({
    index,
    stream: call,
    difference: () => {
      const { profile, topics } = lookup();
      state.follow(topics);
      const encoded = Buffer.from(DestinationProfile.encode(profile).finish()).toString('base64');
      if (encoded === sent) return [];
      sent = encoded;
      return [profile];
    },
  });
  state.follow(
    authority.kind === 'ip'
      ? [{ kind: 'ip', cluster, ip: authority.ip }]
      : [{ kind: 'service', key: { cluster, namespace: authority.namespace, name: authority.name } }],
  );
  state.refresh();
}

interface Found {
  readonly profile: DestinationProfile;
  /** What to listen to from now on. */
  readonly topics: readonly Topic[];
}

function ofIp(context: LookupContext, address: EndpointAddress, token: ContextToken): () => Found {
  const { index, cluster } = context;
  const topic: Topic = { kind: 'ip', cluster, ip: address.ip };
  return () => {
    const service = onlyOne(index.servicesOfIp(cluster, address.ip), `services with ${address.ip}`);
    if (service !== undefined && service.spec.type !== 'ExternalName') {
      return {
        profile: serviceProfile(context, service, address.port, token),
        topics: [topic, { kind: 'service', key: keyOf(service) }],
      };
    }
    const pod = onlyOne(index.podsOfIp(cluster, address.ip), `pods with ${address.ip}`);
    if (pod !== undefined) return { profile: endpointProfile(context, pod, address, token), topics: [topic] };
    const { ip, port } = address;
    const behind = onlyOne(index.podsOfHostPort(cluster, ip, port), `pods behind ${ip}:${port}`);
    if (behind === undefined) {
      const external = index.externalWorkloadsAt(cluster, ip, port);
      const workload = onlyOne(external, `external workloads at ${ip}:${port}`);
      if (workload !== undefined) {
        return { profile: externalProfile(context, workload, address, token), topics: [topic] };
      }
    }
    const at = behind === undefined ? address : behindHostPort(behind, address);
    return { profile: endpointProfile(context, behind, at, token), topics: [topic] };
  };
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
  token: ContextToken,
): () => Found {
  const { index, cluster } = context;
  const key: ResourceKey = { cluster, namespace: authority.namespace, name: authority.name };
  const topics: Topic[] = [{ kind: 'service', key }];
  return () => {
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
  };
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
