// SPDX-License-Identifier: Apache-2.0
// Who is on the other side of a Unix socket, by the kernel's word (SO_PEERCRED).

import type { Socket } from 'node:net';
import { descriptorOf } from './descriptor.ts';
import { checked, getsockopt, SOL_SOCKET } from './native.ts';

const SO_PEERCRED = 17;

/** The uid of the process that connected; undefined once the socket is closed. */
export function peerUid(socket: Socket): number | undefined {
  const fd = descriptorOf(socket);
  if (fd === undefined) return undefined;
  // struct ucred { pid_t pid; uid_t uid; gid_t gid; }
  const credentials = Buffer.alloc(12);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(credentials.length);
  checked(
    'getsockopt(SO_PEERCRED)',
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length),
    'asking who connected',
  );
  return credentials.readUInt32LE(4);
}
