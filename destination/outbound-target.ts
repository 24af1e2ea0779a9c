// SPDX-License-Identifier: Apache-2.0
// What an outbound policy is asked for: a port of a service, by name or address, or an address outside the cluster. Of
// addresses inside it that are no service's nothing is said: NOT_FOUND, and the client goes by the profile.

import { networkContains, parseIp, parseNetwork } from '#lib/core/addresses.ts';
import { socketFromWire } from '#lib/proto/addresses.ts';
import type { TrafficSpec } from '#lib/proto/gen/linkerd/outbound.ts';
import { keyOf, type ResourceKey, type Service } from '#lib/registry/model.ts';
import type { EndpointAddress } from './addresses.ts';
import { authorityHost, parseServiceName } from './authority.ts';
import type { Topic } from './cluster-index.ts';
import type { LookupContext } from './get.ts';
import { CallError, status } from '#lib/grpc/status.ts';

export type Target =
  | {
      readonly kind: 'service';
      readonly key: ResourceKey;
      /** Undefined: there is none of that name. */
      readonly service: Service | undefined;
      readonly port: number;
      /** It was asked for by its address: then the port must be one of its own. */
      readonly byAddress: boolean;
    }
  | { readonly kind: 'outside'; readonly address: EndpointAddress };

export interface FoundTarget {
  readonly target: Target;
  /** What may make it another one. */
  readonly topics: readonly Topic[];
}

/** Checks the question at once; the answer is found anew with every call. */
export function outboundTarget(context: LookupContext, request: TrafficSpec): () => FoundTarget {
  switch (request.target?.$case) {
    case 'addr':
      return byAddress(context, socketFromWire(request.target.addr));
    case 'authority':
      return byName(context, request.target.authority);
    case undefined:
      throw new CallError(status.INVALID_ARGUMENT, 'a policy is asked for by address or authority');
  }
}

function byAddress(
  { index, settings, cluster }: LookupContext,
  address: EndpointAddress | undefined,
): () => FoundTarget {
  if (address === undefined || address.port < 1 || address.port > 65_535) {
    throw new CallError(status.INVALID_ARGUMENT, 'no address with a port from 1 to 65535');
  }
  const { ip, port } = address;
  const bytes = parseIp(ip);
  const inCluster = settings.clusterNetworks.some((text) => {
    const network = parseNetwork(text);
    return network !== undefined && bytes !== undefined && networkContains(network, bytes);
  });
  const topic: Topic = { kind: 'ip', cluster, ip };
  return () => {
    const service = index.servicesOfIp(cluster, ip)[0];
    if (service !== undefined && service.spec.type !== 'ExternalName') {
      const key = keyOf(service);
      return {
        target: { kind: 'service', key, service, port, byAddress: true },
        topics: [topic, { kind: 'service', key }],
      };
    }
    if (inCluster) throw new CallError(status.NOT_FOUND, `No such service: ${ip}`);
    return { target: { kind: 'outside', address }, topics: [topic] };
  };
}

function byName({ index, settings, cluster }: LookupContext, authority: string): () => FoundTarget {
  let host: string;
  let port: number;
  try {
    ({ host, port } = authorityHost(authority));
  } catch (error) {
    throw new CallError(status.INVALID_ARGUMENT, `Invalid authority: ${(error as Error).message}`);
  }
  let name: ReturnType<typeof parseServiceName>;
  try {
    name = parseServiceName(host.replace(/\.$/, ''), settings.clusterDomain);
  } catch (error) {
    throw new CallError(status.NOT_FOUND, `No such service: ${(error as Error).message}`);
  }
  if (name.instance !== '') throw new CallError(status.NOT_FOUND, `No such service: ${host}`);
  const key: ResourceKey = { cluster, namespace: name.namespace, name: name.name };
  return () => ({
    target: { kind: 'service', key, service: index.service(key), port, byAddress: false },
    topics: [{ kind: 'service', key }],
  });
}
