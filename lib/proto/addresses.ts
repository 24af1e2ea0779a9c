// SPDX-License-Identifier: Apache-2.0
// Addresses as linkerd2-proxy-api carries them, both ways.

import { formatIp, parseNetwork, parseIp } from '#lib/core/addresses.ts';
import type { IPAddress, IPNetwork, TcpAddress } from './gen/linkerd/net.ts';

export function ipToWire(ip: string): IPAddress | undefined {
  const bytes = parseIp(ip);
  return bytes === undefined ? undefined : bytesToWire(bytes);
}

function bytesToWire(bytes: Uint8Array): IPAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length === 4) return { ip: { $case: 'ipv4', ipv4: view.getUint32(0) } };
  return { ip: { $case: 'ipv6', ipv6: { first: view.getBigUint64(0), last: view.getBigUint64(8) } } };
}

/** Canonical text, or undefined for an address without a family. */
export function ipFromWire(address: IPAddress | undefined): string | undefined {
  const ip = address?.ip;
  if (ip === undefined) return undefined;
  const bytes = new Uint8Array(ip.$case === 'ipv4' ? 4 : 16);
  const view = new DataView(bytes.buffer);
  if (ip.$case === 'ipv4') view.setUint32(0, ip.ipv4);
  else {
    view.setBigUint64(0, ip.ipv6.first);
    view.setBigUint64(8, ip.ipv6.last);
  }
  return formatIp(bytes);
}

export const socketToWire = (ip: string, port: number): TcpAddress => ({ ip: ipToWire(ip), port });

export function socketFromWire(address: TcpAddress | undefined): { ip: string; port: number } | undefined {
  const ip = ipFromWire(address?.ip);
  return ip === undefined || address === undefined ? undefined : { ip, port: address.port };
}

export function networkToWire(cidr: string): IPNetwork | undefined {
  const network = parseNetwork(cidr);
  return network && { ip: bytesToWire(network.bytes), prefixLen: network.prefix };
}

export function networkFromWire(network: IPNetwork | undefined): string | undefined {
  const ip = ipFromWire(network?.ip);
  return ip === undefined || network === undefined ? undefined : `${ip}/${network.prefixLen}`;
}
