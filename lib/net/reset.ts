// SPDX-License-Identifier: Apache-2.0
// Ends a TCP connection so that the peer sees an error. `Socket.resetAndDestroy` writes what waits and says FIN first,
// and while a FIN is on its way libuv refuses to reset: the handle would stay open, and 'close' never come.

import { descriptorOf } from './descriptor.ts';
import { close, getsockopt, setsockopt, SO_ACCEPTCONN, SOL_SOCKET, stableBytes } from './native.ts';
import type { StreamSocket } from './stream-socket.ts';

const SO_LINGER = 13;
/** struct linger { l_onoff = 1, l_linger = 0 }: close(2) sends RST. */
const atOnce = stableBytes(8);
atOnce.writeInt32LE(1);

/** RST for a TCP socket that is connected; anything else is destroyed. What waits to be written is dropped. */
export function resetSocket(socket: StreamSocket): void {
  if (socket.destroyed) return;
  const fd = descriptorOf(socket);
  // It cannot fail in a way that matters: then the connection ends with FIN.
  if (fd !== undefined) setsockopt(fd, SOL_SOCKET, SO_LINGER, atOnce, atOnce.length);
  socket.destroy();
}

const listens = stableBytes(4);
const length = stableBytes(4);

/** Closes a descriptor whose owner is dead: RST where it is a connection. A listener may have other descriptors. */
export function closeLost(fd: number): void {
  length.writeUInt32LE(listens.length);
  const isSocket = getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, listens, length) === 0;
  // What is accepted from it would inherit the option.
  if (isSocket && listens.readInt32LE() === 0) setsockopt(fd, SOL_SOCKET, SO_LINGER, atOnce, atOnce.length);
  close(fd);
}
