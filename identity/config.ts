// SPDX-License-Identifier: Apache-2.0
// Every setting of the identity service. Nothing else reads the environment.

import {
  asDurationMs,
  asListen,
  asOneOf,
  asText,
  type ConfigOf,
  loadConfig,
  setting,
} from '#lib/core/config.ts';
import { asRegistrySource, REGISTRY_DOC } from '#lib/registry/registry-source.ts';

export const identitySettings = {
  listen: setting('NODEMESH_LISTEN', '[::]:8080', asListen, 'Where Certify is served, ip:port.'),
  adminListen: setting(
    'NODEMESH_ADMIN_LISTEN',
    '[::]:9990',
    asListen,
    'Where /live, /ready and /metrics are served, ip:port.',
  ),
  cluster: setting('NODEMESH_CLUSTER', 'local', asText, 'The cluster part of every key.'),
  trustDomain: setting('NODEMESH_TRUST_DOMAIN', 'cluster.local', asText, 'identityTrustDomain.'),
  identityNamespace: setting(
    'NODEMESH_IDENTITY_NAMESPACE',
    'linkerd',
    asText,
    'identity.namespace: the part of identities after "identity."',
  ),
  namespace: setting('NODEMESH_NAMESPACE', 'nodemesh', asText, 'The namespace the mesh is installed in.'),
  agentServiceAccount: setting(
    'NODEMESH_AGENT_SERVICE_ACCOUNT',
    'nodemesh-agent',
    asText,
    "The agents' ServiceAccount in that namespace.",
  ),
  anchorsFile: setting(
    'NODEMESH_TRUST_ANCHORS_FILE',
    undefined,
    asText,
    'Trust anchors, PEM; reloaded when it changes.',
  ),
  issuerCertFile: setting(
    'NODEMESH_ISSUER_CERT_FILE',
    undefined,
    asText,
    "The issuer's certificate and further intermediates, PEM; reloaded when it changes.",
  ),
  issuerKeyFile: setting('NODEMESH_ISSUER_KEY_FILE', undefined, asText, "The issuer's ECDSA key, PEM."),
  leafLifetimeMs: setting('NODEMESH_LEAF_LIFETIME', '24h', asDurationMs, 'How long certificates last.'),
  clockSkewMs: setting(
    'NODEMESH_CLOCK_SKEW',
    '20s',
    asDurationMs,
    'Added to both ends of a validity, for clocks that differ.',
  ),
  registry: setting('NODEMESH_REGISTRY', 'kubernetes', asRegistrySource, REGISTRY_DOC),
  tokenKeyFile: setting(
    'NODEMESH_TOKEN_KEY_FILE',
    '',
    asText,
    "With a folder: public key (PEM) of the local mesh's token signer.",
  ),
  logLevel: setting('NODEMESH_LOG_LEVEL', 'info', asOneOf('error', 'warn', 'info', 'debug'), 'Log level.'),
} as const;

export type IdentityConfig = ConfigOf<typeof identitySettings>;

export const loadIdentityConfig = (env: Readonly<Record<string, string | undefined>>): IdentityConfig =>
  loadConfig(identitySettings, env);
