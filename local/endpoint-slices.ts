// SPDX-License-Identifier: Apache-2.0
// EndpointSlices of Services that prefer endpoints of the client's own zone (`trafficDistribution`): each endpoint gets
// the hint of its zone. Others have none here: the mesh and the nodes' rules see endpoints from the pods.

import { isDeepStrictEqual } from 'node:util';
import {
  type EndpointSliceObject,
  isTerminating,
  labelsMatch,
  namespaceOf,
  podIsReady,
  type ServiceObject,
} from './objects.ts';
import type { Store } from './store.ts';

const ZONE_LABEL = 'topology.kubernetes.io/zone';
const families = ['IPv4', 'IPv6'] as const;

type Endpoints = EndpointSliceObject['endpoints'];

/** None if one of them has no zone: then nobody could be sure to get one. */
function endpointsOf(store: Store, service: ServiceObject, family: (typeof families)[number]): Endpoints {
  const { selector, trafficDistribution } = service.spec;
  if (selector === undefined || trafficDistribution === undefined) return [];
  const found: Endpoints[number][] = [];
  for (const pod of store.list('Pod')) {
    const { nodeName } = pod.spec;
    const chosen = namespaceOf(pod) === namespaceOf(service) && labelsMatch(selector, pod.metadata.labels);
    if (!chosen || isTerminating(pod) || !podIsReady(pod) || nodeName === undefined) continue;
    const zone = store.get('Node', '', nodeName)?.metadata.labels[ZONE_LABEL];
    if (zone === undefined) return [];
    const addresses = (pod.status.podIPs ?? [])
      .map(({ ip }) => ip)
      .filter((ip) => ip.includes(':') === (family === 'IPv6'));
    if (addresses.length > 0) {
      found.push({ addresses, nodeName, zone, hints: { forZones: [{ name: zone }] } });
    }
  }
  return found;
}

export function ensureEndpointSlices(store: Store): void {
  for (const service of store.list('Service')) {
    for (const family of families) {
      const name = `${service.metadata.name}-${family.toLowerCase()}`;
      const present = store.get('EndpointSlice', namespaceOf(service), name);
      const endpoints = endpointsOf(store, service, family);
      if (endpoints.length === 0) {
        if (present !== undefined) store.remove(present);
      } else if (!isDeepStrictEqual(present?.endpoints, endpoints)) {
        const { uid } = service.metadata;
        const owner = {
          apiVersion: 'v1',
          kind: 'Service',
          name: service.metadata.name,
          uid,
          controller: true,
        };
        store.put({
          apiVersion: 'discovery.k8s.io/v1',
          kind: 'EndpointSlice',
          // Goes with its Service.
          metadata:
            present?.metadata ??
            store.newMeta({
              name,
              namespace: namespaceOf(service),
              labels: { 'kubernetes.io/service-name': service.metadata.name },
              ownerReferences: [owner],
            }),
          addressType: family,
          endpoints,
        });
      }
    }
  }
}
