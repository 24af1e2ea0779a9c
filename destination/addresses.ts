// SPDX-License-Identifier: Apache-2.0
// Endpoints as clients are told of them: address, identity, how to reach the proxy, labels for metrics.

import { portsContain } from '#lib/core/addresses.ts';
import { socketToWire } from '#lib/proto/addresses.ts';
import type { ProtocolHint, WeightedAddr } from '#lib/proto/gen/linkerd/destination.ts';
import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import { ENROLLED_CONDITION, podCondition } from '#lib/registry/model.ts';
import { isMeshed } from './cluster-index.ts';
import { ENROLLED_HTTP1_ONLY } from './enrolment-reports.ts';
import type { MeshPod } from './mesh-pod.ts';

/** The port on which every meshed pod takes mesh traffic, with a transport header. */
export const INBOUND_PORT = 4143;
const TAP_PORT = 4190;
const ADMIN_PORT = 4191;

export const ENDPOINT_WEIGHT = 10_000;

export interface Requester {
  readonly zone: string;
}

export interface EndpointAddress {
  readonly ip: string;
  readonly port: number;
}

export function podAddress(
  meshPod: MeshPod,
  { ip, port }: EndpointAddress,
  requester: Requester,
  settings: MeshSettings,
): WeightedAddr {
  const { pod, config, identity } = meshPod;
  // Traffic to a skipped port never reaches the proxy.
  const secured = isMeshed(meshPod) && !portsContain(config.skipInboundPorts, port);
  return {
    addr: socketToWire(ip, port),
    weight: ENDPOINT_WEIGHT,
    metricLabels: {
      pod: pod.metadata.name,
      ...(meshPod.owner.kind === '' ? {} : { [meshPod.owner.kind]: meshPod.owner.name }),
      serviceaccount: pod.spec.serviceAccountName,
      ...(isMeshed(meshPod) ? { control_plane_ns: settings.identityNamespace } : {}),
      ...labelOf('pod_template_hash', pod.metadata.labels['pod-template-hash']),
      ...labelOf('zone', meshPod.zone),
      zone_locality: zoneLocality(requester.zone, meshPod.zone),
    },
    tlsIdentity: secured
      ? {
          strategy: { $case: 'dnsLikeIdentity', dnsLikeIdentity: { name: identity } },
          serverName: { name: identity },
        }
      : undefined,
    protocolHint: secured ? hintOf(meshPod, port) : undefined,
    authorityOverride: undefined,
    resourceRef: undefined,
  };
}

function hintOf({ pod, config }: MeshPod, port: number): ProtocolHint {
  const own = port === TAP_PORT || port === ADMIN_PORT;
  const opaque = portsContain(config.opaquePorts, port);
  const http2 = !own && podCondition(pod, ENROLLED_CONDITION)?.reason !== ENROLLED_HTTP1_ONLY;
  return {
    protocol: opaque ? { $case: 'opaque', opaque: {} } : http2 ? { $case: 'h2', h2: {} } : undefined,
    opaqueTransport: own && !opaque ? undefined : { inboundPort: INBOUND_PORT },
  };
}

/** An address of which nothing is known. */
export const bareAddress = ({ ip, port }: EndpointAddress): WeightedAddr => ({
  addr: socketToWire(ip, port),
  weight: ENDPOINT_WEIGHT,
  metricLabels: {},
  tlsIdentity: undefined,
  protocolHint: undefined,
  authorityOverride: undefined,
  resourceRef: undefined,
});

const labelOf = (name: string, value: string | undefined): Record<string, string> =>
  value === undefined || value === '' ? {} : { [name]: value };

const zoneLocality = (from: string, to: string): string => {
  if (from === '' || to === '') return 'unknown';
  return from === to ? 'local' : 'remote';
};
