// SPDX-License-Identifier: Apache-2.0
// What a client asks for: `name.namespace.svc.<cluster domain>:port`, the same with a pod's host name in front,
// or an address. Parsing as Linkerd's destination does it; no short names, no final dot.

import { canonicalIp } from '#lib/core/addresses.ts';

export type Authority =
  | { readonly kind: 'ip'; readonly ip: string; readonly port: number }
  | {
      readonly kind: 'service';
      readonly name: string;
      readonly namespace: string;
      /** Host name of one pod of the service; empty for the service itself. */
      readonly instance: string;
      readonly port: number;
    };

const label = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;

/** Throws an Error whose message says what is wrong. */
export function parseAuthority(path: string, clusterDomain: string): Authority {
  const { host, port } = authorityHost(path);
  const ip = canonicalIp(host);
  if (ip !== undefined) return { kind: 'ip', ip, port };
  return { kind: 'service', ...parseServiceName(host, clusterDomain), port };
}

/** Throws, as above. */
export function parseServiceName(
  host: string,
  clusterDomain: string,
): { readonly name: string; readonly namespace: string; readonly instance: string } {
  const suffix = `.svc.${clusterDomain}`;
  if (!host.endsWith(suffix)) throw new Error(`"${host}" does not end in ${suffix}`);
  const labels = host.slice(0, -suffix.length).split('.');
  if (labels.length < 2 || labels.length > 3 || !labels.every((part) => label.test(part))) {
    throw new Error(`"${host}" is no name of a service`);
  }
  const [first = '', second = '', third] = labels;
  return third === undefined
    ? { name: first, namespace: second, instance: '' }
    : { instance: first, name: second, namespace: third };
}

/** Throws, as above. Without a port it is 80. */
export function authorityHost(path: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+))(?::(\d+))?$/.exec(path);
  const host = match?.[1] ?? match?.[2];
  if (match === null || host === undefined) throw new Error(`"${path}" is no host and port`);
  const port = match[3] === undefined ? 80 : Number(match[3]);
  if (port < 1 || port > 65535) throw new Error(`port ${match[3]} is not between 1 and 65535`);
  return { host, port };
}
