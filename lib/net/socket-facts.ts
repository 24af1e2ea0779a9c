// SPDX-License-Identifier: Apache-2.0
// What the kernel says about a single socket, by descriptor: which one it is, and whether it listens.

import { checked, getsockopt, SOL_SOCKET, stableBytes } from './native.ts';

const SO_ACCEPTCONN = 30;
const SO_COOKIE = 57;

function option(fd: number, name: number, size: number, what: string): Buffer {
  const value = stableBytes(size);
  const length = stableBytes(4);
  length.writeUInt32LE(size);
  checked('getsockopt', getsockopt(fd, SOL_SOCKET, name, value, length), what);
  return value;
}

/** Never given to another socket until the machine restarts; all descriptors of one socket have the same. */
export function socketCookie(fd: number): bigint {
  return option(fd, SO_COOKIE, 8, 'reading the cookie of a socket').readBigUInt64LE();
}

/** False once it was shut down, by whoever has a descriptor of it. */
export function listens(fd: number): boolean {
  return option(fd, SO_ACCEPTCONN, 4, 'asking whether a socket listens').readUInt32LE() === 1;
}
