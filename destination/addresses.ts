// SPDX-License-Identifier: Apache-2.0
// Endpoints as clients are told of them: address, identity, how to reach the proxy, labels for metrics.

import { portsContain } from '#lib/core/addresses.ts';
import { MESH_PORT } from '#lib/core/mesh-ports.ts';
import { socketToWire } from '#lib/proto/addresses.ts';
import { durationOfMs } from '#lib/proto/durations.ts';
import {
  type Http2ClientParams,
  type ProtocolHint,
  type TlsIdentity,
  WeightedAddr,
} from '#lib/proto/gen/linkerd/destination.ts';
import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import type { ExternalWorkload } from '#lib/registry/model.ts';
import { PROXY_CONTAINER } from '#lib/registry/sidecar.ts';
import { type Advertised, advertised } from './advertised.ts';
import { opaquePortsOf } from './external-workloads.ts';
import type { MeshPod } from './mesh-pod.ts';
import type { SliceAddress } from './slice-endpoints.ts';

export const ENDPOINT_WEIGHT = 10_000;

export interface Requester {
  readonly zone: string;
}

export interface EndpointAddress {
  readonly ip: string;
  readonly port: number;
}

/** Everybody who follows a service in one zone is told the same: one object, not one for each stream. */
const made = new WeakMap<MeshPod, Map<string, WeightedAddr>>();

export function podAddress(
  meshPod: MeshPod,
  address: EndpointAddress,
  requester: Requester,
  settings: MeshSettings,
): WeightedAddr {
  const ofPod = made.get(meshPod) ?? new Map<string, WeightedAddr>();
  made.set(meshPod, ofPod);
  const key = `${address.ip}/${address.port}/${requester.zone}`;
  const known = ofPod.get(key);
  if (known !== undefined) return known;
  // Whoever asks for ever other ports of a pod shall not fill the memory.
  if (ofPod.size >= ADDRESSES_PER_POD_MAX) ofPod.clear();
  const result = makeAddress(meshPod, address, requester, settings);
  ofPod.set(key, result);
  return result;
}

const ADDRESSES_PER_POD_MAX = 64;

const texts = new WeakMap<WeightedAddr, string>();

/** To compare two of them. */
export function addressText(address: WeightedAddr): string {
  const known = texts.get(address);
  if (known !== undefined) return known;
  const text = Buffer.from(WeightedAddr.encode(address).finish()).toString('latin1');
  texts.set(address, text);
  return text;
}

function makeAddress(
  meshPod: MeshPod,
  { ip, port }: EndpointAddress,
  requester: Requester,
  settings: MeshSettings,
): WeightedAddr {
  const { pod, config } = meshPod;
  const mesh = advertised(meshPod, settings);
  // Traffic to a skipped port never reaches the proxy.
  const secured = mesh !== undefined && !portsContain(config.skipInboundPorts, port);
  return {
    ...bareAddress({ ip, port }),
    metricLabels: {
      pod: pod.metadata.name,
      ...(meshPod.owner.kind === '' ? {} : { [meshPod.owner.kind]: meshPod.owner.name }),
      serviceaccount: pod.spec.serviceAccountName,
      ...(mesh === undefined ? {} : { control_plane_ns: mesh.controlPlane }),
      ...labelOf('pod_template_hash', pod.metadata.labels['pod-template-hash']),
      ...labelOf('zone', meshPod.zone),
      zone_locality: zoneLocality(requester.zone, meshPod.zone),
    },
    ...(secured
      ? {
          tlsIdentity: mesh.identity === '' ? undefined : tlsIdentity(mesh.identity),
          protocolHint: hintOf(mesh, port, portsContain(config.opaquePorts, port)),
          http2: http2Params,
        }
      : {}),
  };
}

const tlsIdentity = (name: string): TlsIdentity => ({
  strategy: { $case: 'dnsLikeIdentity', dnsLikeIdentity: { name } },
  serverName: { name },
});

/** Linkerd's defaults. */
const http2Params: Http2ClientParams = {
  keepAlive: { interval: durationOfMs(10_000), timeout: durationOfMs(3_000), whileIdle: true },
};

function hintOf({ inboundPort, ownPorts, http2 }: Advertised, port: number, opaque: boolean): ProtocolHint {
  const own = ownPorts.includes(port);
  return {
    protocol: opaque ? { $case: 'opaque', opaque: {} } : http2 && !own ? { $case: 'h2', h2: {} } : undefined,
    opaqueTransport: own ? undefined : { inboundPort },
  };
}

/** An address that stands in an EndpointSlice and is no pod's. */
export function sliceAddress({ ip, port, zone, gateway }: SliceAddress, requester: Requester): WeightedAddr {
  const bare = bareAddress({ ip, port });
  const metricLabels = { zone_locality: zoneLocality(requester.zone, zone) };
  if (gateway === undefined) return { ...bare, metricLabels };
  const { identity, authority } = gateway;
  return {
    ...bare,
    metricLabels,
    authorityOverride: authority === '' ? undefined : { authorityOverride: authority },
    ...(identity === ''
      ? {}
      : {
          // Clients take the identity for the server's name.
          tlsIdentity: { ...tlsIdentity(identity), serverName: undefined },
          protocolHint: { protocol: { $case: 'h2', h2: {} }, opaqueTransport: undefined },
          http2: http2Params,
        }),
  };
}

/** An address of an external workload: its proxy speaks all that Linkerd's does, and is asked for nothing less. */
export function externalAddress(
  workload: ExternalWorkload,
  { ip, port }: EndpointAddress,
  requester: Requester,
  settings: MeshSettings,
): WeightedAddr {
  const { metadata, spec } = workload;
  const zone = metadata.labels['topology.kubernetes.io/zone'] ?? '';
  const owner = metadata.ownerReferences.length === 1 ? metadata.ownerReferences[0] : undefined;
  const opaque = portsContain(opaquePortsOf(workload, settings), port);
  return {
    ...bareAddress({ ip, port }),
    metricLabels: {
      ...(owner === undefined ? {} : labelOf(owner.kind.toLowerCase(), owner.name)),
      external_workload: metadata.name,
      ...labelOf('zone', zone),
      zone_locality: zoneLocality(requester.zone, zone),
    },
    tlsIdentity: {
      strategy: { $case: 'uriLikeIdentity', uriLikeIdentity: { uri: spec.meshTls.identity } },
      serverName: { name: spec.meshTls.serverName },
    },
    protocolHint: {
      protocol: opaque ? { $case: 'opaque', opaque: {} } : { $case: 'h2', h2: {} },
      opaqueTransport: {
        inboundPort: spec.ports.find(({ name }) => name === PROXY_CONTAINER)?.port ?? MESH_PORT,
      },
    },
    http2: http2Params,
  };
}

/** An address of which nothing is known. */
export const bareAddress = ({ ip, port }: EndpointAddress): WeightedAddr => ({
  addr: socketToWire(ip, port),
  weight: ENDPOINT_WEIGHT,
  metricLabels: {},
  tlsIdentity: undefined,
  protocolHint: undefined,
  http2: undefined,
  authorityOverride: undefined,
  resourceRef: undefined,
});

const labelOf = (name: string, value: string | undefined): Record<string, string> =>
  value === undefined || value === '' ? {} : { [name]: value };

const zoneLocality = (from: string, to: string): string => {
  if (from === '' || to === '') return 'unknown';
  return from === to ? 'local' : 'remote';
};
