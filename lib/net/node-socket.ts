// SPDX-License-Identifier: Apache-2.0
// A `net.Socket` over a TCP descriptor, for TLS and for Node's own HTTP server. Node.js would ask the kernel three times
// what the descriptor is; the class of its handles, which it keeps to itself, saves that.

import { Socket, type SocketConstructorOpts } from 'node:net';
import { syscallError } from './native.ts';

/** Of libuv, under each TCP socket: learned from the first one. */
type TcpHandle = new (kind: number) => { open(fd: number): number };
const KIND_SOCKET = 0;
let Tcp: TcpHandle | undefined;

interface SocketInternals {
  readonly _handle: object;
}

/** Connected or not; paused, and with half-open ends. The descriptor is its from now on. Throws MeshError. */
export function nodeSocket(fd: number): Socket {
  const socket = new Socket(optionsFor(fd));
  if (Tcp === undefined) {
    const { _handle: handle } = socket as unknown as SocketInternals;
    if (handle.constructor.name === 'TCP') Tcp = handle.constructor as TcpHandle;
  }
  return socket.pause();
}

function optionsFor(fd: number): SocketConstructorOpts {
  const options = { manualStart: true, allowHalfOpen: true };
  if (Tcp === undefined) return { ...options, fd };
  const handle = new Tcp(KIND_SOCKET);
  const answer = handle.open(fd);
  if (answer < 0) throw syscallError('open', answer, 'using a socket');
  return { ...options, handle } as object;
}
