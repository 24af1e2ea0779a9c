// SPDX-License-Identifier: Apache-2.0
// Speaks to the keeper (keeper/keeper.c; docs/reference/keeper-protocol.md): the process that holds duplicates of the
// pods' listeners and the agent's last snapshot while agents come and go. Synchronous: the keeper is on this machine
// and answers in microseconds; one that does not answer in time is given up.

import { MeshError } from '#lib/core/errors.ts';
import { connectPackets, PacketSocket, readSealed, sealedCopy } from '#lib/net/descriptor-passing.ts';
import { close, EAGAIN, EBADF, ECONNRESET, EPIPE, errnoText, syscallError } from '#lib/net/native.ts';
import {
  BLOB_BYTES_MAX,
  decodePacket,
  decodeStats,
  encodeHeader,
  keyBytes,
  type KeeperStats,
  metaBytes,
  type Packet,
  type PacketFields as Fields,
  PACKET_BYTES_MAX,
  PROTOCOL_VERSION,
  replyTypes,
  requestTypes,
  retryableReasons,
  type Role,
  roles,
} from './wire.ts';

export type { KeeperStats, Role } from './wire.ts';

export interface KeptDescriptor {
  readonly key: string;
  readonly meta: Buffer;
  readonly fd: number;
}

export interface KeeperClient {
  /** All kept descriptors (the caller owns the duplicates) and the last blob. */
  list(): { readonly descriptors: readonly KeptDescriptor[]; readonly blob: Buffer | undefined };
  /** Keeps a duplicate of a listening socket; replaces an entry of the same key. The caller's own stays open. */
  put(key: string, meta: Buffer, fd: number): void;
  /** Forgets every entry whose key begins so, without shutting it down. Answers how many there were. */
  remove(prefix: string): number;
  /** Replaces the blob by a sealed copy of `bytes`. */
  setBlob(bytes: Buffer): void;
  /** Makes this connection the holder, whoever was it before. Counts as a beat. */
  hold(): void;
  /** Says that the holder lives, and who that is. Only the holder's beats count. */
  beat(): Role;
  stats(): KeeperStats;
  /** True after `close`, and after a failure that leaves the conversation in doubt: connect anew. */
  readonly closed: boolean;
  close(): void;
}

/** Throws MESH_KEEPER_UNAVAILABLE (retryable) or MESH_KEEPER_REFUSED. So does every method of the client. */
export function connectKeeper(path: string, options: { readonly timeoutMs: number }): KeeperClient {
  const fd = connectPackets(path, options.timeoutMs);
  if (fd < 0) throw unavailable(`the keeper at ${path} cannot be reached: ${errnoText(fd)}`);
  const client = new SocketKeeperClient(fd, path);
  try {
    client.greet();
    return client;
  } catch (error) {
    client.close();
    throw error;
  }
}

const unavailable = (message: string): MeshError =>
  new MeshError('MESH_KEEPER_UNAVAILABLE', message, { retryable: true });

const NONE = Buffer.alloc(0);

class SocketKeeperClient implements KeeperClient {
  readonly #socket: PacketSocket;
  readonly #path: string;
  #closed = false;

  constructor(fd: number, path: string) {
    this.#socket = new PacketSocket(fd, PACKET_BYTES_MAX);
    this.#path = path;
  }

  get closed(): boolean {
    return this.#closed;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    close(this.#socket.fd);
  }

  greet(): void {
    this.#ask(requestTypes.hello, replyTypes.ok, { number: PROTOCOL_VERSION });
  }

  list(): { readonly descriptors: readonly KeptDescriptor[]; readonly blob: Buffer | undefined } {
    const descriptors: KeptDescriptor[] = [];
    let blob: Buffer | undefined;
    try {
      this.#send(requestTypes.list, {});
      for (;;) {
        const reply = this.#receive();
        if (reply.type === replyTypes.entry && reply.fd !== undefined) {
          descriptors.push({ key: reply.key.toString('utf8'), meta: reply.rest, fd: reply.fd });
        } else if (reply.type === replyTypes.blob && reply.fd !== undefined) {
          blob = readAndClose(reply.fd);
        } else if (reply.type === replyTypes.end && reply.fd === undefined) {
          if (reply.number === descriptors.length) return { descriptors, blob };
          throw this.#doubt(`listed ${descriptors.length} entries and counts ${reply.number}`);
        } else {
          if (reply.fd !== undefined) close(reply.fd);
          throw this.#refusalOrDoubt(reply);
        }
      }
    } catch (error) {
      for (const { fd } of descriptors) close(fd);
      this.close(); // what is left of the list would be taken for later answers
      throw error;
    }
  }

  put(key: string, meta: Buffer, fd: number): void {
    this.#ask(requestTypes.put, replyTypes.ok, { key: keyBytes(key, 1), rest: metaBytes(meta) }, fd);
  }

  remove(prefix: string): number {
    return this.#ask(requestTypes.del, replyTypes.ok, { key: keyBytes(prefix, 0) }).number;
  }

  setBlob(bytes: Buffer): void {
    if (bytes.length > BLOB_BYTES_MAX) {
      throw new MeshError(
        'MESH_LIMIT',
        `a blob of ${bytes.length} bytes for the keeper; ${BLOB_BYTES_MAX} are allowed`,
      );
    }
    const fd = sealedCopy('nodemesh-snapshot', bytes);
    try {
      this.#ask(requestTypes.blob, replyTypes.ok, {}, fd);
    } finally {
      close(fd);
    }
  }

  hold(): void {
    this.#ask(requestTypes.hold, replyTypes.ok, {});
  }

  beat(): Role {
    const reply = this.#ask(requestTypes.beat, replyTypes.role, {});
    const role = roles[reply.number];
    if (role === undefined) throw this.#doubt(`answered with the unknown role ${reply.number}`);
    return role;
  }

  stats(): KeeperStats {
    const reply = this.#ask(requestTypes.stats, replyTypes.stats, {});
    return decodeStats(reply.rest);
  }

  #ask(type: number, expected: number, fields: Fields, fd?: number): Packet {
    this.#send(type, fields, fd);
    const reply = this.#receive();
    if (reply.type === expected && reply.fd === undefined) return reply;
    if (reply.fd !== undefined) close(reply.fd);
    throw this.#refusalOrDoubt(reply);
  }

  #send(type: number, { number = 0, key = NONE, rest = NONE }: Fields, fd?: number): void {
    if (this.#closed) throw unavailable(`the connection to the keeper at ${this.#path} is closed`);
    const sent = this.#socket.send([encodeHeader(type, key.length, number), key, rest], fd);
    // EBADF speaks of the descriptor to be sent: nothing has left.
    if (sent === -EBADF) throw syscallError('sendmsg', sent, `handing descriptor ${fd} to the keeper`);
    // After EPIPE the keeper's reason to close may still be there to be read.
    if (sent < 0 && sent !== -EPIPE) throw this.#failure('cannot be told', sent);
  }

  #receive(): Packet {
    let received = this.#socket.receive();
    // It closed with a request of ours unread; what it said before comes after this error.
    if (received === -ECONNRESET) received = this.#socket.receive();
    if (typeof received === 'number') throw this.#failure('does not answer', received);
    const [fd, ...more] = received.descriptors;
    const packet =
      received.truncated || more.length > 0 ? undefined : decodePacket(this.#socket.data, received.bytes);
    if (packet !== undefined) return { ...packet, fd };
    for (const one of received.descriptors) close(one);
    if (received.bytes === 0) {
      this.close();
      throw unavailable(`the keeper at ${this.#path} has closed the connection`);
    }
    // Truncated: most likely this process has no room for another descriptor.
    throw this.#doubt(received.truncated ? 'sent more than there was room for' : 'sent what is no message');
  }

  #refusalOrDoubt(reply: Packet): MeshError {
    if (reply.type !== replyTypes.refused) return this.#doubt(`answered with type ${reply.type}`);
    const reason = reply.rest.toString('latin1') || `reason ${reply.number}`;
    const retryable = retryableReasons.has(reply.number);
    return new MeshError('MESH_KEEPER_REFUSED', `the keeper at ${this.#path} refused: ${reason}`, {
      retryable,
    });
  }

  #failure(what: string, answer: number): MeshError {
    this.close();
    const reason = answer === -EAGAIN ? 'no answer in time' : errnoText(answer);
    return unavailable(`the keeper at ${this.#path} ${what}: ${reason}`);
  }

  #doubt(what: string): MeshError {
    this.close();
    return unavailable(`the keeper at ${this.#path} ${what}`);
  }
}

function readAndClose(fd: number): Buffer {
  try {
    return readSealed(fd, BLOB_BYTES_MAX);
  } finally {
    close(fd);
  }
}
