// SPDX-License-Identifier: Apache-2.0
// The effective configuration of a pod: its annotations over its namespace's over the cluster's settings, with
// Linkerd's names and rules. Whether the pod is meshed at all is decided in eligibility.ts.

import { type PortRange, parsePorts } from '#lib/core/addresses.ts';
import { AnnotationReader, LONGEST_MS, parseGoBool, parseSubnets } from './annotations.ts';
import { type InboundPolicy, inboundPolicies, type MeshSettings } from './mesh-settings.ts';
import type { Container, Namespace, ObjectMeta, Pod } from './model.ts';

export interface WorkloadConfig {
  readonly skipInboundPorts: readonly PortRange[];
  readonly skipOutboundPorts: readonly PortRange[];
  readonly skipSubnets: readonly string[];
  readonly opaquePorts: readonly PortRange[];
  readonly defaultInboundPolicy: InboundPolicy;
  /** Ports whose default policy becomes its authenticated variant. */
  readonly requireIdentityPorts: readonly PortRange[];
  /** nodemesh.io/client-address=proxy: the application sees the proxy's address, as with Linkerd. */
  readonly clientAddressOfProxy: boolean;
  readonly accessLog: '' | 'apache' | 'json';
  readonly outboundConnectTimeoutMs: number;
  readonly inboundConnectTimeoutMs: number;
  readonly outboundDetectTimeoutMs: number;
  readonly inboundDetectTimeoutMs: number;
  readonly tapDisabled: boolean;
  readonly externalProfiles: boolean;
}

export interface EffectiveConfig {
  readonly config: WorkloadConfig;
  /** Values that cannot be used, for an Event on the pod. */
  readonly warnings: readonly string[];
}

export const DETECT_TIMEOUT_MS = 10_000;
const OUTBOUND_CONNECT_TIMEOUT_MS = 1_000;
const INBOUND_CONNECT_TIMEOUT_MS = 100;

const linkerd = (name: string): string => `config.linkerd.io/${name}`;
export const OPAQUE_PORTS_ANNOTATION = linkerd('opaque-ports');

export function effectiveConfig(
  pod: Pod,
  namespace: Namespace | undefined,
  settings: MeshSettings,
): EffectiveConfig {
  const reader = new AnnotationReader(pod.metadata, namespace?.metadata);
  const ports = (name: string, named?: ReadonlyMap<string, number>): PortRange[] | undefined => {
    const key = linkerd(name);
    const text = reader.text(key);
    if (text === undefined) return undefined;
    return parsePorts(text, named, (item) =>
      reader.warn(key, text, `"${item}" is no port or range of ports`),
    );
  };
  const subnets = reader.text(linkerd('skip-subnets')) ?? '';
  const detectTimeout = (direction: string): number =>
    reader.flag(linkerd(`proxy-disable-${direction}-protocol-detect-timeout`), false)
      ? LONGEST_MS
      : DETECT_TIMEOUT_MS;

  const config: WorkloadConfig = {
    // Appended to the cluster's list; every other list replaces it.
    skipInboundPorts: [...settings.skipInboundPorts, ...(ports('skip-inbound-ports') ?? [])],
    skipOutboundPorts: ports('skip-outbound-ports') ?? settings.skipOutboundPorts,
    skipSubnets: parseSubnets(subnets, (item) =>
      reader.warn(linkerd('skip-subnets'), subnets, `"${item}" is no network`),
    ),
    opaquePorts: ports('opaque-ports', containerPortNames(pod)) ?? settings.defaultOpaquePorts,
    defaultInboundPolicy: inboundPolicyOf(reader, settings),
    requireIdentityPorts: ports('proxy-require-identity-inbound-ports') ?? [],
    clientAddressOfProxy:
      reader.read('nodemesh.io/client-address', '"proxy" or "client"', (text) =>
        text === 'proxy' || text === 'client' ? text : undefined,
      ) === 'proxy',
    accessLog:
      reader.read(linkerd('access-log'), '"apache" or "json"', (text) =>
        text === 'apache' || text === 'json' ? text : undefined,
      ) ?? '',
    outboundConnectTimeoutMs: reader.durationMs(
      linkerd('proxy-outbound-connect-timeout'),
      OUTBOUND_CONNECT_TIMEOUT_MS,
    ),
    inboundConnectTimeoutMs: reader.durationMs(
      linkerd('proxy-inbound-connect-timeout'),
      INBOUND_CONNECT_TIMEOUT_MS,
    ),
    outboundDetectTimeoutMs: detectTimeout('outbound'),
    inboundDetectTimeoutMs: detectTimeout('inbound'),
    tapDisabled: reader.flag('viz.linkerd.io/disable-tap', false),
    externalProfiles: reader.flag(linkerd('enable-external-profiles'), false),
  };
  warnOfGateway(pod, reader);
  return { config, warnings: reader.warnings };
}

/** Of a pod alone, as with Linkerd. What cannot be a gateway must not look like one. */
function warnOfGateway({ metadata }: Pod, reader: AnnotationReader): void {
  const key = linkerd('enable-gateway');
  const text = metadata.annotations[key] ?? '';
  if (parseGoBool(text) !== true) return;
  reader.warn(key, text, 'no pod is a gateway: connections that ask for a service by its name are refused');
}

/** Fails closed: a policy that cannot be read lets nobody in. */
export function inboundPolicyOf(reader: AnnotationReader, settings: MeshSettings): InboundPolicy {
  const key = linkerd('default-inbound-policy');
  const text = reader.text(key)?.trim() ?? '';
  if (text === '') return settings.defaultInboundPolicy;
  const policy = inboundPolicies.find((name) => name === text);
  if (policy !== undefined) return policy;
  reader.warn(key, text, `expected one of ${inboundPolicies.join(', ')}; nothing is allowed in until it is`);
  return 'deny';
}

/** All containers of a pod that may serve: init containers too (sidecars with restartPolicy Always). */
export const containersOf = (pod: Pod): readonly Container[] => [
  ...pod.spec.initContainers,
  ...pod.spec.containers,
];

/** TCP ports of the node that lead to ports of the pod. In the node's network they are the same, as the API server sets them. */
export const hostPortsOf = (
  pod: Pod,
): readonly { readonly hostPort: number; readonly containerPort: number }[] =>
  containersOf(pod)
    .flatMap(({ ports }) => ports)
    .filter(({ protocol }) => protocol === 'TCP')
    .map(({ hostPort, containerPort }) => ({
      hostPort: hostPort === 0 && pod.spec.hostNetwork ? containerPort : hostPort,
      containerPort,
    }))
    .filter(({ hostPort }) => hostPort > 0);

/** Names of TCP container ports. */
export function containerPortNames(pod: Pod): ReadonlyMap<string, number> {
  const names = new Map<string, number>();
  for (const container of containersOf(pod)) {
    for (const port of container.ports) {
      if (port.name !== '' && port.protocol === 'TCP' && !names.has(port.name)) {
        names.set(port.name, port.containerPort);
      }
    }
  }
  return names;
}

/** Opaque ports of a Service: exactly its annotation, else its namespace's, else the cluster's default list. */
export function serviceOpaquePorts(
  service: ObjectMeta,
  namespace: Namespace | undefined,
  settings: MeshSettings,
): readonly PortRange[] {
  const text =
    service.annotations[OPAQUE_PORTS_ANNOTATION] ?? namespace?.metadata.annotations[OPAQUE_PORTS_ANNOTATION];
  return text === undefined ? settings.defaultOpaquePorts : parsePorts(text);
}
