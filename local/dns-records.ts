// SPDX-License-Identifier: Apache-2.0
// What the node's DNS server answers, in the form of a hosts file, and a pod's resolv.conf and hosts file. Pure.

import { CLUSTER_DOMAIN, DNS_ADDRESS } from './layout.ts';
import { namespaceOf, type PodObject, type ServiceObject } from './objects.ts';
import { clusterIPs, isHeadless } from './service-addresses.ts';
import { serviceEndpoints } from './service-rules.ts';

/** One `address name` line per record: ClusterIPs, or for headless Services the addresses of their pods. */
export function dnsHosts(services: readonly ServiceObject[], pods: readonly PodObject[]): string {
  const lines: string[] = [];
  for (const service of services) {
    const name = `${service.metadata.name}.${namespaceOf(service)}.svc.${CLUSTER_DOMAIN}`;
    for (const ip of clusterIPs(service)) lines.push(`${ip} ${name}`);
    if (!isHeadless(service)) continue;
    for (const { pod, ips } of serviceEndpoints(service, pods)) {
      const { hostname, subdomain } = pod.spec;
      const own = hostname !== undefined && subdomain === service.metadata.name ? ` ${hostname}.${name}` : '';
      for (const ip of ips) lines.push(`${ip} ${name}${own}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

export const resolvConf = (namespace: string): string =>
  `nameserver ${DNS_ADDRESS.v4}
search ${namespace}.svc.${CLUSTER_DOMAIN} svc.${CLUSTER_DOMAIN} ${CLUSTER_DOMAIN}
options ndots:5
`;

export const podHosts = (hostname: string, ips: readonly string[]): string =>
  [
    '127.0.0.1 localhost',
    '::1 localhost ip6-localhost ip6-loopback',
    ...ips.map((ip) => `${ip} ${hostname}`),
    '',
  ].join('\n');
