// SPDX-License-Identifier: Apache-2.0
// What the pods on every node have in common: a DaemonSet in the node's network, before any network plugin works.

import { given, merge, type Tree, type TreeMap, value, when } from '../tree.ts';
import { annotations, COMPONENT_LABEL, componentLabels, imageOf, metadata, resourcesOf } from './common.ts';
import { capabilityRights, type NodeContainer, nodeFolders } from './node-rights.ts';

export interface NodeContainerOptions {
  readonly name: NodeContainer;
  readonly image: 'nodemesh.agentImage' | 'nodemesh.keeperImage';
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env: readonly TreeMap[];
  readonly mounts: readonly TreeMap[];
  readonly resources: string;
  readonly more?: Readonly<Record<string, Tree>>;
}

export function nodeContainer(options: NodeContainerOptions): TreeMap {
  const { name, command, args, env } = options;
  const add = capabilityRights
    .filter(({ container }) => container === name)
    .map(({ capability }) => capability);
  return {
    name,
    image: imageOf(options.image),
    imagePullPolicy: value('image.pullPolicy'),
    // `mesh check` says why one does not start.
    terminationMessagePolicy: 'FallbackToLogsOnError',
    ...(command === undefined ? {} : { command }),
    ...(args === undefined ? {} : { args }),
    ...(env.length === 0 ? {} : { env }),
    ...options.more,
    resources: resourcesOf(options.resources),
    securityContext: {
      // Kubernetes lets nobody with SYS_ADMIN say that.
      ...(add.includes('SYS_ADMIN') ? {} : { allowPrivilegeEscalation: false }),
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'], ...(add.length === 0 ? {} : { add }) },
    },
    volumeMounts: [
      ...nodeFolders
        .filter(({ container }) => container === name)
        .map((folder) => ({
          name: folder.name,
          mountPath: folder.inContainer,
          ...(folder.readOnly === true ? { readOnly: true } : {}),
          ...(folder.follows === true ? { mountPropagation: 'HostToContainer' } : {}),
        })),
      ...options.mounts,
    ],
  };
}

export interface NodePodsOptions {
  /** Of DaemonSet and ServiceAccount. */
  readonly name: string;
  readonly component: string;
  readonly updateStrategy: TreeMap;
  readonly graceSeconds: number;
  readonly containers: readonly NodeContainerOptions[];
  /** Beside the folders of the node. */
  readonly volumes: readonly TreeMap[];
}

export function nodePods(options: NodePodsOptions): TreeMap {
  const names = new Set(options.containers.map(({ name }) => name));
  const folders = new Map(
    nodeFolders.filter(({ container }) => names.has(container)).map((folder) => [folder.name, folder]),
  );
  return {
    apiVersion: 'apps/v1',
    kind: 'DaemonSet',
    metadata: metadata(options.name, options.component),
    spec: {
      revisionHistoryLimit: 10,
      selector: { matchLabels: { [COMPONENT_LABEL]: options.component } },
      updateStrategy: options.updateStrategy,
      template: {
        metadata: {
          labels: merge(componentLabels(options.component), merge(value('podLabels'), value('commonLabels'))),
          annotations: { 'linkerd.io/inject': 'disabled', ...annotations },
        },
        spec: {
          serviceAccountName: options.name,
          automountServiceAccountToken: false,
          hostNetwork: true,
          // Names are a fallback: the pods reach the control plane by the ClusterIPs in their environment.
          dnsPolicy: 'ClusterFirstWithHostNet',
          enableServiceLinks: true,
          nodeSelector: value('nodemesh.nodeSelector'),
          tolerations: value('tolerations'),
          priorityClassName: when(given('priorityClassName'), value('priorityClassName')),
          imagePullSecrets: when(given('imagePullSecrets'), value('imagePullSecrets')),
          terminationGracePeriodSeconds: options.graceSeconds,
          securityContext: {
            runAsUser: 0,
            // The usual profile forbids writing below /sys/fs/bpf, and SELinux folders of the node to all but this type.
            appArmorProfile: { type: 'Unconfined' },
            seLinuxOptions: { type: 'spc_t', level: 's0' },
            seccompProfile: { type: 'RuntimeDefault' },
          },
          containers: options.containers.map(nodeContainer),
          volumes: [
            ...[...folders.values()].map(({ name, onNode, type }) => ({
              name,
              hostPath: { path: onNode, type },
            })),
            ...options.volumes,
          ],
        },
      },
    },
  };
}
