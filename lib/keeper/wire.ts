// SPDX-License-Identifier: Apache-2.0
// The keeper's messages as bytes, as docs/reference/keeper-protocol.md and keeper/keeper.c have them. Little endian.
//
//   0 type (2) | 2 length of the key (2) | 4 number (4) | 8 key | rest

import { MeshError } from '#lib/core/errors.ts';

export const PROTOCOL_VERSION = 1;
export const KEY_BYTES_MAX = 255;
export const META_BYTES_MAX = 1024;
export const BLOB_BYTES_MAX = 64 * 1024 * 1024;
const HEADER_BYTES = 8;
export const PACKET_BYTES_MAX = HEADER_BYTES + KEY_BYTES_MAX + META_BYTES_MAX;

export const requestTypes = {
  hello: 1,
  put: 2,
  del: 3,
  list: 4,
  blob: 5,
  hold: 6,
  beat: 7,
  stats: 8,
} as const;

export const replyTypes = {
  ok: 128,
  refused: 129,
  entry: 130,
  blob: 131,
  end: 132,
  role: 133,
  stats: 134,
} as const;

export const reasons = {
  badMessage: 1,
  badVersion: 2,
  noGreeting: 3,
  badKey: 4,
  badMeta: 5,
  noDescriptor: 6,
  notAListener: 7,
  notSealed: 8,
  blobTooLong: 9,
  entriesFull: 10,
  clientsFull: 11,
  foreignUid: 12,
} as const;

/** The same request may be granted later. */
export const retryableReasons: ReadonlySet<number> = new Set([
  reasons.noDescriptor, // one that had no room
  reasons.entriesFull,
  reasons.clientsFull,
]);

export type Role = 'holder' | 'other' | 'nobody';
export const roles: readonly Role[] = ['nobody', 'holder', 'other'];

export interface KeeperStats {
  readonly entries: number;
  readonly entriesMax: number;
  readonly clients: number;
  /** How long ago the last beat that counted was; undefined: nobody holds. */
  readonly holderAgeMs: number | undefined;
  readonly limitMs: number;
  /** Listeners that were shut down because no beat came in time. */
  readonly shutdowns: number;
  readonly refused: number;
  /** Clients that were dropped because they did not read. */
  readonly dropped: number;
  readonly blobBytes: number;
  readonly uptimeMs: number;
}

export interface PacketFields {
  readonly number?: number;
  readonly key?: Buffer;
  readonly rest?: Buffer;
}

export interface Packet {
  readonly type: number;
  readonly number: number;
  readonly key: Buffer;
  readonly rest: Buffer;
  readonly fd?: number | undefined;
}

export function encodeHeader(type: number, keyBytes: number, number: number): Buffer {
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header.writeUInt16LE(type, 0);
  header.writeUInt16LE(keyBytes, 2);
  header.writeUInt32LE(number, 4);
  return header;
}

/** The message in the first `bytes` of `data`, copied out; undefined: it is none. */
export function decodePacket(data: Buffer, bytes: number): Packet | undefined {
  if (bytes < HEADER_BYTES) return undefined;
  const keyEnd = HEADER_BYTES + data.readUInt16LE(2);
  if (keyEnd > bytes) return undefined;
  return {
    type: data.readUInt16LE(0),
    number: data.readUInt32LE(4),
    key: Buffer.from(data.subarray(HEADER_BYTES, keyEnd)),
    rest: Buffer.from(data.subarray(keyEnd, bytes)),
  };
}

/** Later keepers may send more fields behind these. */
export function decodeStats(rest: Buffer): KeeperStats {
  const field = (index: number): number =>
    rest.length < 8 * (index + 1) ? 0 : Number(rest.readBigUInt64LE(8 * index));
  const isHeld = rest.length >= 32 && rest.readBigUInt64LE(24) !== 0xffff_ffff_ffff_ffffn;
  return {
    entries: field(0),
    entriesMax: field(1),
    clients: field(2),
    holderAgeMs: isHeld ? field(3) : undefined,
    limitMs: field(4),
    shutdowns: field(5),
    refused: field(6),
    dropped: field(7),
    blobBytes: field(8),
    uptimeMs: field(9),
  };
}

export function keyBytes(key: string, bytesMin: number): Buffer {
  const bytes = Buffer.from(key, 'utf8');
  if (bytes.length >= bytesMin && bytes.length <= KEY_BYTES_MAX) return bytes;
  throw new MeshError(
    'MESH_LIMIT',
    `a key of ${bytes.length} bytes for the keeper; ${bytesMin} to ${KEY_BYTES_MAX} are allowed`,
  );
}

export function metaBytes(meta: Buffer): Buffer {
  if (meta.length <= META_BYTES_MAX) return meta;
  throw new MeshError(
    'MESH_LIMIT',
    `meta of ${meta.length} bytes for the keeper; ${META_BYTES_MAX} are allowed`,
  );
}
