// SPDX-License-Identifier: Apache-2.0
// IP addresses, sockets' addresses, networks and port sets: parsing, canonical text, bytes. No I/O.

import { isIPv4, isIPv6 } from 'node:net';
import { MeshError } from './errors.ts';

/** 4 or 16 bytes in network order. */
export type IpBytes = Uint8Array;

const MAPPED_PREFIX = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/** Bytes of an IPv4 or IPv6 text; IPv4-mapped IPv6 comes out as 4 bytes. Undefined if it is no address. */
export function parseIp(text: string): IpBytes | undefined {
  if (isIPv4(text)) return Uint8Array.from(text.split('.'), Number);
  if (!isIPv6(text) || text.includes('%')) return undefined;
  let source = text;
  const tail = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  if (tail?.[1] !== undefined && tail[2] !== undefined) {
    const [a = 0, b = 0, c = 0, d = 0] = tail[2].split('.').map(Number);
    source = `${tail[1]}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  }
  const [left = '', right] = source.split('::');
  const head = left === '' ? [] : left.split(':');
  const rest = right === undefined || right === '' ? [] : right.split(':');
  const groups = [...head, ...Array<string>(8 - head.length - rest.length).fill('0'), ...rest];
  const bytes = new Uint8Array(16);
  groups.forEach((group, index) => {
    const value = Number.parseInt(group, 16);
    bytes[index * 2] = value >> 8;
    bytes[index * 2 + 1] = value & 0xff;
  });
  return MAPPED_PREFIX.every((byte, index) => bytes[index] === byte) ? bytes.slice(12) : bytes;
}

/** Canonical text: dotted quad, or RFC 5952 for IPv6. */
export function formatIp(bytes: IpBytes): string {
  // For each connection: join() costs twice as much.
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  const groups: number[] = [];
  for (let index = 0; index < 16; index += 2)
    groups.push(((bytes[index] ?? 0) << 8) | (bytes[index + 1] ?? 0));
  let bestStart = -1;
  let bestLength = 1;
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && groups[start + length] === 0) length++;
    if (length > bestLength) [bestStart, bestLength] = [start, length];
  }
  const hex = groups.map((group) => group.toString(16));
  if (bestStart < 0) return hex.join(':');
  return `${hex.slice(0, bestStart).join(':')}::${hex.slice(bestStart + bestLength).join(':')}`;
}

/** Canonical text of an address text (mapped IPv6 becomes IPv4), or undefined if it is none. */
export function canonicalIp(text: string): string | undefined {
  const bytes = parseIp(text);
  return bytes === undefined ? undefined : formatIp(bytes);
}

/** `1.2.3.4:80` or `[::1]:80`. */
export function formatSocketAddress(ip: string, port: number): string {
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`;
}

/** Splits `1.2.3.4:80` or `[::1]:80` into canonical address and port. */
export function parseSocketAddress(text: string): { ip: string; port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const ip = canonicalIp(match[1] ?? match[2] ?? '');
  const port = Number(match[3]);
  return ip === undefined || port > 65535 ? undefined : { ip, port };
}

export interface Network {
  readonly bytes: IpBytes;
  readonly prefix: number;
}

/** Parses `10.0.0.0/8` or a single address. */
export function parseNetwork(text: string): Network | undefined {
  const [address = '', prefixText] = text.trim().split('/');
  const bytes = parseIp(address);
  if (bytes === undefined) return undefined;
  const prefix = prefixText === undefined ? bytes.length * 8 : Number(prefixText);
  if (!/^\d{1,3}$/.test(String(prefixText ?? 0)) || prefix > bytes.length * 8) return undefined;
  return { bytes, prefix };
}

export function networkContains(network: Network, ip: IpBytes): boolean {
  if (ip.length !== network.bytes.length) return false;
  const whole = network.prefix >> 3;
  for (let index = 0; index < whole; index++) if (ip[index] !== network.bytes[index]) return false;
  const rest = network.prefix & 7;
  if (rest === 0) return true;
  const mask = (0xff << (8 - rest)) & 0xff;
  return ((ip[whole] ?? 0) & mask) === ((network.bytes[whole] ?? 0) & mask);
}

/** An inclusive range of ports. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

export function portsContain(ranges: readonly PortRange[], port: number): boolean {
  return ranges.some((range) => port >= range.first && port <= range.last);
}

/**
 * Parses `25,587,3306-3310` as Linkerd's injector does: white space is trimmed, names are looked up in `named`
 * (a pod's container ports), what cannot be read is reported through `onBad` and skipped.
 */
export function parsePorts(
  text: string,
  named: ReadonlyMap<string, number> = new Map(),
  onBad: (item: string) => void = () => undefined,
): PortRange[] {
  const ranges: PortRange[] = [];
  for (const item of text.split(',').map((part) => part.trim())) {
    if (item === '') continue;
    const match = /^(\d+)(?:\s*-\s*(\d+))?$/.exec(item);
    const byName = named.get(item);
    const first = match === null ? byName : Number(match[1]);
    const last = match?.[2] === undefined ? first : Number(match[2]);
    if (first === undefined || last === undefined || first < 1 || last > 65535 || first > last) onBad(item);
    else ranges.push({ first, last });
  }
  return ranges;
}

/** As `parseIp`, but refuses with a clear error that names the field. */
export function requireIp(text: string, field: string): IpBytes {
  const bytes = parseIp(text);
  if (bytes === undefined) {
    throw new MeshError('MESH_CONFIG_INVALID', `${field}: "${text}" is no IP address`, {
      remedy: 'write an IPv4 or IPv6 address',
    });
  }
  return bytes;
}
