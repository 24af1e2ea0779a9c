// SPDX-License-Identifier: Apache-2.0
// Sockets that read into one buffer shared by a thread: connected ones through `onread`, accepted ones by making the
// `net.Socket` of each handle that a listener accepts ourselves, with `onread`. The latter is no public interface of
// Node.js: it is used in this file only, proved once before use, and without it reading falls back to 'data'.

import { randomUUID } from 'node:crypto';
import { createServer, type Server, Socket, type SocketConstructorOpts } from 'node:net';
import type { Log } from '#lib/core/log.ts';
import { syscallError } from './native.ts';
import { READ_BYTES_MIN, type ReadBudget } from './read-budget.ts';
import { resetSocket } from './reset.ts';
import { readInto } from './user-buffer.ts';

export const SHARED_BUFFER_BYTES = 65_536;

/** The buffer of this thread. What is read is used up or copied before the callback returns. */
const shared = Buffer.allocUnsafeSlow(SHARED_BUFFER_BYTES);

/** What `net` keeps in a server beside its public interface. */
interface ServerInternals {
  readonly _handle: { onconnection: (status: number, handle?: object) => void };
}

/** Of libuv, under each TCP socket: learned from the first that is accepted. */
type TcpHandle = new (kind: number) => { open(fd: number): number };
const KIND_SOCKET = 0;
let Tcp: TcpHandle | undefined;

/** One socket, one settable receiver; see agent/proxy/exchange/byte-source.ts for the rules. */
export class SharedSource {
  readonly socket: Socket;
  readonly encrypted = false;
  onBytes: ((buffer: Buffer, length: number) => void) | null = null;
  /** What may be read in a turn; null: whatever comes. */
  budget: ReadBudget | null = null;

  /** `options` name the descriptor or handle. Nothing is read before `resume`; half-open ends are allowed. */
  constructor(options: SocketConstructorOpts | { readonly handle: object; readonly noDelay?: boolean }) {
    const all: SocketConstructorOpts & { readonly manualStart: true } = {
      ...(options as SocketConstructorOpts),
      manualStart: true,
      allowHalfOpen: true,
      onread: {
        buffer: shared,
        callback: (length: number, buffer: Uint8Array): boolean => this.#took(buffer as Buffer, length),
      },
    };
    this.socket = new Socket(all);
  }

  /** For a TCP socket that is not connected yet. Node.js asks the kernel three times what a descriptor is. */
  static ofTcp(fd: number): SharedSource {
    if (Tcp === undefined) return new SharedSource({ fd, noDelay: true });
    const handle = new Tcp(KIND_SOCKET);
    const answer = handle.open(fd);
    if (answer < 0) throw syscallError('open', answer, 'using a socket');
    return new SharedSource({ handle, noDelay: true });
  }

  readInto(buffer: Buffer): void {
    readInto(this.socket, buffer, (length) => this.#took(buffer, length));
  }

  /** False: the pod has read its share, and nothing more comes until `release`. */
  #took(buffer: Buffer, length: number): boolean {
    const { budget, onBytes } = this;
    if (onBytes === null) {
      this.socket.destroy();
      return true;
    }
    if (budget === null || length <= READ_BYTES_MIN) {
      onBytes(buffer, length);
      return budget === null || budget.take(length, 0, this);
    }
    const began = performance.now();
    onBytes(buffer, length);
    return budget.take(length, performance.now() - began, this);
  }

  /** The next turn: reads on, unless its owner has stopped it since. */
  release(): void {
    if (!this.socket.destroyed && !this.socket.isPaused()) this.socket.resume();
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
  /** Not kept here. */
  budget: ReadBudget | null = null;

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
      server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, () =>
        reject(new Error('connections come otherwise')),
      );
      takeHandles(server, (source) => {
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

/**
 * Gives what a `pauseOnConnect`, `allowHalfOpen` server accepts, paused; called before it listens. The server does not
 * count these connections: its 'close' comes when it no longer listens.
 */
export function onAccepted(server: Server, accept: (source: AcceptedSource) => void): void {
  if (proved) takeHandles(server, accept);
  else server.on('connection', (raw) => accept(new EventSource(raw)));
}

function takeHandles(server: Server, accept: (source: SharedSource) => void): void {
  // Before the event loop gets to see a connection.
  server.prependOnceListener('listening', () => {
    const listener = (server as unknown as ServerInternals)._handle;
    const byNode = listener.onconnection;
    listener.onconnection = (status, handle) => {
      if (status === 0 && handle !== undefined) {
        if (Tcp === undefined && handle.constructor.name === 'TCP') Tcp = handle.constructor as TcpHandle;
        accept(new SharedSource({ handle }));
      } else byNode.call(listener, status, handle);
    };
  });
}
