// SPDX-License-Identifier: Apache-2.0
// The descriptor under a socket of Node.js, which keeps it to itself.

import type { Socket } from 'node:net';

interface SocketInternals {
  readonly _handle: { readonly fd: number } | null;
}

/** Undefined once the socket is closed. */
export function descriptorOf(socket: Socket): number | undefined {
  const fd = (socket as unknown as SocketInternals)._handle?.fd;
  return fd === undefined || fd < 0 ? undefined : fd;
}
