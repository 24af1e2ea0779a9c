// SPDX-License-Identifier: Apache-2.0
// Every value of the agents and their CNI plugin: those of Linkerd's CNI chart where it has one, ours below `nodemesh`.
// Chart nodemesh-cni, the checks of `mesh install-cni` and docs/reference/cni-values.md come from here.

import { ownVersion } from '#lib/version/own-version.ts';
import { field, modelOf, resources, type ValuesModel } from './value-fields.ts';
import {
  anyText,
  choice,
  dnsLabel,
  domain,
  domainOrEmpty,
  folder,
  freeList,
  image,
  imageHost,
  names,
  serverAddress,
  tag,
  textMap,
} from './value-types.ts';

/** Kubernetes expands nothing in these and runs the agents on every node, whatever its taints. */
const EVERY_TAINT = [{ operator: 'Exists' }];

export const cniValues: ValuesModel = modelOf({
  table: {
    clusterDomain: field(
      'cluster.local',
      domain,
      "The domain that services' names end in; as in the control plane.",
    ),
    identityTrustDomain: field(
      '',
      domainOrEmpty,
      'The end of every identity, as in the control plane; empty: clusterDomain.',
    ),
    identity: {
      namespace: field(
        'linkerd',
        dnsLabel,
        'The part of identities after "identity.", as in the control plane.',
      ),
    },
    destCNINetDir: field('/etc/cni/net.d', folder, "The nodes' folder of CNI configurations."),
    destCNIBinDir: field('/opt/cni/bin', folder, "The nodes' folder of CNI plugins."),
    logLevel: field('info', choice('error', 'warn', 'info', 'debug'), 'Log level of the agents.'),
    image: {
      pullPolicy: field('IfNotPresent', choice('Always', 'IfNotPresent', 'Never'), 'Of every image.'),
    },
    imagePullSecrets: field([], freeList, 'Names of Secrets: `- name: x`.'),
    priorityClassName: field('system-node-critical', anyText, 'Priority class of agents and keepers.'),
    tolerations: field(EVERY_TAINT, freeList, 'Of agents and keepers: every taint.'),
    resources: resources('the agent', '100m', '256Mi'),
    podLabels: field({}, textMap, 'Further labels of the pods.'),
    commonLabels: field({}, textMap, 'Further labels of every object.'),
    nodemesh: {
      version: field(ownVersion(), tag, 'Tag of every image.'),
      registry: field('', imageHost, 'Put before the names of images, with a slash.'),
      agentImage: field('nodemesh/agent', image, 'Image of the agent, without host and tag.'),
      keeperImage: field('nodemesh/keeper', image, 'Image of the keeper, without host and tag.'),
      nodeSelector: field({ 'kubernetes.io/os': 'linux' }, textMap, 'The nodes that are part of the mesh.'),
      sameNode: field(
        'memory',
        choice('memory', 'carrier', 'mtls'),
        'How two meshed pods of one node speak: HTTP in memory, or over a connection without TLS, or with mutual TLS.',
      ),
      linkerd: {
        destinationAddress: field(
          '',
          serverAddress,
          "Name and port of a stock Linkerd's destination, such as linkerd-dst.linkerd.svc.cluster.local:8086: agents then ask it for endpoints and profiles. All four of these, or none.",
        ),
        destinationIdentity: field('', domainOrEmpty, 'TLS identity that it must prove.'),
        policyAddress: field(
          '',
          serverAddress,
          'Name and port of its policy service, such as linkerd-policy.linkerd.svc.cluster.local:8090: agents then ask it for outbound policies.',
        ),
        policyIdentity: field('', domainOrEmpty, 'TLS identity that it must prove.'),
      },
      excludeNamespaces: field(
        '',
        names,
        "Namespaces whose pods never wait for the agent, beside the mesh's own and kube-system.",
      ),
      keeperResources: resources('the keeper', '5m', '16Mi'),
      installerResources: resources('the installer of the CNI plugin', '5m', '64Mi'),
    },
  },
  ignoredKeys: [
    'createdByAnnotation',
    'disableIPv6',
    'enablePSP',
    'extraInitContainers',
    'ignoreInboundPorts',
    'ignoreOutboundPorts',
    'image.name',
    'image.version',
    'inboundProxyPort',
    'iptablesMode',
    'outboundProxyPort',
    'portsToRedirect',
    'privileged',
    'proxyAdminPort',
    'proxyControlPort',
    'proxyGID',
    'proxyUID',
    'repairController',
    'resources.ephemeral-storage',
    'revisionHistoryLimit',
    'skipSubnets',
    'updateStrategy',
    'useWaitFlag',
  ],
  page: 'docs/reference/cni-values.md',
});
