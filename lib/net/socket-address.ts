// SPDX-License-Identifier: Apache-2.0
// Addresses as the kernel wants them: sockaddr_in and sockaddr_in6.

import { formatIp, parseIp } from '#lib/core/addresses.ts';
import { MeshError } from '#lib/core/errors.ts';
import { AF_INET, AF_INET6 } from './native.ts';

/** Room for either. */
export const SOCKET_ADDRESS_BYTES = 28;

/** Fills `into` and returns the address's length. Throws MESH_PROTOCOL if `ip` is none. */
export function writeSocketAddress(into: Buffer, ip: string, port: number): number {
  const bytes = parseIp(ip);
  if (bytes === undefined) throw new MeshError('MESH_PROTOCOL', `"${ip}" is no IP address`);
  into.fill(0);
  const v4 = bytes.length === 4;
  into.writeUInt16LE(v4 ? AF_INET : AF_INET6, 0);
  into.writeUInt16BE(port, 2);
  into.set(bytes, v4 ? 4 : 8);
  return v4 ? 16 : SOCKET_ADDRESS_BYTES;
}

export function readSocketAddress(from: Buffer): { readonly ip: string; readonly port: number } {
  const v4 = from.readUInt16LE(0) === AF_INET;
  return { ip: formatIp(from.subarray(v4 ? 4 : 8, v4 ? 8 : 24)), port: from.readUInt16BE(2) };
}
