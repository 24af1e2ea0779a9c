// SPDX-License-Identifier: Apache-2.0
// Every value of the installation: default, type and meaning. Linkerd's keys where Linkerd has one, ours below
// `nodemesh`. The charts' values.yaml and values.schema.json, the checks of `mesh install` and
// docs/reference/values.md come from here.

import { ownVersion } from '#lib/version/own-version.ts';
import {
  DEFAULT_CLUSTER_NETWORKS,
  DEFAULT_OPAQUE_PORTS,
  DEFAULT_SKIP_PORTS,
  inboundPolicies,
} from '#lib/registry/mesh-settings.ts';
import {
  anyText,
  choice,
  dnsLabel,
  domain,
  domainOrEmpty,
  flag,
  freeList,
  freeMap,
  goDuration,
  image,
  imageHost,
  integer,
  networks,
  pem,
  ports,
  tag,
  taintKey,
  textMap,
  url,
} from './value-types.ts';
import { field, modelOf, resources, type ValuesModel, type ValuesTable } from './value-fields.ts';

const valuesTable: ValuesTable = {
  clusterDomain: field('cluster.local', domain, "The domain that services' names end in."),
  clusterNetworks: field(
    DEFAULT_CLUSTER_NETWORKS,
    networks,
    'Networks of pods and services; the cluster-* policies let them in.',
  ),
  identityTrustDomain: field('', domainOrEmpty, 'The end of every identity; empty: clusterDomain.'),
  identityTrustAnchorsPEM: field(
    '',
    pem,
    'Trust anchors. `mesh install` makes them together with an issuer if neither is given; Helm needs them.',
  ),
  identity: {
    namespace: field(
      'linkerd',
      dnsLabel,
      'The part of identities after "identity.", also the label control_plane_ns of metrics. Not the namespace of the installation.',
    ),
    externalCA: field(
      false,
      flag,
      'Another program keeps ConfigMap linkerd-identity-trust-roots: it is not rendered.',
    ),
    issuer: {
      scheme: field(
        'linkerd.io/tls',
        choice('linkerd.io/tls', 'kubernetes.io/tls'),
        'kubernetes.io/tls: another program (cert-manager) keeps Secret linkerd-identity-issuer with tls.crt and tls.key.',
      ),
      clockSkewAllowance: field('20s', goDuration, 'Added to both ends of a validity.'),
      issuanceLifetime: field('24h0m0s', goDuration, 'How long certificates of workloads last.'),
      tls: {
        crtPEM: field('', pem, "The issuer's certificate."),
        keyPEM: field('', pem, "The issuer's ECDSA key.", true),
      },
    },
  },
  proxy: {
    defaultInboundPolicy: field(
      'all-unauthenticated',
      choice(...inboundPolicies),
      'Policy of pods that name none.',
    ),
    opaquePorts: field(DEFAULT_OPAQUE_PORTS, ports, 'Opaque ports of pods and services that name none.'),
  },
  proxyInit: {
    ignoreInboundPorts: field(
      DEFAULT_SKIP_PORTS,
      ports,
      "Inbound ports that pass by the mesh; pods' own are added.",
    ),
    ignoreOutboundPorts: field(
      DEFAULT_SKIP_PORTS,
      ports,
      'Outbound ports that pass by the mesh, of pods that name none.',
    ),
  },
  webhookFailurePolicy: field(
    'Ignore',
    choice('Ignore', 'Fail'),
    'What the API server does with policies while the webhook does not answer.',
  ),
  controllerImage: field('nodemesh/controller', image, 'Image of the control plane, without host and tag.'),
  controllerReplicas: field(1, integer(1, 100), 'Replicas of each part of the control plane.'),
  controllerUID: field(2103, integer(1, 2_147_483_647), 'User of the control plane.'),
  controllerGID: field(-1, integer(-1, 2_147_483_647), 'Group of the control plane; -1: of the image.'),
  controllerLogLevel: field('info', choice('error', 'warn', 'info', 'debug'), 'Log level.'),
  imagePullPolicy: field('IfNotPresent', choice('Always', 'IfNotPresent', 'Never'), 'Of every image.'),
  imagePullSecrets: field([], freeList, 'Names of Secrets: `- name: x`.'),
  identityResources: resources('identity'),
  destinationResources: resources('destination'),
  policyValidatorResources: resources('the webhook'),
  highAvailability: field(false, flag, 'Set by --ha; `mesh check` then asks for three replicas.'),
  enablePodAntiAffinity: field(
    false,
    flag,
    'Replicas stand on different nodes, and where it can be in different zones.',
  ),
  enablePodDisruptionBudget: field(false, flag, 'Drains take one replica at a time.'),
  controller: {
    podDisruptionBudget: {
      maxUnavailable: field(1, integer(1, 100), 'How many replicas of a part may be away in a drain.'),
    },
  },
  deploymentStrategy: field(
    { rollingUpdate: { maxSurge: '25%', maxUnavailable: '25%' } },
    freeMap,
    'Strategy of every Deployment.',
  ),
  priorityClassName: field('', anyText, 'Priority class of the control plane.'),
  runtimeClassName: field('', anyText, 'Runtime class of the control plane.'),
  nodeSelector: field({ 'kubernetes.io/os': 'linux' }, textMap, 'Node selector of the control plane.'),
  nodeAffinity: field({}, freeMap, 'Node affinity of the control plane.'),
  tolerations: field([], freeList, 'Further tolerations of the control plane.'),
  podAnnotations: field({}, textMap, 'Further annotations of the pods of the control plane.'),
  podLabels: field({}, textMap, 'Further labels of the pods of the control plane.'),
  commonLabels: field({}, textMap, 'Further labels of every object.'),
  prometheusUrl: field('', url, 'Where `mesh stat` asks for metrics, unless it is told otherwise.'),
  nodemesh: {
    version: field(ownVersion(), tag, 'Tag of every image.'),
    registry: field('', imageHost, 'Put before the names of images, with a slash.'),
    besideLinkerd: field(
      false,
      flag,
      "Linkerd's injector runs in this cluster: only namespaces labelled config.linkerd.io/admission-webhooks=disabled are ours.",
    ),
    allowL5dRequestHeaders: field(
      false,
      flag,
      'Requests may set timeouts and retries for themselves (l5d-timeout, l5d-retry-http, …).',
    ),
    startupTaint: field(
      'nodemesh.io/agent-not-ready',
      taintKey,
      'Key of the taint that new nodes carry until their agent is ready; the control plane tolerates it.',
    ),
  },
};

/** What `--ha` changes. */
export const highAvailabilityValues = {
  controllerReplicas: 3,
  enablePodAntiAffinity: true,
  enablePodDisruptionBudget: true,
  highAvailability: true,
  webhookFailurePolicy: 'Fail',
  priorityClassName: 'system-cluster-critical',
  deploymentStrategy: { rollingUpdate: { maxUnavailable: 1, maxSurge: '25%' } },
  identityResources: { cpu: { request: '100m' }, memory: { request: '96Mi', limit: '250Mi' } },
  destinationResources: { cpu: { request: '100m' }, memory: { request: '128Mi', limit: '500Mi' } },
  policyValidatorResources: { cpu: { request: '100m' }, memory: { request: '96Mi', limit: '250Mi' } },
};

const ignoredKeys: readonly string[] = [
  'cniEnabled',
  'configReaders',
  'controllerLogFormat',
  'controlPlaneTracing',
  'debugContainer',
  'destinationController',
  'destinationProxyResources',
  'disableHeartBeat',
  'disableIPv6',
  'egress',
  'enableEndpointSlices',
  'enableH2Upgrade',
  'enablePprof',
  'heartbeatResources',
  'heartbeatSchedule',
  'identityProxyResources',
  'identity.additionalEnv',
  'identity.kubeAPI',
  'identity.serviceAccountTokenProjection',
  'kubeAPI',
  'linkerdVersion',
  'networkValidator',
  'podMonitor',
  'policyController',
  'policyValidator',
  'profileValidator',
  'proxyInjector',
  'proxyInjectorProxyResources',
  'proxyInjectorResources',
  'revisionHistoryLimit',
  'spValidator',
  'spValidatorResources',
  'proxy.*',
  'proxyInit.*',
];

export const controlPlaneValues: ValuesModel = modelOf({
  table: valuesTable,
  ignoredKeys,
  page: 'docs/reference/values.md',
});

export const fields = controlPlaneValues.fields;

export const privatePaths: readonly string[] = [...fields].flatMap(([path, { isPrivate }]) =>
  isPrivate ? [path] : [],
);
