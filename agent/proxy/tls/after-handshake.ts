// SPDX-License-Identifier: Apache-2.0
// The way out of a handshake. node:tls announces its end from within OpenSSL: whoever resets the connection there,
// the TCP socket below first, has Node.js free what OpenSSL still uses, and the process dies of it.

import type { TLSSocket } from 'node:tls';

/** Calls back in the next turn of the event loop, where everything may be done with the socket. */
export function afterHandshake(socket: TLSSocket, done: () => void): void {
  // Nobody else listens yet; an error closes the socket, which is what is looked at then.
  socket.on('error', () => socket.destroy());
  setImmediate(done);
}
