// SPDX-License-Identifier: Apache-2.0
// The TypeScript twin of bpf/include/mesh_abi.h: sizes, offsets and the encodings that the agent needs. abi.test.ts
// compares `structs` with the BTF of the compiled objects. Numbers are little- or big-endian as the machine is.

import { endianness } from 'node:os';
import { formatIp, type IpBytes, type Network, type PortRange } from '#lib/core/addresses.ts';
import { MeshError } from '#lib/core/errors.ts';

export const LAYOUT = 1;
export const ADDRESSES_MAX = 16;
export const RANGES_MAX = 32;
export const SUBNETS_MAX = 16;
export const SLOTS_MAX = 16;
/** What nm_inflight has room for, beside the reserve. */
export const INFLIGHT_MAX = 16_384;
export const INFLIGHT_RESERVE = 4096;
export const PORT_FIRST = 61_000;
export const PORT_COUNT = 4536;

export const kinds = { outbound: 1, carrier: 2, client: 3, own: 4 } as const;

/** Rows of nm_counters by name. `inflight` is a gauge, the others are totals. */
export const counterRows = [
  'inflight',
  'inflight_full',
  'storage_failed',
  'no_listener',
  'bound_device',
  'listen_lost',
  'record_lost',
  'foreign_record',
] as const;

export interface StructLayout {
  readonly size: number;
  readonly fields: Readonly<Record<string, number>>;
}

const record = { size: 32, fields: { kind: 0, pod: 4, ip: 8, port: 24, pad: 26 } } as const;

export const structs = {
  nm_address: { size: 16, fields: { word: 0 } },
  nm_range: { size: 4, fields: { first: 0, last: 2 } },
  nm_subnet: { size: 32, fields: { net: 0, mask: 16 } },
  nm_pod: {
    size: 1080,
    fields: {
      index: 0,
      armed: 4,
      addresses_count: 8,
      skip_outbound_count: 12,
      skip_inbound_count: 16,
      skip_subnets_count: 20,
      own4: 24,
      own6: 40,
      addresses: 56,
      skip_outbound: 312,
      skip_inbound: 440,
      skip_subnets: 568,
    },
  },
  nm_mark: record,
  nm_peer: record,
  nm_accepted: record,
  nm_flow: { size: 40, fields: { source: 0, target: 16, source_port: 32, target_port: 34, pad: 36 } },
  nm_record: {
    size: 56,
    fields: {
      netns_cookie: 0,
      socket_cookie: 8,
      since_ns: 16,
      sequence: 24,
      kind: 28,
      pod: 32,
      ip: 36,
      port: 52,
      pad: 54,
    },
  },
  nm_listen_key: { size: 32, fields: { netns_cookie: 0, ip: 8, port: 24, v6only: 26, pad: 28 } },
  nm_connect_config: { size: 24, fields: { inflight_max: 0, inflight_pod_max: 8, mptcp: 16 } },
  nm_lookup_config: { size: 16, fields: { netns_cookie: 0, slots: 8, pad: 12 } },
} as const satisfies Readonly<Record<string, StructLayout>>;

const little = endianness() === 'LE';

export function writeU16(out: Buffer, value: number, at: number): void {
  if (little) out.writeUInt16LE(value, at);
  else out.writeUInt16BE(value, at);
}

export function writeU32(out: Buffer, value: number, at: number): void {
  if (little) out.writeUInt32LE(value, at);
  else out.writeUInt32BE(value, at);
}

export function writeU64(out: Buffer, value: bigint, at: number): void {
  if (little) out.writeBigUInt64LE(value, at);
  else out.writeBigUInt64BE(value, at);
}

export function readU32(from: Buffer, at: number): number {
  return little ? from.readUInt32LE(at) : from.readUInt32BE(at);
}

export function readU64(from: Buffer, at: number): bigint {
  return little ? from.readBigUInt64LE(at) : from.readBigUInt64BE(at);
}

/** An address of 4 or 16 bytes in its 16-byte form. */
export function writeAddress(out: Buffer, ip: IpBytes, at: number): void {
  if (ip.length === 16) {
    out.set(ip, at);
    return;
  }
  out.fill(0, at, at + 10);
  out.fill(0xff, at + 10, at + 12);
  out.set(ip, at + 12);
}

/** The text of a 16-byte address; mapped ones come out as IPv4. */
export function readAddress(from: Buffer, at: number): string {
  const mapped =
    from.readUInt32BE(at + 8) === 0xffff && from.readUInt32BE(at) === 0 && from.readUInt32BE(at + 4) === 0;
  return formatIp(from.subarray(mapped ? at + 12 : at, at + 16));
}

export interface PodRecord {
  readonly index: number;
  readonly armed: boolean;
  readonly own4: IpBytes | undefined;
  readonly own6: IpBytes | undefined;
  readonly addresses: readonly IpBytes[];
  readonly skipOutbound: readonly PortRange[];
  readonly skipInbound: readonly PortRange[];
  readonly skipSubnets: readonly Network[];
}

function atMost(count: number, most: number, what: string): void {
  if (count > most)
    throw new MeshError(
      'MESH_LIMIT',
      `a pod has ${count} ${what}, more than the ${most} that the kernel's record holds`,
    );
}

export function encodePod(pod: PodRecord): Buffer {
  const { fields, size } = structs.nm_pod;
  const out = Buffer.alloc(size);
  const outbound = mergeRanges(pod.skipOutbound);
  const inbound = mergeRanges(pod.skipInbound);
  atMost(pod.addresses.length, ADDRESSES_MAX, 'addresses');
  atMost(outbound.length, RANGES_MAX, 'skipped outbound port ranges');
  atMost(inbound.length, RANGES_MAX, 'skipped inbound port ranges');
  atMost(pod.skipSubnets.length, SUBNETS_MAX, 'skipped subnets');
  writeU32(out, pod.index, fields.index);
  writeU32(out, pod.armed ? 1 : 0, fields.armed);
  writeU32(out, pod.addresses.length, fields.addresses_count);
  writeU32(out, outbound.length, fields.skip_outbound_count);
  writeU32(out, inbound.length, fields.skip_inbound_count);
  writeU32(out, pod.skipSubnets.length, fields.skip_subnets_count);
  if (pod.own4 !== undefined) writeAddress(out, pod.own4, fields.own4);
  if (pod.own6 !== undefined) writeAddress(out, pod.own6, fields.own6);
  pod.addresses.forEach((ip, index) => writeAddress(out, ip, fields.addresses + index * 16));
  writeRanges(out, outbound, fields.skip_outbound);
  writeRanges(out, inbound, fields.skip_inbound);
  pod.skipSubnets.forEach((network, index) => {
    const at = fields.skip_subnets + index * structs.nm_subnet.size;
    writeAddress(out, network.bytes, at);
    writeMask(out, network.prefix + (network.bytes.length === 4 ? 96 : 0), at + 16);
  });
  return out;
}

/** Sorted, with touching ranges joined, so that long lists fit more often. */
export function mergeRanges(ranges: readonly PortRange[]): PortRange[] {
  const merged: PortRange[] = [];
  for (const range of [...ranges].sort((a, b) => a.first - b.first)) {
    const last = merged.at(-1);
    if (last !== undefined && range.first <= last.last + 1)
      merged[merged.length - 1] = { first: last.first, last: Math.max(last.last, range.last) };
    else merged.push({ first: range.first, last: range.last });
  }
  return merged;
}

function writeRanges(out: Buffer, ranges: readonly PortRange[], at: number): void {
  ranges.forEach((range, index) => {
    writeU16(out, range.first, at + index * 4);
    writeU16(out, range.last, at + index * 4 + 2);
  });
}

function writeMask(out: Buffer, bits: number, at: number): void {
  for (let index = 0; index < 16; index++) {
    const rest = Math.min(8, Math.max(0, bits - index * 8));
    out[at + index] = (0xff << (8 - rest)) & 0xff;
  }
}

/** The key of a map that is indexed by namespace cookie. */
export function encodeCookie(cookie: bigint): Buffer {
  const out = Buffer.alloc(8);
  writeU64(out, cookie, 0);
  return out;
}

export interface ListenKey {
  readonly netnsCookie: bigint;
  readonly ip: IpBytes;
  readonly port: number;
  readonly v6only: boolean;
}

export function encodeListenKey(key: ListenKey): Buffer {
  const { fields, size } = structs.nm_listen_key;
  const out = Buffer.alloc(size);
  writeU64(out, key.netnsCookie, fields.netns_cookie);
  writeAddress(out, key.ip, fields.ip);
  writeU16(out, key.port, fields.port);
  writeU16(
    out,
    key.v6only && key.ip.length === 16 && key.ip.every((byte) => byte === 0) ? 1 : 0,
    fields.v6only,
  );
  return out;
}

export function encodeConnectConfig(inflightMax: number, inflightPodMax: number, mptcp: boolean): Buffer {
  const { fields, size } = structs.nm_connect_config;
  const out = Buffer.alloc(size);
  writeU64(out, BigInt(inflightMax), fields.inflight_max);
  writeU64(out, BigInt(inflightPodMax), fields.inflight_pod_max);
  writeU64(out, mptcp ? 1n : 0n, fields.mptcp);
  return out;
}

export function encodeLookupConfig(netnsCookie: bigint, slots: number): Buffer {
  const { fields, size } = structs.nm_lookup_config;
  const out = Buffer.alloc(size);
  writeU64(out, netnsCookie, fields.netns_cookie);
  writeU32(out, slots, fields.slots);
  return out;
}

/** The key of a pod's sockmap. */
export function slotKey(direction: 'inbound' | 'outbound', family: 4 | 6, slot: number): Buffer {
  const out = Buffer.alloc(4);
  writeU32(out, ((direction === 'inbound' ? 2 : 0) + (family === 6 ? 1 : 0)) * SLOTS_MAX + slot, 0);
  return out;
}

export function u32(value: number): Buffer {
  const out = Buffer.alloc(4);
  writeU32(out, value, 0);
  return out;
}

export function u64(value: bigint): Buffer {
  return encodeCookie(value);
}
