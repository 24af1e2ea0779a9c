// SPDX-License-Identifier: Apache-2.0
// Writes to a plain socket by a system call of our own while nothing waits in it: no request object, no callback, no
// turn in between, and the bytes may lie in a buffer that is used again at once.

import type { Socket } from 'node:net';
import { descriptorOf } from './descriptor.ts';
import { MSG_DONTWAIT, send, shutdown } from './native.ts';

const MSG_NOSIGNAL = 0x4000;
const SHUT_WR = 1;

const sent = Symbol('sent');
type Counted = Socket & { [sent]?: number };

/**
 * How many of the first `length` bytes left; what did not is for `Socket.write`, which also finds out why. For a connected
 * TCP or Unix socket that only its owner writes to.
 */
export function sendNow(socket: Socket, bytes: Buffer, length: number): number {
  if (socket.writableLength > 0 || !socket.writable) return 0;
  const fd = descriptorOf(socket);
  if (fd === undefined) return 0;
  const size = send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (size <= 0) return 0;
  (socket as Counted)[sent] = ((socket as Counted)[sent] ?? 0) + size;
  return size;
}

/**
 * Sends FIN; false: `Socket.end` has to. The socket does not know of it, so it does not close itself after its peer's FIN
 * either.
 */
export function endNow(socket: Socket): boolean {
  if (socket.writableLength > 0 || !socket.writable) return false;
  const fd = descriptorOf(socket);
  return fd !== undefined && shutdown(fd, SHUT_WR) === 0;
}

/** All that was written to a socket, by whichever way. */
export const bytesWritten = (socket: Socket): number =>
  socket.bytesWritten + ((socket as Counted)[sent] ?? 0);
