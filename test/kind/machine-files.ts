// SPDX-License-Identifier: Apache-2.0
// The files that the machines of a cluster start with: keys, kubeconfigs, configurations of containerd, kubelet,
// kube-proxy and CNI. Written once, when the cluster is made.

import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Authority, type KeyPair, makeAuthority, makeTokenKey, readAuthority } from './certificates.ts';
import {
  API_SERVICE_ADDRESS,
  CLUSTER_DOMAIN,
  type ClusterLayout,
  DNS_ADDRESS,
  type MachineLayout,
  type NodeLayout,
  POD_NETWORK,
} from './layout.ts';

export const PAUSE_IMAGE = 'nodemesh-kc/pause:1';
export const COREDNS_IMAGE = 'nodemesh-kc/coredns:1';
const CNI_PLUGINS = ['bridge', 'host-local', 'loopback', 'portmap'];
const IPTABLES = [
  'iptables',
  'iptables-save',
  'iptables-restore',
  'ip6tables',
  'ip6tables-save',
  'ip6tables-restore',
];

function write(path: string, content: string | object, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true });
  const text = typeof content === 'string' ? content : `${JSON.stringify(content, undefined, 2)}\n`;
  writeFileSync(path, text, { mode });
}

function kubeconfig(url: string, authority: Authority, user: KeyPair): object {
  const base64 = (text: string): string => Buffer.from(text).toString('base64');
  return {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'cluster',
    contexts: [{ name: 'cluster', context: { cluster: 'cluster', user: 'user' } }],
    clusters: [
      {
        name: 'cluster',
        cluster: { server: url, 'certificate-authority-data': base64(authority.certificatePem) },
      },
    ],
    users: [
      {
        name: 'user',
        user: {
          'client-certificate-data': base64(user.certificatePem),
          'client-key-data': base64(user.keyPem),
        },
      },
    ],
  };
}

/** What every machine has in /etc, little as it is. */
function writeSystemFiles(machine: MachineLayout): void {
  const etc = join(machine.root, 'etc');
  write(
    join(etc, 'passwd'),
    'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n',
  );
  write(join(etc, 'group'), 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n');
  write(join(etc, 'hostname'), `${machine.name}\n`);
  write(join(etc, 'hosts'), `127.0.0.1 localhost\n${machine.address} ${machine.name}\n`);
  write(join(etc, 'nsswitch.conf'), 'hosts: files dns\n');
  write(join(etc, 'resolv.conf'), '');
  write(join(etc, 'machine-id'), `${createHash('md5').update(machine.root).digest('hex')}\n`);
  mkdirSync(join(etc, 'alternatives'), { recursive: true });
  for (const name of IPTABLES) {
    const family = name.replace(/^(ip6?tables)/, '$1-nft');
    symlinkSync(`/usr/sbin/${family}`, join(etc, 'alternatives', name));
  }
}

export async function writeMachineFiles(layout: ClusterLayout, nowMs: number): Promise<void> {
  const authority = await makeAuthority('nodemesh-kc', nowMs);
  for (const machine of [layout.control, ...layout.nodes]) writeSystemFiles(machine);
  const admin = await authority.issue({ commonName: 'admin', organization: 'system:masters' });
  write(layout.kubeconfig, kubeconfig(layout.apiUrl, authority, admin), 0o600);
  await writeControlFiles(layout, authority, nowMs);
  for (const node of layout.nodes) await writeNodeFiles(layout, node, authority);
}

/** Of a node that comes later: the cluster's authority is in the files of its control plane. */
export async function writeLaterNode(layout: ClusterLayout, node: NodeLayout, nowMs: number): Promise<void> {
  const read = (kind: string): string =>
    readFileSync(join(layout.control.root, `etc/kubernetes/pki/ca.${kind}`), 'utf8');
  const authority = await readAuthority({ certificatePem: read('crt'), keyPem: read('key') }, nowMs);
  writeSystemFiles(node);
  await writeNodeFiles(layout, node, authority);
}

async function writeControlFiles(layout: ClusterLayout, authority: Authority, nowMs: number): Promise<void> {
  const etc = join(layout.control.root, 'etc/kubernetes');
  const pair = (name: string, keys: KeyPair): void => {
    write(join(etc, 'pki', `${name}.crt`), keys.certificatePem);
    write(join(etc, 'pki', `${name}.key`), keys.keyPem, 0o600);
  };
  pair('ca', authority);
  pair(
    'apiserver',
    await authority.issue({
      commonName: 'kube-apiserver',
      dns: [
        'localhost',
        'kubernetes',
        'kubernetes.default',
        'kubernetes.default.svc',
        `kubernetes.default.svc.${CLUSTER_DOMAIN}`,
      ],
      ip: [API_SERVICE_ADDRESS, layout.control.address, '127.0.0.1'],
    }),
  );
  const kubeletClient = { commonName: 'kube-apiserver-kubelet-client', organization: 'system:masters' };
  pair('apiserver-kubelet-client', await authority.issue(kubeletClient));
  const frontProxy = await makeAuthority('nodemesh-kc-front-proxy', nowMs);
  pair('front-proxy-ca', frontProxy);
  pair('front-proxy-client', await frontProxy.issue({ commonName: 'front-proxy-client' }));
  const tokens = await makeTokenKey();
  write(join(etc, 'pki/sa.key'), tokens.keyPem, 0o600);
  write(join(etc, 'pki/sa.pub'), tokens.publicPem);
  for (const name of ['kube-controller-manager', 'kube-scheduler']) {
    const user = await authority.issue({ commonName: `system:${name}` });
    write(join(etc, `${name}.conf`), kubeconfig(layout.apiUrl, authority, user), 0o600);
  }
}

async function writeNodeFiles(layout: ClusterLayout, node: NodeLayout, authority: Authority): Promise<void> {
  const etc = join(node.root, 'etc');
  const kubernetes = join(etc, 'kubernetes');
  write(join(kubernetes, 'pki/ca.crt'), authority.certificatePem);
  const serving = await authority.issue({ commonName: node.name, dns: [node.name], ip: [node.address] });
  write(join(kubernetes, 'pki/kubelet.crt'), serving.certificatePem);
  write(join(kubernetes, 'pki/kubelet.key'), serving.keyPem, 0o600);
  const users = {
    kubelet: { commonName: `system:node:${node.name}`, organization: 'system:nodes' },
    'kube-proxy': { commonName: 'system:kube-proxy' },
  };
  for (const [name, user] of Object.entries(users)) {
    const config = kubeconfig(layout.apiUrl, authority, await authority.issue(user));
    write(join(kubernetes, `${name}.conf`), config, 0o600);
  }
  write(join(kubernetes, 'kubelet.json'), kubeletConfig());
  write(join(kubernetes, 'kube-proxy.json'), kubeProxyConfig(node));
  write(join(etc, 'containerd/config.toml'), containerdConfig);
  write(join(etc, 'cni/net.d/10-bridge.conflist'), cniConfig(node));
  mkdirSync(join(node.root, 'opt/cni/bin'), { recursive: true });
  for (const name of CNI_PLUGINS)
    copyFileSync(join('/usr/lib/cni', name), join(node.root, 'opt/cni/bin', name));
}

// A machine's root may lack CAP_SYS_RESOURCE: scores below its own and higher limits cannot be set then, and runc
// would fail.
const containerdConfig = `version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${PAUSE_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
`;

function kubeletConfig(): object {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: '/etc/kubernetes/pki/ca.crt' },
    },
    authorization: { mode: 'Webhook' },
    tlsCertFile: '/etc/kubernetes/pki/kubelet.crt',
    tlsPrivateKeyFile: '/etc/kubernetes/pki/kubelet.key',
    containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
    clusterDNS: [DNS_ADDRESS],
    clusterDomain: CLUSTER_DOMAIN,
    resolvConf: '',
    cgroupDriver: 'cgroupfs',
    failCgroupV1: false,
    failSwapOn: false,
    oomScoreAdj: 0,
    maxOpenFiles: 20_000,
    volumePluginDir: '/var/lib/kubelet/volumeplugins',
    // The machine's disk is not the cluster's, and a removed image cannot be fetched again.
    evictionHard: { 'memory.available': '0%', 'nodefs.available': '0%', 'imagefs.available': '0%' },
    imageGCHighThresholdPercent: 100,
    logging: { verbosity: 1 },
  };
}

function kubeProxyConfig(node: NodeLayout): object {
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    clientConnection: { kubeconfig: '/etc/kubernetes/kube-proxy.conf' },
    mode: 'iptables',
    hostnameOverride: node.name,
    clusterCIDR: POD_NETWORK,
    oomScoreAdj: 0,
    // Those limits are the machine's and cannot be written in a namespace.
    conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: '0s', tcpCloseWaitTimeout: '0s' },
  };
}

function cniConfig(node: NodeLayout): object {
  return {
    cniVersion: '0.4.0',
    name: 'pods',
    plugins: [
      {
        type: 'bridge',
        bridge: 'cni0',
        // Not isDefaultGateway: together with the route below it would add the same route twice and fail.
        isGateway: true,
        hairpinMode: true,
        ipMasq: false,
        ipam: { type: 'host-local', ranges: [[{ subnet: node.podNetwork }]], routes: [{ dst: '0.0.0.0/0' }] },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}
