// SPDX-License-Identifier: Apache-2.0
// Reads and writes the kernel's notes about single sockets, by descriptor (about 1-3 us each): where an accepted
// connection was really going, that a socket is the agent's own, whose address an application shall see. For workers:
// made from a plain description, uses bpf(2) alone, allocates nothing in the kernel calls.

import { parseIp } from '#lib/core/addresses.ts';
import { MeshError } from '#lib/core/errors.ts';
import { ENOENT, errnoText } from '#lib/net/native.ts';
import { kinds, readAddress, readU32, structs, writeAddress, writeU32 } from './abi.ts';
import { MapCalls } from './kernel-calls.ts';

/** What `Redirection.kernel` is: plain data for structured clone. */
export interface KernelDescription {
  readonly layout: number;
  readonly acceptedFd: number;
  readonly markFd: number;
}

export type AcceptedRecord =
  /** An application's connect; `ip` is canonical (mapped addresses as IPv4). */
  | { readonly kind: 'outbound'; readonly ip: string; readonly port: number; readonly podIndex: number }
  /** The other end is this very agent, for the pod of that number. */
  | { readonly kind: 'voucher'; readonly clientPodIndex: number };

export interface SocketRecords {
  /** Undefined: nothing is recorded (an outbound connection without a record is to be closed). */
  readAccepted(fd: number): AcceptedRecord | undefined;
  /** Before connect: the connect hooks leave this socket alone. */
  markOwn(fd: number): void;
  /** Before connect: own, and the accepting agent reads a voucher for this pod. */
  markCarrier(fd: number, clientPodIndex: number): void;
  /** Before connect: own, and the accepting application sees this address as its peer. */
  markClient(fd: number, clientIp: string, clientPort: number): void;
}

export function createSocketRecords(kernel: KernelDescription): SocketRecords {
  const fields = structs.nm_mark.fields;
  const accepted = new MapCalls(kernel.acceptedFd, 4, structs.nm_accepted.size);
  const mark = new MapCalls(kernel.markFd, 4, structs.nm_mark.size);

  const setMark = (fd: number, kind: number, what: string): void => {
    writeU32(mark.key, fd, 0);
    writeU32(mark.value, kind, fields.kind);
    const answer = mark.update();
    if (answer < 0)
      throw new MeshError('MESH_BPF_MAP', `${what} failed with ${errnoText(answer)} on descriptor ${fd}`);
  };

  return {
    readAccepted: (fd) => {
      writeU32(accepted.key, fd, 0);
      const answer = accepted.lookup();
      if (answer === -ENOENT) return undefined;
      if (answer < 0)
        throw new MeshError('MESH_BPF_MAP', `reading a connection's record failed with ${errnoText(answer)}`);
      const value = accepted.value;
      const podIndex = readU32(value, fields.pod);
      switch (readU32(value, fields.kind)) {
        case kinds.outbound:
          return {
            kind: 'outbound',
            ip: readAddress(value, fields.ip),
            port: value.readUInt16BE(fields.port),
            podIndex,
          };
        case kinds.carrier:
          return { kind: 'voucher', clientPodIndex: podIndex };
        default:
          return undefined;
      }
    },
    markOwn: (fd) => {
      mark.value.fill(0);
      setMark(fd, kinds.own, 'marking a socket as own');
    },
    markCarrier: (fd, clientPodIndex) => {
      mark.value.fill(0);
      writeU32(mark.value, clientPodIndex, fields.pod);
      setMark(fd, kinds.carrier, 'marking a carrier');
    },
    markClient: (fd, clientIp, clientPort) => {
      const ip = parseIp(clientIp);
      if (ip === undefined) throw new MeshError('MESH_BPF_MAP', `"${clientIp}" is no IP address of a client`);
      mark.value.fill(0);
      writeAddress(mark.value, ip, fields.ip);
      mark.value.writeUInt16BE(clientPort, fields.port);
      setMark(fd, kinds.client, "marking a socket with its client's address");
    },
  };
}
