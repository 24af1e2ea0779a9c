// SPDX-License-Identifier: Apache-2.0
// Endpoints of services without a selector: somebody else writes their EndpointSlices, such as the API server for
// `kubernetes.default`, or a person for a database outside the cluster.

import type { EndpointSlice, Service, SliceEndpoint } from '#lib/registry/model.ts';
import type { EndpointAddress } from './addresses.ts';
import { type Gateway, gatewayOf } from './mirrors.ts';

export const hasSelector = ({ spec }: Service): boolean =>
  spec.selector !== undefined && Object.keys(spec.selector).length > 0;

export const familyOf = (ip: string): 'IPv4' | 'IPv6' => (ip.includes(':') ? 'IPv6' : 'IPv4');

export interface SliceAddress extends EndpointAddress {
  readonly zone: string;
  readonly gateway: Gateway | undefined;
}

export interface WantedEndpoints {
  readonly authority: { readonly port: number; readonly instance: string };
  /** Only of the client's own node. */
  readonly local: boolean;
  readonly nodeName: string;
  readonly zone: string;
}

export function sliceEndpoints(
  service: Service,
  slices: Iterable<EndpointSlice>,
  { authority, local, nodeName, zone }: WantedEndpoints,
  family: 'IPv4' | 'IPv6',
): readonly SliceAddress[] {
  const found: (SliceAddress & { readonly forZones: readonly string[] })[] = [];
  const servicePort = service.spec.ports.find(
    ({ port, protocol }) => port === authority.port && protocol === 'TCP',
  );
  const takes = (endpoint: SliceEndpoint): boolean =>
    endpoint.ready &&
    (!local || endpoint.nodeName === nodeName) &&
    (authority.instance === '' || endpoint.hostname === authority.instance);
  for (const slice of slices) {
    // The ports of slices are found by the name of the service's port.
    const port =
      servicePort === undefined
        ? authority.port
        : slice.ports.find(({ name, protocol }) => name === servicePort.name && protocol === 'TCP')?.port;
    if (port === undefined) continue;
    const gateway = gatewayOf(slice.metadata, authority.port);
    for (const endpoint of slice.endpoints.filter(takes)) {
      const { zone: ofZone, forZones = [] } = endpoint;
      for (const ip of endpoint.addresses) found.push({ ip, port, gateway, zone: ofZone, forZones });
    }
  }
  // Each family has slices of its own for the same endpoints: one family is used, the other if there is no other.
  const preferred = found.filter(({ ip }) => familyOf(ip) === family);
  const usable = preferred.length > 0 ? preferred : found;
  const near = usable.filter(({ forZones }) => forZones.includes(zone));
  const hinted = near.length > 0 && usable.every(({ forZones }) => forZones.length > 0);
  return (hinted ? near : usable).map(({ forZones: _, ...address }) => address);
}
