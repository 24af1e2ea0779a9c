// SPDX-License-Identifier: Apache-2.0
// Cluster-wide settings that decide what a pod's annotations mean, with Linkerd's defaults.

import { type PortRange, parsePorts } from '#lib/core/addresses.ts';

export const inboundPolicies = [
  'all-unauthenticated',
  'all-authenticated',
  'cluster-unauthenticated',
  'cluster-authenticated',
  'deny',
  'audit',
] as const;

export type InboundPolicy = (typeof inboundPolicies)[number];

export interface MeshSettings {
  /** Where the mesh itself is installed: its own pods are never meshed. */
  readonly namespace: string;
  readonly trustDomain: string;
  /** The part of identities after "identity."; also the value of control_plane_ns. */
  readonly identityNamespace: string;
  readonly clusterDomain: string;
  readonly clusterNetworks: readonly string[];
  readonly defaultInboundPolicy: InboundPolicy;
  readonly defaultOpaquePorts: readonly PortRange[];
  readonly skipInboundPorts: readonly PortRange[];
  readonly skipOutboundPorts: readonly PortRange[];
  /** Whether Linkerd's injector runs in the same cluster: then only namespaces that it leaves alone are ours. */
  readonly besideLinkerd: boolean;
  /** Whether requests may set timeouts and retries for themselves. */
  readonly allowL5dRequestHeaders: boolean;
}

export const DEFAULT_CLUSTER_NETWORKS = '10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8';
export const DEFAULT_OPAQUE_PORTS = '25,587,3306,4444,5432,6379,9300,11211';
export const DEFAULT_SKIP_PORTS = '4567,4568';

export const defaultMeshSettings: MeshSettings = {
  namespace: 'nodemesh',
  trustDomain: 'cluster.local',
  identityNamespace: 'linkerd',
  clusterDomain: 'cluster.local',
  clusterNetworks: DEFAULT_CLUSTER_NETWORKS.split(','),
  defaultInboundPolicy: 'all-unauthenticated',
  defaultOpaquePorts: parsePorts(DEFAULT_OPAQUE_PORTS),
  skipInboundPorts: parsePorts(DEFAULT_SKIP_PORTS),
  skipOutboundPorts: parsePorts(DEFAULT_SKIP_PORTS),
  besideLinkerd: false,
  allowL5dRequestHeaders: false,
};

/** The TLS identity of a ServiceAccount. */
export const identityOf = (
  serviceAccount: string,
  namespace: string,
  settings: Pick<MeshSettings, 'identityNamespace' | 'trustDomain'>,
): string =>
  `${serviceAccount}.${namespace}.serviceaccount.identity.${settings.identityNamespace}.${settings.trustDomain}`;
