// SPDX-License-Identifier: Apache-2.0
// Sockets that read into one buffer shared by a thread: connected ones through `onread`, accepted ones by taking the
// handle of a paused accepted socket into a new `net.Socket` with `onread`. The latter is no public interface of
// Node.js: it is used in this file only, proved once before use, and without it reading falls back to 'data'.

import { randomUUID } from 'node:crypto';
import { createServer, type Server, Socket, type SocketConstructorOpts } from 'node:net';
import type { Log } from '#lib/core/log.ts';
import { resetSocket } from './reset.ts';

export const SHARED_BUFFER_BYTES = 65_536;

/** The buffer of this thread. What is read is used up or copied before the callback returns. */
const shared = Buffer.allocUnsafeSlow(SHARED_BUFFER_BYTES);

/** What `net` keeps in a socket beside its public interface. */
interface SocketInternals {
  _handle: object | null;
  _server: unknown;
}

/** One socket, one settable receiver; see agent/proxy/exchange/byte-source.ts for the rules. */
export class SharedSource {
  readonly socket: Socket;
  readonly encrypted = false;
  onBytes: ((buffer: Buffer, length: number) => void) | null = null;

  /** `options` name the descriptor or handle. Nothing is read before `resume`; half-open ends are allowed. */
  constructor(options: SocketConstructorOpts | { readonly handle: object | null }) {
    const all: SocketConstructorOpts & { readonly manualStart: true } = {
      ...(options as SocketConstructorOpts),
      manualStart: true,
      allowHalfOpen: true,
      onread: {
        buffer: shared,
        callback: (length: number, buffer: Uint8Array): boolean => {
          if (this.onBytes === null) this.socket.destroy();
          else this.onBytes(buffer as Buffer, length);
          return true;
        },
      },
    };
    this.socket = new Socket(all);
  }

  reset(): void {
    resetSocket(this.socket);
  }
}

/** A source that reads through 'data' events: any socket, also an encrypted one. */
export class EventSource {
  readonly socket: Socket;
  readonly encrypted = false;
  onBytes: ((buffer: Buffer, length: number) => void) | null = null;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.pause();
    socket.on('data', (chunk: Buffer) => {
      if (this.onBytes === null) socket.destroy();
      else this.onBytes(chunk, chunk.length);
    });
  }

  reset(): void {
    resetSocket(this.socket);
  }
}

export type AcceptedSource = SharedSource | EventSource;

let takesHandles: Promise<boolean> | undefined;
let proved = false;

/** Whether accepted sockets can read into the shared buffer here; tried once per thread. */
export function proveSharedAccept(log: Log): Promise<boolean> {
  takesHandles ??= tryOnce(log);
  return takesHandles;
}

async function tryOnce(log: Log): Promise<boolean> {
  const sent = 'shared';
  // An abstract socket: no port, no file, nobody else's namespace.
  const path = `\0nodemesh-${process.pid}-${randomUUID()}`;
  let server: Server | undefined;
  try {
    const echoed = await new Promise<string>((resolve, reject) => {
      server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (raw) => {
        const source = takeHandle(raw);
        source.socket.on('error', reject);
        source.onBytes = (buffer, length) => {
          source.socket.end(buffer === shared ? buffer.toString('latin1', 0, length) : 'a buffer of its own');
        };
        source.socket.on('end', () => source.socket.destroy());
        source.socket.resume();
      });
      server.on('error', reject);
      server.listen({ path }, () => {
        const client = new Socket();
        let received = '';
        client.on('error', reject);
        client.on('data', (chunk: Buffer) => {
          received += chunk.toString('latin1');
        });
        client.on('end', () => resolve(received));
        client.connect({ path }, () => client.write(sent));
      });
    });
    proved = echoed === sent;
    if (!proved) log.warn({ echoed }, 'accepted sockets cannot share a buffer here; reading costs more');
  } catch (error) {
    log.warn({ error }, 'accepted sockets cannot share a buffer here; reading costs more');
  } finally {
    server?.close();
  }
  return proved;
}

/** The source of a socket that a `pauseOnConnect`, `allowHalfOpen` server accepted and nobody has read. */
export function acceptedSource(raw: Socket): AcceptedSource {
  return proved ? takeHandle(raw) : new EventSource(raw);
}

function takeHandle(raw: Socket): SharedSource {
  const before = raw as unknown as SocketInternals;
  const handle = before._handle;
  before._handle = null;
  const source = new SharedSource({ handle });
  // The server counts its connections through the socket; the new one signs off for the old.
  (source.socket as unknown as SocketInternals)._server = before._server;
  before._server = null;
  return source;
}
