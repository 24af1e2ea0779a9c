// SPDX-License-Identifier: Apache-2.0
// Makes the network of a local mesh: the wire (a bridge in a namespace of its own, where one can watch the
// traffic between nodes), the control namespace and one namespace per node. Nothing of it touches the machine's
// own network, and no route leads out. Removing is sweep.ts.

import { inNetns, runChecked } from './command.ts';
import {
  DNS_ADDRESS,
  type DualAddress,
  type MeshLayout,
  type NodeLayout,
  POD_PREFIX,
  SERVICE_NETWORK,
} from './layout.ts';

export const WIRE_BRIDGE = 'wire0';
export const POD_BRIDGE = 'cni0';
const WIRE_MTU = 1500;

const batch = (netns: string, lines: readonly string[]): Promise<string> =>
  runChecked(['ip', '-n', netns, '-batch', '-'], { input: `${lines.join('\n')}\n` });

/** Duplicate address detection would make every new address unusable for a second. */
const QUIET_IPV6 = [
  'net.ipv6.conf.all.accept_dad=0',
  'net.ipv6.conf.default.accept_dad=0',
  'net.ipv6.conf.default.router_solicitations=0',
  'net.ipv6.conf.all.disable_ipv6=0',
  'net.ipv6.conf.default.disable_ipv6=0',
];

const sysctl = (netns: string, settings: readonly string[]): Promise<string> =>
  runChecked(
    inNetns(netns, [
      'sh',
      '-c',
      // Settings of modules that are not there (bridge netfilter) are left out.
      'for s; do f=/proc/sys/$(echo "${s%%=*}" | tr . /); [ ! -e "$f" ] || echo "${s#*=}" >"$f"; done',
      'sh',
      ...settings,
    ]),
  );

/** A named namespace with loopback up; names are visible in `ip netns`. */
export async function makeNetns(netns: string): Promise<void> {
  await runChecked(['ip', 'netns', 'add', netns]);
  await sysctl(netns, QUIET_IPV6);
}

export async function removeNetns(netns: string): Promise<void> {
  await runChecked(['ip', 'netns', 'delete', netns]);
}

async function plug(layout: MeshLayout, netns: string, port: string, address: DualAddress): Promise<void> {
  await batch(layout.wireNetns, [
    `link add ${port} mtu ${WIRE_MTU} type veth peer name eth0 mtu ${WIRE_MTU} netns ${netns}`,
    `link set ${port} master ${WIRE_BRIDGE} up`,
  ]);
  await batch(netns, [
    'link set lo up',
    'link set eth0 up',
    `address add ${address.v4}/24 dev eth0`,
    `address add ${address.v6}/64 dev eth0 nodad`,
  ]);
}

export async function makeNodeNetwork(layout: MeshLayout, node: NodeLayout): Promise<void> {
  await makeNetns(node.netns);
  await plug(layout, node.netns, node.name, node.address);
  await sysctl(node.netns, [
    'net.ipv4.ip_forward=1',
    'net.ipv6.conf.all.forwarding=1',
    'net.ipv4.conf.all.send_redirects=0',
    'net.ipv4.conf.default.send_redirects=0',
    'net.ipv4.conf.all.rp_filter=0',
    'net.ipv4.conf.default.rp_filter=0',
    // Pods' frames are routed, not bridged (service-rules.ts), so netfilter need not see bridged ones.
    'net.bridge.bridge-nf-call-iptables=0',
    'net.bridge.bridge-nf-call-ip6tables=0',
  ]);
  const others = layout.nodes.filter((other) => other !== node);
  await batch(node.netns, [
    `link add ${POD_BRIDGE} mtu ${WIRE_MTU} address ${node.bridgeMac} type bridge`,
    `link set ${POD_BRIDGE} up`,
    `address add ${node.gateway.v4}/${POD_PREFIX.v4} dev ${POD_BRIDGE}`,
    `address add ${node.gateway.v6}/${POD_PREFIX.v6} dev ${POD_BRIDGE} nodad`,
    `address add ${DNS_ADDRESS.v4}/32 dev lo`,
    `address add ${DNS_ADDRESS.v6}/128 dev lo nodad`,
    // Service addresses are rewritten before anything leaves; the route only lets connect() begin.
    `route add ${SERVICE_NETWORK.v4} dev lo src ${node.address.v4}`,
    `route add ${SERVICE_NETWORK.v6} dev lo src ${node.address.v6}`,
    ...others.flatMap((other) => [
      `route add ${other.podNetwork.v4} via ${other.address.v4}`,
      `route add ${other.podNetwork.v6} via ${other.address.v6}`,
    ]),
  ]);
}

/** With its namespace; pods' namespaces are their own. */
export async function removeNodeNetwork(layout: MeshLayout, node: NodeLayout): Promise<void> {
  // By its end on the wire: with the namespace the kernel would take it away some time later.
  await batch(layout.wireNetns, [`link delete ${node.name}`]);
  await removeNetns(node.netns);
}

export async function makeNetwork(layout: MeshLayout): Promise<void> {
  await makeNetns(layout.wireNetns);
  await batch(layout.wireNetns, [
    'link set lo up',
    `link add ${WIRE_BRIDGE} type bridge`,
    `link set ${WIRE_BRIDGE} up`,
  ]);
  await makeNetns(layout.controlNetns);
  await plug(layout, layout.controlNetns, 'control', layout.controlAddress);
  await batch(
    layout.controlNetns,
    layout.nodes.flatMap((node) => [
      `route add ${node.podNetwork.v4} via ${node.address.v4}`,
      `route add ${node.podNetwork.v6} via ${node.address.v6}`,
    ]),
  );
  await Promise.all(layout.nodes.map((node) => makeNodeNetwork(layout, node)));
}
