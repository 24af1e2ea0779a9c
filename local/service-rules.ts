// SPDX-License-Identifier: Apache-2.0
// The nftables rules of one node as text: ClusterIPs to ready endpoints, refusal where there are none. Pure.
//
// Pods of one node share a bridge. Their frames to each other are handed to the node's IP stack instead of being
// bridged, so that the answer to a rewritten connection passes the connection tracking that rewrites it back.

import type { NodeLayout } from './layout.ts';
import { DNS_ADDRESS, SERVICE_NETWORK } from './layout.ts';
import { isTerminating, labelsMatch, namespaceOf, podIsFinished, podIsReady } from './objects.ts';
import type { ContainerSpec, PodObject, ServiceObject } from './objects.ts';
import { clusterIPs } from './service-addresses.ts';

type ServicePort = ServiceObject['spec']['ports'][number];

export interface Endpoint {
  readonly pod: PodObject;
  readonly ips: readonly string[];
}

/** The pods behind a Service that may receive traffic, by name. */
export function serviceEndpoints(service: ServiceObject, pods: readonly PodObject[]): Endpoint[] {
  const { selector } = service.spec;
  if (selector === undefined) return [];
  return pods
    .filter(
      (pod) =>
        namespaceOf(pod) === namespaceOf(service) &&
        labelsMatch(selector, pod.metadata.labels) &&
        !isTerminating(pod) &&
        !podIsFinished(pod) &&
        (podIsReady(pod) || service.spec.publishNotReadyAddresses),
    )
    .map((pod) => ({ pod, ips: (pod.status.podIPs ?? []).map(({ ip }) => ip) }))
    .filter((endpoint) => endpoint.ips.length > 0)
    .sort((a, b) => a.pod.metadata.name.localeCompare(b.pod.metadata.name));
}

const containerPort = (
  containers: readonly ContainerSpec[],
  name: string,
  protocol: string,
): number | undefined =>
  containers
    .flatMap((container) => container.ports)
    .find((port) => port.name === name && port.protocol === protocol)?.containerPort;

export function targetPort(port: ServicePort, pod: PodObject): number | undefined {
  const target = port.targetPort ?? port.port;
  return typeof target === 'number' ? target : containerPort(pod.spec.containers, target, port.protocol);
}

const isV6 = (ip: string): boolean => ip.includes(':');

function portRule(clusterIp: string, port: ServicePort, endpoints: readonly Endpoint[]): string | undefined {
  const targets = endpoints.flatMap(({ pod, ips }) => {
    const target = targetPort(port, pod);
    const ip = ips.find((candidate) => isV6(candidate) === isV6(clusterIp));
    return target === undefined || ip === undefined ? [] : [`${ip} . ${target}`];
  });
  if (targets.length === 0) return undefined;
  const family = isV6(clusterIp) ? 'ip6' : 'ip';
  const choices = targets.map((target, index) => `${index} : ${target}`).join(', ');
  const protocol = port.protocol.toLowerCase();
  return (
    `${family} daddr ${clusterIp} ${protocol} dport ${port.port} ` +
    `dnat ${family} to numgen random mod ${targets.length} map { ${choices} }`
  );
}

const elements = (ips: readonly string[]): string =>
  ips.length === 0 ? '' : `elements = { ${ips.map((ip) => `${ip} . ${ip}`).join(', ')} }`;

/** A complete ruleset that replaces the one before in one transaction. */
export function serviceRules(
  node: NodeLayout,
  services: readonly ServiceObject[],
  pods: readonly PodObject[],
): string {
  const rules = services.flatMap((service) => {
    const endpoints = serviceEndpoints(service, pods);
    return clusterIPs(service).flatMap((ip) =>
      service.spec.ports.flatMap((port) => portRule(ip, port, endpoints) ?? []),
    );
  });
  const own = pods
    .filter((pod) => pod.spec.nodeName === node.name && !pod.spec.hostNetwork)
    .flatMap((pod) => (pod.status.podIPs ?? []).map(({ ip }) => ip));
  const refuse = (exceptDns: boolean): string =>
    (['ip', 'ip6'] as const)
      .flatMap((family) => {
        const network = family === 'ip' ? SERVICE_NETWORK.v4 : SERVICE_NETWORK.v6;
        const dns = family === 'ip' ? DNS_ADDRESS.v4 : DNS_ADDRESS.v6;
        const match = `${family} daddr ${network}${exceptDns ? ` ${family} daddr != ${dns}` : ''}`;
        return [`${match} meta l4proto tcp reject with tcp reset`, `${match} reject`];
      })
      .join('\n    ');
  return `table inet nodemesh-local {}
delete table inet nodemesh-local
table inet nodemesh-local {
  set self4 { type ipv4_addr . ipv4_addr; ${elements(own.filter((ip) => !isV6(ip)))}; }
  set self6 { type ipv6_addr . ipv6_addr; ${elements(own.filter(isV6))}; }
  chain services {
    ${rules.join('\n    ')}
  }
  chain prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain output { type nat hook output priority -100; jump services; }
  chain postrouting {
    type nat hook postrouting priority srcnat
    ip saddr . ip daddr @self4 masquerade
    ip6 saddr . ip6 daddr @self6 masquerade
  }
  chain refuse-forwarded {
    type filter hook forward priority filter
    ${refuse(false)}
  }
  chain refuse-local {
    type filter hook output priority filter
    ${refuse(true)}
  }
}
table bridge nodemesh-local {}
delete table bridge nodemesh-local
table bridge nodemesh-local {
  chain prerouting {
    type filter hook prerouting priority -300
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    meta protocol ip ip daddr ${node.podNetwork.v4} ether daddr set ${node.bridgeMac} meta pkttype set host
    meta protocol ip6 ip6 daddr ${node.podNetwork.v6} ether daddr set ${node.bridgeMac} meta pkttype set host
  }
}
`.replaceAll('; ; }', '; }');
}
