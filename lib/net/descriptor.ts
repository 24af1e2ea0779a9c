// SPDX-License-Identifier: Apache-2.0
// The descriptor under a socket. Node.js keeps that of its own to itself.

import type { StreamSocket } from './stream-socket.ts';

interface SocketInternals {
  readonly fd?: number;
  readonly _handle?: { readonly fd: number } | null;
}

/** Undefined once the socket is closed. */
export function descriptorOf(socket: StreamSocket): number | undefined {
  const internals = socket as StreamSocket & SocketInternals;
  const fd = internals.fd ?? internals._handle?.fd;
  return fd === undefined || fd < 0 ? undefined : fd;
}
