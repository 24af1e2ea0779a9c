// SPDX-License-Identifier: Apache-2.0
// Two connected stream sockets inside this process (socketpair(2)), as descriptors that belong to the caller.

import koffi from 'koffi';
import { checked, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, stableBytes } from './native.ts';

const AF_UNIX = 1;
const native = koffi
  .load(null)
  .func('int socketpair(int family, int type, int protocol, void *descriptors)') as (
  family: number,
  type: number,
  protocol: number,
  descriptors: Uint8Array,
) => number;

export function openPair(): [number, number] {
  const descriptors = stableBytes(8);
  const answer = native(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, descriptors);
  checked('socketpair', answer < 0 ? -koffi.errno() : answer, 'opening a pair of sockets');
  return [descriptors.readInt32LE(0), descriptors.readInt32LE(4)];
}
