// SPDX-License-Identifier: Apache-2.0
// Asks the kernel through netlink, synchronously, about the network namespace that the thread is in: a dump of
// messages of one kind, and a socket that becomes readable when something of a group changes.

import { MeshError } from '#lib/core/errors.ts';
import {
  AF_NETLINK,
  bind,
  checked,
  close,
  EAGAIN,
  EINTR,
  errnoText,
  recv,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_RAW,
  send,
  socket,
  stableBytes,
} from './native.ts';

const HEADER = 16;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_REQUEST_DUMP = 0x301;
/** The kernel fills at most this much in one answer. */
const CHUNK = 64 * 1024;
const CHUNKS_MAX = 4096;

/** Where this thread receives; calls are synchronous and `take` starts no other dump. Made anew it would cost 64 KB each. */
const chunk = stableBytes(CHUNK);

/** Sends a dump request and hands each answer's payload (behind the header) to `take`; valid only during the call. */
export function netlinkDump(
  protocol: number,
  type: number,
  payload: Uint8Array,
  take: (payload: Buffer) => void,
): void {
  const context = `a netlink dump (protocol ${protocol}, type ${type})`;
  const fd = checked('socket', socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), context);
  try {
    const request = stableBytes(HEADER + payload.byteLength);
    request.writeUInt32LE(request.byteLength, 0);
    request.writeUInt16LE(type, 4);
    request.writeUInt16LE(NLM_F_REQUEST_DUMP, 6);
    request.set(payload, HEADER);
    checked('send', send(fd, request, request.byteLength, 0), context);
    for (let round = 0; round < CHUNKS_MAX; round++) {
      const length = recv(fd, chunk, CHUNK, 0);
      if (length === -EINTR) continue;
      checked('recv', length, context);
      if (takeMessages(chunk.subarray(0, length), take, context)) return;
    }
    throw new MeshError('MESH_LIMIT', `${context} does not end`);
  } finally {
    close(fd);
  }
}

/** True: the dump is complete. */
function takeMessages(chunk: Buffer, take: (payload: Buffer) => void, context: string): boolean {
  for (let at = 0; at + HEADER <= chunk.byteLength; ) {
    const length = chunk.readUInt32LE(at);
    const type = chunk.readUInt16LE(at + 4);
    if (length < HEADER || at + length > chunk.byteLength) break;
    if (type === NLMSG_DONE) return true;
    if (type === NLMSG_ERROR) {
      const answer = chunk.readInt32LE(at + HEADER);
      throw new MeshError('MESH_SYSCALL', `${context} failed with ${errnoText(answer)}`);
    }
    take(chunk.subarray(at + HEADER, at + length));
    at += (length + 3) & ~3;
  }
  return false;
}

/** A socket of the present namespace that becomes readable when something of the groups changes. */
export function netlinkWatch(protocol: number, groups: number): number {
  const context = `a netlink subscription (protocol ${protocol})`;
  const fd = checked(
    'socket',
    socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol),
    context,
  );
  const address = stableBytes(12);
  address.writeUInt16LE(AF_NETLINK, 0);
  address.writeUInt32LE(groups, 8);
  const answer = bind(fd, address, 12);
  if (answer < 0) close(fd);
  checked('bind', answer, context);
  return fd;
}

/** Throws away what a watching socket has to say (also that it said too much: ENOBUFS). */
export function netlinkDrain(fd: number): void {
  for (let round = 0; round < CHUNKS_MAX; round++) {
    const answer = recv(fd, chunk, chunk.byteLength, 0);
    if (answer === -EAGAIN) return;
  }
}

/** Walks the attributes behind `start`. */
export function netlinkAttributes(
  payload: Buffer,
  start: number,
  take: (type: number, value: Buffer) => void,
): void {
  for (let at = start; at + 4 <= payload.byteLength; ) {
    const length = payload.readUInt16LE(at);
    if (length < 4 || at + length > payload.byteLength) return;
    take(payload.readUInt16LE(at + 2) & 0x3fff, payload.subarray(at + 4, at + length));
    at += (length + 3) & ~3;
  }
}
