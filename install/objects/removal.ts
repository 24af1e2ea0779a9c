// SPDX-License-Identifier: Apache-2.0
// What takes the mesh off the nodes: a DaemonSet in kube-system, which works when the mesh's own namespace is gone.
// Its first step takes the plugin out of the chain while the agents still run; the second waits for their end and
// removes the rest, the plugin last. Its pods are ready when nothing is left.

import { creator, namespace, type ObjectGroup, type TreeMap, value } from '../tree.ts';
import { COMPONENT_LABEL, CONTROL_PLANE_LABEL, imageOf } from './common.ts';

export const REMOVAL_NAME = 'nodemesh-cni-removal';
export const REMOVAL_NAMESPACE = 'kube-system';
const COMPONENT = 'cni-removal';
/** Everything is one process after the other; no request is served. */
const RESOURCES = { requests: { cpu: '5m', memory: '64Mi' } };

const folders = [
  ['cni-conf', value('destCNINetDir'), '/host/etc/cni/net.d'],
  ['cni-bin', value('destCNIBinDir'), '/host/opt/cni/bin'],
  ['run', '/run', '/host/run'],
  ['lib', '/var/lib', '/host/var/lib'],
  ['bpffs', '/sys/fs/bpf', '/sys/fs/bpf'],
] as const;

const step = (verb: string): TreeMap => ({
  name: verb,
  image: imageOf('nodemesh.agentImage'),
  imagePullPolicy: value('image.pullPolicy'),
  command: ['node', 'daemonset/remove.ts', verb],
  resources: RESOURCES,
  securityContext: {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    // As the installer: the plugins' folder may belong to another user.
    capabilities: { drop: ['ALL'], ...(verb === 'stay' ? {} : { add: ['DAC_OVERRIDE'] }) },
  },
  ...(verb === 'stay' ? {} : { volumeMounts: folders.map(([name, , mountPath]) => ({ name, mountPath })) }),
});

const labels: TreeMap = {
  'app.kubernetes.io/name': 'nodemesh',
  'app.kubernetes.io/part-of': 'nodemesh',
  [CONTROL_PLANE_LABEL]: namespace,
  [COMPONENT_LABEL]: COMPONENT,
};

export const removal: ObjectGroup = {
  name: 'removal',
  objects: [
    {
      apiVersion: 'apps/v1',
      kind: 'DaemonSet',
      metadata: {
        name: REMOVAL_NAME,
        namespace: REMOVAL_NAMESPACE,
        labels,
        annotations: { 'nodemesh.io/created-by': creator },
      },
      spec: {
        selector: { matchLabels: { [COMPONENT_LABEL]: COMPONENT } },
        template: {
          metadata: { labels, annotations: { 'linkerd.io/inject': 'disabled' } },
          spec: {
            automountServiceAccountToken: false,
            hostNetwork: true,
            nodeSelector: value('nodemesh.nodeSelector'),
            tolerations: value('tolerations'),
            priorityClassName: 'system-node-critical',
            imagePullSecrets: value('imagePullSecrets'),
            terminationGracePeriodSeconds: 1,
            securityContext: {
              runAsUser: 0,
              appArmorProfile: { type: 'Unconfined' },
              seLinuxOptions: { type: 'spc_t', level: 's0' },
              seccompProfile: { type: 'RuntimeDefault' },
            },
            initContainers: [step('unchain'), step('finish')],
            containers: [step('stay')],
            volumes: folders.map(([name, path]) => ({ name, hostPath: { path, type: 'DirectoryOrCreate' } })),
          },
        },
      },
    },
  ],
};
