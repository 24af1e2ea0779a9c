// SPDX-License-Identifier: Apache-2.0
// The label sets of the data path's series, rendered once and kept by whoever counts. Order and names as Linkerd
// writes them; every series of a pod ends with the pod's own labels.

import { formatSocketAddress } from '#lib/core/addresses.ts';
import { joinLabels, renderLabels } from '#lib/metrics/model.ts';
import type { Destination, Endpoint, ResourceReference, ServerPolicy, WorkerPod } from '../model.ts';

export const DIRECTION_INBOUND = 'direction="inbound"';
export const DIRECTION_OUTBOUND = 'direction="outbound"';

/** What is known of the peer of an inbound connection; fixed when the connection was accepted. */
export interface PeerTls {
  readonly kind: 'none' | 'port-skipped' | 'passthrough' | 'meshed' | 'anonymous';
  /** Of a meshed peer; otherwise ''. */
  readonly identity: string;
  /** Of TLS that was passed through. */
  readonly serverName: string;
  /** The peer is on this node, vouched for by the kernel instead of encrypted. */
  readonly sameNode: boolean;
}

export function podLabels(pod: WorkerPod, controlPlaneNamespace: string): string {
  return renderLabels({
    namespace: pod.namespace,
    pod: pod.name,
    ...(pod.ownerKind === '' ? {} : { [pod.ownerKind]: pod.ownerName }),
    control_plane_ns: controlPlaneNamespace,
    workload_ns: pod.namespace,
  });
}

export function targetLabels(ip: string, port: number): string {
  return renderLabels({
    target_addr: formatSocketAddress(ip, port),
    target_ip: ip,
    target_port: String(port),
  });
}

export function peerTlsLabels(peer: PeerTls): string {
  switch (peer.kind) {
    case 'meshed':
    case 'anonymous': {
      const labels = renderLabels({ tls: 'true', client_id: peer.identity });
      return peer.sameNode ? `${labels},same_node="true"` : labels;
    }
    case 'passthrough':
      return renderLabels({ tls: 'opaque', sni: peer.serverName });
    case 'port-skipped':
      return 'tls="no_identity",no_tls_reason="port_skipped"';
    case 'none':
      return 'tls="no_identity",no_tls_reason="no_tls_from_remote"';
  }
}

/** What a client dialled, as Linkerd names it: a Service, or what stands for one. */
export function parentOf(destination: Destination | undefined): ResourceReference {
  if (destination?.kind !== 'service') {
    return defaultReference(destination?.kind === 'endpoint' ? 'endpoint' : 'fallback');
  }
  // name.namespace.svc.cluster.local:port
  const [host = '', port = ''] = destination.authority.split(':');
  const [name = '', namespace = ''] = host.split('.');
  return { group: 'core', kind: 'Service', namespace, name, port: Number(port) };
}

/** The route of what no resource says anything about: that of a Service is named by protocol, others as their parent. */
export function defaultRouteOf(parent: ResourceReference, protocol: 'http' | 'opaq'): ResourceReference {
  return parent.kind === 'default' ? parent : defaultReference(protocol);
}

const defaultReference = (name: string): ResourceReference => ({
  group: '',
  kind: 'default',
  namespace: '',
  name,
  port: 0,
});

/** Labels of a Service that is dialled (`parent`) or that a route leads to (`backend`). */
export function serviceLabels(scope: 'parent' | 'backend', reference: ResourceReference): string {
  const { group, kind, namespace, name, port } = reference;
  return renderLabels({
    [`${scope}_group`]: group,
    [`${scope}_kind`]: kind,
    [`${scope}_namespace`]: namespace,
    [`${scope}_name`]: name,
    [`${scope}_port`]: port === 0 ? '' : String(port),
    [`${scope}_section_name`]: '',
  });
}

export function routeLabels({ group, kind, namespace, name }: ResourceReference): string {
  return renderLabels({
    route_group: group,
    route_kind: kind,
    route_namespace: namespace,
    route_name: name,
  });
}

/** How this side reaches an endpoint. */
export type UpstreamTls = 'mtls' | 'carrier' | 'plain' | 'loopback';

export function endpointLabels(authority: string | undefined, endpoint: Endpoint, tls: UpstreamTls): string {
  const tlsLabels =
    tls === 'plain'
      ? 'tls="no_identity",no_tls_reason="not_provided_by_service_discovery"'
      : tls === 'loopback'
        ? 'tls="no_identity",no_tls_reason="loopback"'
        : renderLabels({
            tls: 'true',
            server_id: endpoint.identity ?? '',
            same_node: tls === 'carrier' ? 'true' : undefined,
          });
  const discovered = Object.entries(endpoint.labels)
    .map(([name, value]) => [`dst_${name.replaceAll(/[^a-zA-Z0-9_]/g, '_')}`, value] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return [
    renderLabels({ authority }),
    targetLabels(endpoint.ip, endpoint.port),
    tlsLabels,
    renderLabels(Object.fromEntries(discovered)),
  ].reduce(joinLabels);
}

export function serverLabels(policy: ServerPolicy, port: number, scope: 'srv' | 'parent' = 'srv'): string {
  return renderLabels({
    [`${scope}_group`]: policy.labels['srv_group'] ?? policy.labels['group'] ?? '',
    [`${scope}_kind`]: policy.labels['srv_kind'] ?? policy.labels['kind'] ?? 'default',
    [`${scope}_name`]: policy.labels['srv_name'] ?? policy.labels['name'] ?? '',
    [`${scope}_port`]: String(port),
  });
}

/** The implicit route of a server without routes. */
export const DEFAULT_ROUTE_LABELS = 'route_group="",route_kind="default",route_name="default"';

export function authorizationLabels(labels: Readonly<Record<string, string>>): string {
  return renderLabels({
    authz_group: labels['authz_group'] ?? labels['group'] ?? '',
    authz_kind: labels['authz_kind'] ?? labels['kind'] ?? 'default',
    authz_name: labels['authz_name'] ?? labels['name'] ?? '',
  });
}
