// SPDX-License-Identifier: Apache-2.0
// The objects that a new cluster begins with: its nodes, what kube-proxy may read, and DNS.

import { CLUSTER_DOMAIN, type ClusterLayout, DNS_ADDRESS } from './layout.ts';
import { COREDNS_IMAGE } from './machine-files.ts';

const RBAC = 'rbac.authorization.k8s.io';

function bind(name: string, role: string, subject: object): object {
  return {
    apiVersion: `${RBAC}/v1`,
    kind: 'ClusterRoleBinding',
    metadata: { name },
    roleRef: { apiGroup: RBAC, kind: 'ClusterRole', name: role },
    subjects: [subject],
  };
}

export function baseObjects(layout: ClusterLayout): object[] {
  return [
    // Before their kubelets, so that each has its pod network whatever the order.
    ...layout.nodes.map((node) => ({
      apiVersion: 'v1',
      kind: 'Node',
      metadata: {
        name: node.name,
        labels: {
          'kubernetes.io/hostname': node.name,
          'topology.kubernetes.io/region': 'region-a',
          'topology.kubernetes.io/zone': node.zone,
        },
      },
      spec: { podCIDR: node.podNetwork, podCIDRs: [node.podNetwork] },
    })),
    bind('nodemesh-kc-kube-proxy', 'system:node-proxier', {
      kind: 'User',
      apiGroup: RBAC,
      name: 'system:kube-proxy',
    }),
    ...dnsObjects(),
  ];
}

const COREFILE = `.:53 {
  errors
  health
  ready
  kubernetes ${CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {
    pods insecure
    fallthrough in-addr.arpa ip6.arpa
  }
  cache 5
}
`;

function dnsObjects(): object[] {
  const metadata = { name: 'coredns', namespace: 'kube-system', labels: { 'k8s-app': 'kube-dns' } };
  const read = (apiGroup: string, ...resources: string[]): object => ({
    apiGroups: [apiGroup],
    resources,
    verbs: ['list', 'watch'],
  });
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata },
    {
      apiVersion: `${RBAC}/v1`,
      kind: 'ClusterRole',
      metadata: { name: 'nodemesh-kc-coredns' },
      rules: [
        read('', 'services', 'pods', 'namespaces', 'nodes'),
        read('discovery.k8s.io', 'endpointslices'),
      ],
    },
    bind('nodemesh-kc-coredns', 'nodemesh-kc-coredns', {
      kind: 'ServiceAccount',
      name: 'coredns',
      namespace: 'kube-system',
    }),
    { apiVersion: 'v1', kind: 'ConfigMap', metadata, data: { Corefile: COREFILE } },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { ...metadata, name: 'kube-dns' },
      spec: {
        clusterIP: DNS_ADDRESS,
        selector: { 'k8s-app': 'kube-dns' },
        ports: [
          { name: 'dns', port: 53, protocol: 'UDP' },
          { name: 'dns-tcp', port: 53, protocol: 'TCP' },
        ],
      },
    },
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata,
      spec: {
        replicas: 1,
        selector: { matchLabels: { 'k8s-app': 'kube-dns' } },
        template: {
          metadata: { labels: { 'k8s-app': 'kube-dns' } },
          spec: {
            serviceAccountName: 'coredns',
            priorityClassName: 'system-cluster-critical',
            dnsPolicy: 'Default',
            tolerations: [{ operator: 'Exists' }],
            terminationGracePeriodSeconds: 1,
            containers: [
              {
                name: 'coredns',
                image: COREDNS_IMAGE,
                imagePullPolicy: 'Never',
                args: ['-conf', '/etc/coredns/Corefile'],
                volumeMounts: [{ name: 'config', mountPath: '/etc/coredns' }],
                readinessProbe: { httpGet: { path: '/ready', port: 8181 }, periodSeconds: 1 },
              },
            ],
            volumes: [{ name: 'config', configMap: { name: 'coredns' } }],
          },
        },
      },
    },
  ];
}
