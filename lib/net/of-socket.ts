// SPDX-License-Identifier: Apache-2.0
// One listener for an event of many sockets.

import type { Socket } from 'node:net';

/** An event calls its listeners with the socket as `this`. */
export function ofSocket<Args extends readonly unknown[]>(
  listen: (socket: Socket, ...args: Args) => void,
): (this: Socket, ...args: Args) => void {
  return function (...args) {
    listen(this, ...args);
  };
}
