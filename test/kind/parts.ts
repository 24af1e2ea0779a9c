// SPDX-License-Identifier: Apache-2.0
// Which programs run on the control plane's machine and on a node, with their arguments. What they read stands in
// machine-files.ts.

import { API_PORT, API_SOCKET, type ClusterLayout, type NodeLayout, SERVICE_NETWORK } from './layout.ts';
import type { Part } from './machine.ts';

const PKI = '/etc/kubernetes/pki';
const conf = (name: string): string => `/etc/kubernetes/${name}.conf`;

export type ControlPart = 'etcd' | 'kube-apiserver' | 'kube-controller-manager' | 'kube-scheduler';
export type NodePart = 'containerd' | 'kubelet' | 'kube-proxy';

const flags = (settings: Readonly<Record<string, string>>): string[] =>
  Object.entries(settings).map(([name, value]) => `--${name}=${value}`);

const answers = (url: string): string[] => [
  'curl',
  '--silent',
  '--fail',
  '--insecure',
  '--output',
  '/dev/null',
  url,
];

const controlHealth: Readonly<Record<ControlPart, string>> = {
  etcd: 'http://127.0.0.1:2379/health',
  'kube-apiserver': `https://127.0.0.1:${API_PORT}/readyz`,
  'kube-controller-manager': 'https://127.0.0.1:10257/healthz',
  'kube-scheduler': 'https://127.0.0.1:10259/healthz',
};

export function controlPart(layout: ClusterLayout, name: ControlPart): Part {
  return {
    name,
    argv: [`/opt/kubernetes/${name}`, ...flags(controlFlags(layout, name))],
    ready: answers(controlHealth[name]),
  };
}

/** Carries connections from a Unix socket, which namespaces do not divide, to the API server. */
export const apiSocketPart: Part = {
  name: 'api-socket',
  argv: ['/usr/bin/socat', `UNIX-LISTEN:${API_SOCKET},fork,unlink-early`, `TCP:127.0.0.1:${API_PORT}`],
  ready: ['test', '-S', API_SOCKET],
};

function controlFlags(layout: ClusterLayout, name: ControlPart): Record<string, string> {
  const ownConf = {
    kubeconfig: conf(name),
    'authentication-kubeconfig': conf(name),
    'authorization-kubeconfig': conf(name),
    'leader-elect': 'false',
  };
  switch (name) {
    case 'etcd':
      return {
        'data-dir': '/var/lib/etcd',
        'listen-client-urls': 'http://127.0.0.1:2379',
        'advertise-client-urls': 'http://127.0.0.1:2379',
        'listen-peer-urls': 'http://127.0.0.1:2380',
        // Nothing here shall survive the machine.
        'unsafe-no-fsync': 'true',
        'log-level': 'warn',
      };
    case 'kube-apiserver':
      return {
        'etcd-servers': 'http://127.0.0.1:2379',
        'advertise-address': layout.control.address,
        'secure-port': String(API_PORT),
        'service-cluster-ip-range': SERVICE_NETWORK,
        'client-ca-file': `${PKI}/ca.crt`,
        'tls-cert-file': `${PKI}/apiserver.crt`,
        'tls-private-key-file': `${PKI}/apiserver.key`,
        'authorization-mode': 'Node,RBAC',
        'enable-admission-plugins': 'NodeRestriction',
        'allow-privileged': 'true',
        // Webhooks are dialled at the pod's own address: there is no kube-proxy beside the API server.
        'enable-aggregator-routing': 'true',
        'kubelet-certificate-authority': `${PKI}/ca.crt`,
        'kubelet-client-certificate': `${PKI}/apiserver-kubelet-client.crt`,
        'kubelet-client-key': `${PKI}/apiserver-kubelet-client.key`,
        'kubelet-preferred-address-types': 'InternalIP',
        'service-account-issuer': 'https://kubernetes.default.svc.cluster.local',
        'service-account-signing-key-file': `${PKI}/sa.key`,
        'service-account-key-file': `${PKI}/sa.pub`,
        'requestheader-client-ca-file': `${PKI}/front-proxy-ca.crt`,
        'requestheader-allowed-names': 'front-proxy-client',
        'requestheader-username-headers': 'X-Remote-User',
        'requestheader-group-headers': 'X-Remote-Group',
        'requestheader-extra-headers-prefix': 'X-Remote-Extra-',
        'proxy-client-cert-file': `${PKI}/front-proxy-client.crt`,
        'proxy-client-key-file': `${PKI}/front-proxy-client.key`,
        profiling: 'false',
      };
    case 'kube-controller-manager':
      return {
        ...ownConf,
        'bind-address': '127.0.0.1',
        // Nodes come with their pod networks.
        'allocate-node-cidrs': 'false',
        'use-service-account-credentials': 'true',
        // With the default rate the first service account comes four seconds late.
        'kube-api-qps': '200',
        'kube-api-burst': '400',
        'root-ca-file': `${PKI}/ca.crt`,
        'service-account-private-key-file': `${PKI}/sa.key`,
        'cluster-signing-cert-file': `${PKI}/ca.crt`,
        'cluster-signing-key-file': `${PKI}/ca.key`,
        'flex-volume-plugin-dir': '/var/lib/flex',
      };
    case 'kube-scheduler':
      return { ...ownConf, 'bind-address': '127.0.0.1' };
  }
}

export function nodePart(node: NodeLayout, name: NodePart): Part {
  switch (name) {
    case 'containerd':
      return {
        name,
        argv: ['/usr/bin/containerd', '--config', '/etc/containerd/config.toml'],
        ready: ['ctr', 'version'],
      };
    case 'kubelet':
      return {
        name,
        argv: [
          '/opt/kubernetes/kubelet',
          ...flags({
            config: '/etc/kubernetes/kubelet.json',
            kubeconfig: conf('kubelet'),
            'hostname-override': node.name,
            'node-ip': node.address,
          }),
        ],
        ready: answers('http://127.0.0.1:10248/healthz'),
      };
    case 'kube-proxy':
      return {
        name,
        argv: ['/opt/kubernetes/kube-proxy', '--config=/etc/kubernetes/kube-proxy.json'],
        ready: answers('http://127.0.0.1:10256/livez'),
      };
  }
}
