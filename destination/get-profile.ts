// SPDX-License-Identifier: Apache-2.0
// Destination.GetProfile: what stands behind an address or a name. A ClusterIP or a service's name gives the
// service's profile, a pod's address the endpoint, any other address a bare endpoint: "nothing known".

import type { ServerWritableStream } from '@grpc/grpc-js';
import { type PortRange, portsContain } from '#lib/core/addresses.ts';
import { DestinationProfile, type GetDestination } from '#lib/proto/gen/linkerd/destination.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import { keyOf, type ResourceKey, type Service } from '#lib/registry/model.ts';
import { serviceOpaquePorts } from '#lib/registry/workload-config.ts';
import { bareAddress, type EndpointAddress, podAddress } from './addresses.ts';
import { type Authority, parseAuthority } from './authority.ts';
import type { Topic } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import { type LookupContext, requireService } from './get.ts';
import type { MeshPod } from './mesh-pod.ts';
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
    const service = index.serviceOfIp(cluster, address.ip);
    if (service !== undefined && service.spec.type !== 'ExternalName') {
      return {
        profile: serviceProfile(context, service, address.port),
        topics: [topic, { kind: 'service', key: keyOf(service) }],
      };
    }
    const pod = index.podOfIp(cluster, address.ip);
    return { profile: endpointProfile(context, pod, address, token), topics: [topic] };
  };
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
    const service = requireService(index, key);
    if (authority.instance === '')
      return { profile: serviceProfile(context, service, authority.port), topics };
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
  dstOverrides: [],
  endpoint: undefined,
  parentRef: undefined,
  profileRef: undefined,
};

const defaultBudget = {
  retryRatio: 0.2,
  minRetriesPerSecond: 10,
  ttl: { seconds: 10n, nanos: 0 },
};

function serviceProfile(context: LookupContext, service: Service, port: number): DestinationProfile {
  const { settings, index } = context;
  const { name, namespace } = service.metadata;
  // The client must leave a port that is not there alone: Linkerd says so by an empty profile.
  if (!service.spec.ports.some((one) => one.port === port && one.protocol === 'TCP')) return empty;
  const opaque = serviceOpaquePorts(service.metadata, index.namespace(service.cluster, namespace), settings);
  return {
    ...empty,
    fullyQualifiedName: `${name}.${namespace}.svc.${settings.clusterDomain}`,
    opaqueProtocol: isOpaque(service, port, opaque),
    retryBudget: defaultBudget,
    parentRef: resource('core', 'Service', name, namespace, port),
    profileRef: resource('linkerd.io', 'ServiceProfile', '', namespace, 0),
  };
}

/** A port's appProtocol wins over the lists; one that is not known means opaque (as in Linkerd's policies). */
function isOpaque(service: Service, port: number, opaquePorts: readonly PortRange[]): boolean {
  const appProtocol = service.spec.ports.find((one) => one.port === port)?.appProtocol ?? '';
  if (appProtocol === '') return portsContain(opaquePorts, port);
  return appProtocol !== 'http' && appProtocol !== 'kubernetes.io/h2c';
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

const resource = (group: string, kind: string, name: string, namespace: string, port: number): Metadata => ({
  kind: { $case: 'resource', resource: { group, kind, name, namespace, section: '', port } },
});
