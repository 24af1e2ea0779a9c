// SPDX-License-Identifier: Apache-2.0
// One listener for an event of many sockets.

import type { StreamSocket } from './stream-socket.ts';

/** An event calls its listeners with the socket as `this`. */
export function ofSocket<Args extends readonly unknown[]>(
  listen: (socket: StreamSocket, ...args: Args) => void,
): (this: StreamSocket, ...args: Args) => void {
  return function (...args) {
    listen(this, ...args);
  };
}
