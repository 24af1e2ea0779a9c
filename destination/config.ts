// SPDX-License-Identifier: Apache-2.0
// Every setting of the destination service. Nothing else reads the environment.

import { parseNetwork, parsePorts, type PortRange } from '#lib/core/addresses.ts';
import { asList, asListen, asOneOf, asText, type ConfigOf, loadConfig, setting } from '#lib/core/config.ts';
import {
  DEFAULT_CLUSTER_NETWORKS,
  DEFAULT_OPAQUE_PORTS,
  DEFAULT_SKIP_PORTS,
  inboundPolicies,
  type MeshSettings,
} from '#lib/registry/mesh-settings.ts';
import { asRegistrySource, REGISTRY_DOC } from '#lib/registry/registry-source.ts';

function asPorts(text: string): readonly PortRange[] {
  return parsePorts(text, undefined, (item) => {
    throw new Error(`"${item}" is no port or range of ports`);
  });
}

function asNetworks(text: string): readonly string[] {
  const networks = asList(text);
  const bad = networks.find((network) => parseNetwork(network) === undefined);
  if (bad !== undefined) throw new Error(`"${bad}" is no network; expected CIDRs separated by commas`);
  return networks;
}

const asFlag = (text: string): boolean => asOneOf('true', 'false')(text) === 'true';

export const destinationSettings = {
  listen: setting(
    'NODEMESH_LISTEN',
    '[::]:8086',
    asListen,
    'Where Destination and the node stream are served, ip:port.',
  ),
  policyListen: setting(
    'NODEMESH_POLICY_LISTEN',
    '[::]:8090',
    asListen,
    "Where Linkerd's proxies ask for policy, ip:port.",
  ),
  adminListen: setting(
    'NODEMESH_ADMIN_LISTEN',
    '[::]:9996',
    asListen,
    'Where /live, /ready and /metrics are served, ip:port.',
  ),
  cluster: setting('NODEMESH_CLUSTER', 'local', asText, 'The cluster part of every key.'),
  namespace: setting('NODEMESH_NAMESPACE', 'nodemesh', asText, 'The namespace the mesh is installed in.'),
  agentServiceAccount: setting(
    'NODEMESH_AGENT_SERVICE_ACCOUNT',
    'nodemesh-agent',
    asText,
    "The agents' ServiceAccount in that namespace.",
  ),
  trustDomain: setting('NODEMESH_TRUST_DOMAIN', 'cluster.local', asText, 'identityTrustDomain.'),
  identityNamespace: setting(
    'NODEMESH_IDENTITY_NAMESPACE',
    'linkerd',
    asText,
    'identity.namespace: the part of identities after "identity."',
  ),
  clusterDomain: setting(
    'NODEMESH_CLUSTER_DOMAIN',
    'cluster.local',
    asText,
    "The domain that services' names end in.",
  ),
  anchorsFile: setting(
    'NODEMESH_TRUST_ANCHORS_FILE',
    undefined,
    asText,
    'Trust anchors, PEM; reloaded when it changes.',
  ),
  identityAddress: setting(
    'NODEMESH_IDENTITY_ADDRESS',
    undefined,
    asText,
    'ip:port of the identity service.',
  ),
  identityName: setting(
    'NODEMESH_IDENTITY_NAME',
    undefined,
    asText,
    'TLS identity that the identity service must prove.',
  ),
  identityTokenFile: setting(
    'NODEMESH_IDENTITY_TOKEN_FILE',
    undefined,
    asText,
    'Own ServiceAccount token, audience identity.l5d.io.',
  ),
  registry: setting('NODEMESH_REGISTRY', 'kubernetes', asRegistrySource, REGISTRY_DOC),
  tokenKeyFile: setting(
    'NODEMESH_TOKEN_KEY_FILE',
    '',
    asText,
    "With a folder: public key (PEM) of the local mesh's token signer.",
  ),
  clusterNetworks: setting(
    'NODEMESH_CLUSTER_NETWORKS',
    DEFAULT_CLUSTER_NETWORKS,
    asNetworks,
    'Networks of pods and services; the cluster-* policies let them in.',
  ),
  defaultInboundPolicy: setting(
    'NODEMESH_DEFAULT_INBOUND_POLICY',
    'all-unauthenticated',
    asOneOf(...inboundPolicies),
    'Policy of pods that name none.',
  ),
  defaultOpaquePorts: setting(
    'NODEMESH_DEFAULT_OPAQUE_PORTS',
    DEFAULT_OPAQUE_PORTS,
    asPorts,
    'Opaque ports of pods and services that name none.',
  ),
  skipInboundPorts: setting(
    'NODEMESH_SKIP_INBOUND_PORTS',
    DEFAULT_SKIP_PORTS,
    asPorts,
    "Inbound ports that pass by the mesh; pods' own are added.",
  ),
  skipOutboundPorts: setting(
    'NODEMESH_SKIP_OUTBOUND_PORTS',
    DEFAULT_SKIP_PORTS,
    asPorts,
    'Outbound ports of pods that name none.',
  ),
  startupTaint: setting(
    'NODEMESH_STARTUP_TAINT',
    'nodemesh.io/agent-not-ready',
    asText,
    'Key of the taint that new nodes carry until their agent is ready: taken off then.',
  ),
  besideLinkerd: setting(
    'NODEMESH_BESIDE_LINKERD',
    'false',
    asFlag,
    "Whether Linkerd's injector runs in the same cluster.",
  ),
  allowL5dRequestHeaders: setting(
    'NODEMESH_ALLOW_L5D_REQUEST_HEADERS',
    'false',
    asFlag,
    'Whether requests may set timeouts and retries for themselves (l5d-timeout, l5d-retry-http, …).',
  ),
  logLevel: setting('NODEMESH_LOG_LEVEL', 'info', asOneOf('error', 'warn', 'info', 'debug'), 'Log level.'),
} as const;

export type DestinationConfig = ConfigOf<typeof destinationSettings>;

export const loadDestinationConfig = (env: Readonly<Record<string, string | undefined>>): DestinationConfig =>
  loadConfig(destinationSettings, env);

export const meshSettings = (config: DestinationConfig): MeshSettings => ({
  namespace: config.namespace,
  trustDomain: config.trustDomain,
  identityNamespace: config.identityNamespace,
  clusterDomain: config.clusterDomain,
  clusterNetworks: config.clusterNetworks,
  defaultInboundPolicy: config.defaultInboundPolicy,
  defaultOpaquePorts: config.defaultOpaquePorts,
  skipInboundPorts: config.skipInboundPorts,
  skipOutboundPorts: config.skipOutboundPorts,
  besideLinkerd: config.besideLinkerd,
  allowL5dRequestHeaders: config.allowL5dRequestHeaders,
});
