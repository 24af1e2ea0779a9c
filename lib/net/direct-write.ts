// SPDX-License-Identifier: Apache-2.0
// Writes to a connected TCP socket of Node.js without the stream around it: as a rule the kernel takes all at once, and then there is
// nothing to buffer and nobody to call back. Where it does not, or fails, the stream takes that over as if it had
// written itself. This is no public interface of Node.js: it is used in this file only, after `net` itself was seen to do
// the same; without it writing goes through the stream.

import type { Socket } from 'node:net';
import { PlainSocket } from './plain-socket.ts';
import type { StreamSocket } from './stream-socket.ts';

/** 0: the kernel has taken all; another number: an error; else a write that goes on. */
type Answer = number | object;
type Write = (request: null, chunk: string | Uint8Array) => Answer;
type Method = 'writeLatin1String' | 'writeBuffer';
type Handle = Record<Method, Write>;

/** Whether `net` was seen to write in this way; false: it does so otherwise. */
const seen: Record<Method, boolean | undefined> = { writeLatin1String: undefined, writeBuffer: undefined };

/** As `socket.write`, of text in latin1 or of bytes, to a connected socket; `encrypted`: that of TLS. */
export function writeOut(stream: StreamSocket, chunk: string | Uint8Array, encrypted: boolean): void {
  if (!(stream instanceof PlainSocket)) {
    // There is no third kind.
    const socket = stream as Socket;
    if (encrypted) socket.write(chunk, 'latin1');
    else writeDirect(socket, chunk);
  } else if (typeof chunk === 'string') stream.writeText(chunk);
  else stream.writeBytes(chunk, chunk.length);
}

/** As `socket.write`, of text in latin1 or of bytes. The socket is connected and not encrypted. */
export function writeDirect(socket: Socket, chunk: string | Uint8Array): void {
  const method = typeof chunk === 'string' ? 'writeLatin1String' : 'writeBuffer';
  const handle = (socket as unknown as { readonly _handle?: Handle | null })._handle;
  // What waits in the stream comes first.
  if (
    !handle ||
    seen[method] === false ||
    socket.writableLength > 0 ||
    !socket.writable ||
    socket.connecting
  ) {
    socket.write(chunk, 'latin1');
    return;
  }
  if (seen[method] === undefined) {
    watch(socket, handle, method, chunk);
    return;
  }
  const answer = handle[method](null, chunk);
  if (answer !== 0) through(socket, handle, method, chunk, () => answer);
}

/** Writes through the stream, which calls `write` in the place of the handle's own. */
function through(
  socket: Socket,
  handle: Handle,
  method: Method,
  chunk: string | Uint8Array,
  write: Write,
): void {
  Object.defineProperty(handle, method, { value: write, configurable: true });
  try {
    socket.write(chunk, 'latin1');
  } finally {
    Reflect.deleteProperty(handle, method);
  }
}

/** The first write of a kind, by the stream. */
function watch(socket: Socket, handle: Handle, method: Method, chunk: string | Uint8Array): void {
  const own = handle[method];
  through(socket, handle, method, chunk, (...args) => {
    const answer = own.apply(handle, args);
    const alike = args.length === 2 && args[0] === null && args[1] === chunk;
    if (!alike) seen[method] = false;
    else if (answer === 0) seen[method] = true;
    return answer;
  });
}
