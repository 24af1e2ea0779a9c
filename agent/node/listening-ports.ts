// SPDX-License-Identifier: Apache-2.0
// The ports on which something listens in a pod: what the kernel's programs noted (nm_listen), what sock_diag adds
// to it (nm_seeded), and the comparison of both with what is there now.

import type { IpBytes } from '#lib/core/addresses.ts';
import { encodeCookie, encodeListenKey, readU32, readU64, u32, u64 } from '#lib/bpf/abi.ts';
import type { BpfMap } from '#lib/bpf/loader.ts';
import type { ListeningSocket } from '#lib/net/pod-sockets.ts';

export interface PortMaps {
  readonly lost: BpfMap;
  readonly listen: BpfMap;
  readonly seeded: BpfMap;
}

interface Port {
  readonly key: Buffer;
  count: number;
}

function countPorts(cookie: bigint, sockets: readonly ListeningSocket[]): Map<string, Port> {
  const there = new Map<string, Port>();
  for (const socket of sockets) {
    if (isLoopback(socket.ip)) continue;
    const key = encodeListenKey({ netnsCookie: cookie, ...socket });
    const id = key.toString('latin1');
    const known = there.get(id);
    if (known === undefined) there.set(id, { key, count: 1 });
    else known.count++;
  }
  return there;
}

const numberIn = (map: BpfMap, key: Buffer): number => {
  const value = map.lookup(key);
  return value === undefined ? 0 : readU32(value, 0);
};

/** Seeds what the programs have not noted. */
export function refreshPorts(
  maps: PortMaps,
  cookie: bigint,
  sockets: () => readonly ListeningSocket[],
): void {
  /** First: what gets lost from now on is counted anew. */
  maps.lost.update(encodeCookie(cookie), u64(0n));
  const there = countPorts(cookie, sockets());
  for (const { key, count } of there.values()) {
    const unseen = count - numberIn(maps.listen, key);
    if (unseen > 0) maps.seeded.update(key, u32(unseen));
    else maps.seeded.delete(key);
  }
  for (const key of maps.seeded.keys())
    if (readU64(key, 0) === cookie && !there.has(key.toString('latin1'))) maps.seeded.delete(key);
}

/** Ports that count wrongly, by key: how many sockets too many (or, negative, too few) count as listening. */
function wrongPorts(
  maps: PortMaps,
  cookie: bigint,
  sockets: () => readonly ListeningSocket[],
  noted: readonly Buffer[],
): Map<string, { key: Buffer; excess: number }> {
  const wrong = new Map<string, { key: Buffer; excess: number }>();
  const there = countPorts(cookie, sockets());
  const keys = new Map(noted.map((key) => [key.toString('latin1'), key]));
  for (const [id, { key }] of there) keys.set(id, key);
  for (const [id, key] of keys) {
    const count = there.get(id)?.count ?? 0;
    const excess = numberIn(maps.listen, key) + numberIn(maps.seeded, key) - count;
    if (excess !== 0) wrong.set(id, { key, excess });
  }
  return wrong;
}

/**
 * Compares and mends. The programs go on counting meanwhile, so only what two looks agree on is wrong; `noted` are the
 * pod's keys in both maps.
 */
export function checkPorts(
  maps: PortMaps,
  cookie: bigint,
  sockets: () => readonly ListeningSocket[],
  noted: readonly Buffer[],
): string | undefined {
  const lost = maps.lost.lookup(encodeCookie(cookie));
  if (lost === undefined || readU64(lost, 0) !== 0n) {
    refreshPorts(maps, cookie, sockets);
    return 'listening sockets had not been noted';
  }
  const first = wrongPorts(maps, cookie, sockets, noted);
  if (first.size === 0) return undefined;
  const wrong = [...wrongPorts(maps, cookie, sockets, noted)].filter(
    ([id, { excess }]) => first.get(id)?.excess === excess,
  );
  if (wrong.length === 0) return undefined;
  for (const [, { key, excess }] of wrong) {
    if (excess < 0) continue;
    const listen = numberIn(maps.listen, key);
    if (listen - excess > 0) maps.listen.update(key, u32(listen - excess));
    else maps.listen.delete(key);
  }
  refreshPorts(maps, cookie, sockets);
  const missing = wrong.filter(([, { excess }]) => excess < 0).length;
  return `${missing} listening ports were not known, ${wrong.length - missing} counted although nothing listens`;
}

export function isLoopback(ip: IpBytes): boolean {
  if (ip.length === 4) return ip[0] === 127;
  if (ip.every((byte, index) => byte === (index === 15 ? 1 : 0))) return true;
  return (
    ip[12] === 127 && ip[10] === 0xff && ip[11] === 0xff && ip.subarray(0, 10).every((byte) => byte === 0)
  );
}
