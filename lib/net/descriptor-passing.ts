// SPDX-License-Identifier: Apache-2.0
// Unix sockets of whole messages (SOCK_SEQPACKET) that carry descriptors (SCM_RIGHTS), and sealed memory to pass along.
// Synchronous, with a time limit on the socket: for the keeper, which answers at once, not for peers that one waits for.

import { fstatSync, readSync, writeSync } from 'node:fs';
import { MeshError } from '#lib/core/errors.ts';
import {
  addressOf,
  bindInt,
  checked,
  close,
  EINTR,
  errnoText,
  fcntl,
  SOCK_CLOEXEC,
  SOL_SOCKET,
  setsockopt,
  socket,
  stableBytes,
} from './native.ts';

const AF_UNIX = 1;
const SOCK_SEQPACKET = 5;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x8;
const MSG_TRUNC = 0x20;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_NOEXEC_SEAL = 8;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
/** F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE. */
const ALL_SEALS = 0xf;
const EINVAL = 22;
const PATH_BYTES_MAX = 107;
/** Signals interrupt a wait that has a time limit; each repetition waits anew. */
const INTERRUPTIONS_MAX = 8;

const connectCall = bindInt<[fd: number, address: Uint8Array, length: number]>(
  'int connect(int fd, const void *address, unsigned int length)',
);
const sendmsg = bindInt<[fd: number, message: Uint8Array, flags: number]>(
  'long sendmsg(int fd, const void *message, int flags)',
);
const recvmsg = bindInt<[fd: number, message: Uint8Array, flags: number]>(
  'long recvmsg(int fd, void *message, int flags)',
);
const memfdCreate = bindInt<[name: string, flags: number]>(
  'int memfd_create(const char *name, unsigned int flags)',
);

/*
 * struct msghdr (56)                         struct cmsghdr with room for two descriptors (24)
 *  0 name, 8 name length                      0 length (8)
 * 16 parts -> struct iovec {base, length}     8 level (4), 12 type (4)
 * 24 number of parts                         16 descriptor, 20 descriptor
 * 32 control, 40 its length, 48 flags
 */
const PART_OFFSET = 56;
const CONTROL_OFFSET = 72;
const CONTROL_BYTES = 24;
const HEADER_BYTES = 16;

export interface ReceivedPacket {
  /** 0: the peer has closed. */
  readonly bytes: number;
  /** The caller owns them. */
  readonly descriptors: readonly number[];
  /** Data or descriptors did not fit. */
  readonly truncated: boolean;
}

/** A connected SEQPACKET socket, which its owner closes, or -errno. Waits nowhere longer than `timeoutMs`. */
export function connectPackets(path: string, timeoutMs: number): number {
  const name = Buffer.from(path);
  if (name.length > PATH_BYTES_MAX) {
    throw new MeshError(
      'MESH_CONFIG_INVALID',
      `the socket path ${path} is longer than ${PATH_BYTES_MAX} bytes`,
    );
  }
  const context = `connecting to ${path}`;
  const fd = checked('socket', socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), context);
  const limit = stableBytes(16);
  limit.writeBigInt64LE(BigInt(Math.floor(timeoutMs / 1000)), 0);
  limit.writeBigInt64LE(BigInt(Math.round((timeoutMs % 1000) * 1000)), 8);
  const address = stableBytes(2 + name.length + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  let answer = setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, limit, 16);
  if (answer === 0) answer = setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, limit, 16);
  if (answer === 0) answer = interruptible(() => connectCall(fd, address, 2 + name.length + 1));
  if (answer === 0) return fd;
  close(fd);
  return answer;
}

/** Sends and receives whole messages on one socket; its memory is made once. */
export class PacketSocket {
  readonly fd: number;
  readonly #message = stableBytes(CONTROL_OFFSET + CONTROL_BYTES);
  /** What is received stands here until the next call. */
  readonly data: Buffer;
  readonly #out: Buffer;

  constructor(fd: number, packetBytesMax: number) {
    this.fd = fd;
    this.data = stableBytes(packetBytesMax);
    this.#out = stableBytes(packetBytesMax);
    const base = addressOf(this.#message);
    this.#message.writeBigUInt64LE(base + BigInt(PART_OFFSET), 16);
    this.#message.writeBigUInt64LE(1n, 24);
  }

  /** The number of bytes, or -errno. */
  send(parts: readonly Uint8Array[], descriptor?: number): number {
    let length = 0;
    for (const part of parts) {
      this.#out.set(part, length);
      length += part.byteLength;
    }
    this.#aim(this.#out, length, descriptor === undefined ? 0 : HEADER_BYTES + 4);
    if (descriptor !== undefined) {
      this.#message.writeBigUInt64LE(BigInt(HEADER_BYTES + 4), CONTROL_OFFSET);
      this.#message.writeInt32LE(SOL_SOCKET, CONTROL_OFFSET + 8);
      this.#message.writeInt32LE(SCM_RIGHTS, CONTROL_OFFSET + 12);
      this.#message.writeInt32LE(descriptor, CONTROL_OFFSET + HEADER_BYTES);
    }
    return interruptible(() => sendmsg(this.fd, this.#message, MSG_NOSIGNAL));
  }

  /** The packet, or -errno. */
  receive(): ReceivedPacket | number {
    this.#aim(this.data, this.data.length, CONTROL_BYTES);
    const bytes = interruptible(() => recvmsg(this.fd, this.#message, MSG_CMSG_CLOEXEC));
    if (bytes < 0) return bytes;
    const descriptors: number[] = [];
    const isRights =
      this.#message.readBigUInt64LE(40) >= BigInt(HEADER_BYTES) &&
      this.#message.readInt32LE(CONTROL_OFFSET + 8) === SOL_SOCKET &&
      this.#message.readInt32LE(CONTROL_OFFSET + 12) === SCM_RIGHTS;
    if (isRights) {
      const end = Math.min(Number(this.#message.readBigUInt64LE(CONTROL_OFFSET)), CONTROL_BYTES);
      for (let at = HEADER_BYTES; at + 4 <= end; at += 4) {
        descriptors.push(this.#message.readInt32LE(CONTROL_OFFSET + at));
      }
    }
    const truncated = (this.#message.readInt32LE(48) & (MSG_TRUNC | MSG_CTRUNC)) !== 0;
    return { bytes, descriptors, truncated };
  }

  #aim(part: Buffer, length: number, controlBytes: number): void {
    const base = addressOf(this.#message);
    this.#message.writeBigUInt64LE(addressOf(part), PART_OFFSET);
    this.#message.writeBigUInt64LE(BigInt(length), PART_OFFSET + 8);
    this.#message.writeBigUInt64LE(controlBytes === 0 ? 0n : base + BigInt(CONTROL_OFFSET), 32);
    this.#message.writeBigUInt64LE(BigInt(controlBytes), 40);
    this.#message.writeInt32LE(0, 48);
  }
}

function interruptible(call: () => number): number {
  let answer = call();
  for (let again = 0; answer === -EINTR && again < INTERRUPTIONS_MAX; again++) answer = call();
  return answer;
}

/** A copy of `bytes` in memory that nobody can change any more. The descriptor belongs to the caller. */
export function sealedCopy(name: string, bytes: Uint8Array): number {
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  let fd = memfdCreate(name, flags | MFD_NOEXEC_SEAL);
  if (fd === -EINVAL) fd = memfdCreate(name, flags); // before Linux 6.3
  checked('memfd_create', fd, `making ${name}`);
  try {
    for (let at = 0; at < bytes.byteLength; ) at += writeSync(fd, bytes, at);
    checked('fcntl(F_ADD_SEALS)', fcntl(fd, F_ADD_SEALS, ALL_SEALS), `sealing ${name}`);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** What a sealed memfd holds. Refuses one that somebody could still change. */
export function readSealed(fd: number, bytesMax: number): Buffer {
  const seals = fcntl(fd, F_GET_SEALS, 0);
  if (seals < 0 || (seals & ALL_SEALS) !== ALL_SEALS) {
    const found = seals < 0 ? errnoText(seals) : `seals ${seals}`;
    throw new MeshError('MESH_PROTOCOL', `a descriptor that should be sealed memory is not (${found})`);
  }
  const { size } = fstatSync(fd);
  if (size > bytesMax)
    throw new MeshError('MESH_LIMIT', `sealed memory of ${size} bytes; ${bytesMax} are allowed`);
  const bytes = Buffer.allocUnsafeSlow(size);
  let at = 0;
  while (at < size) {
    const count = readSync(fd, bytes, at, size - at, at);
    if (count === 0) throw new MeshError('MESH_PROTOCOL', `sealed memory ended after ${at} of ${size} bytes`);
    at += count;
  }
  return bytes;
}
