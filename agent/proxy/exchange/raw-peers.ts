// SPDX-License-Identifier: Apache-2.0
// For tests: clients and servers on loopback that send and see exactly the bytes they are told, and how a connection
// ended (FIN or RST).

import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** One end of a connection with everything it received. */
export class RawPeer {
  readonly socket: Socket;
  received = '';
  /** FIN was received. */
  ended = false;
  closed = false;
  /** `ECONNRESET` and so on. */
  error: string | undefined;
  readonly #waiters = new Set<() => void>();

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.received += chunk.toString('latin1');
      this.#changed();
    });
    socket.on('end', () => {
      this.ended = true;
      this.#changed();
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      this.error = error.code;
      this.#changed();
    });
    socket.on('close', () => {
      this.closed = true;
      this.#changed();
    });
  }

  /** Waits until `condition` holds; the test's own timeout is the limit. */
  async when(condition: () => boolean): Promise<void> {
    while (!condition()) {
      if (this.closed)
        throw new Error(`closed (${this.error ?? 'FIN'}) after ${JSON.stringify(this.received)}`);
      await new Promise<void>((resolve) => {
        this.#waiters.add(resolve);
      });
    }
  }

  /** Takes what was received up to and including `text`. */
  async take(text: string): Promise<string> {
    await this.when(() => this.received.includes(text));
    const end = this.received.indexOf(text) + text.length;
    const taken = this.received.slice(0, end);
    this.received = this.received.slice(end);
    return taken;
  }

  /** One head, up to and including the empty line. */
  head(): Promise<string> {
    return this.take('\r\n\r\n');
  }

  /** Everything until the other side's FIN or the end of the connection. */
  async rest(): Promise<string> {
    if (!this.closed) await this.when(() => this.ended || this.closed || this.error !== undefined);
    return this.received;
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.socket.destroy();
    await this.#whenClosed();
  }

  /** Not `once` of node:events: a write that fails on the way out is no error of who waits for the end. */
  async #whenClosed(): Promise<void> {
    if (!this.closed) await new Promise((resolve) => this.socket.once('close', resolve));
  }

  /** Waits for the end of both directions; says how it came. */
  async gone(): Promise<'FIN' | 'RST'> {
    if (!this.closed) {
      if (!this.ended && this.error === undefined)
        await this.when(() => this.ended || this.error !== undefined);
      if (this.error === undefined) this.socket.end();
      await this.#whenClosed();
    }
    return this.error === undefined ? 'FIN' : 'RST';
  }

  write(text: string): void {
    this.socket.write(text, 'latin1');
  }

  #changed(): void {
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const resolve of waiters) resolve();
  }
}

export class RawServer {
  readonly port: number;
  readonly connections: RawPeer[] = [];
  /** For servers that answer by themselves. */
  onConnection: ((peer: RawPeer) => void) | null = null;
  readonly #server: Server;
  #taken = 0;
  #turn = 0;

  private constructor(server: Server) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
    server.on('connection', (socket: Socket) => {
      const peer = new RawPeer(socket);
      this.connections.push(peer);
      this.onConnection?.(peer);
    });
  }

  /** On a port of loopback, or on a listening descriptor, which the server takes over. */
  static async listen(fd?: number): Promise<RawServer> {
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    if (fd === undefined) server.listen(0, '127.0.0.1');
    else server.listen({ fd });
    await once(server, 'listening');
    return new RawServer(server);
  }

  /** The next connection that was made. */
  async accept(): Promise<RawPeer> {
    const turn = this.#turn;
    while (this.#taken >= this.connections.length) {
      await once(this.#server, 'connection');
      if (turn !== this.#turn) throw new Error('waited for a connection that did not come');
    }
    return this.connections[this.#taken++] as RawPeer;
  }

  /** From now on `accept` gives what comes from now on, and nobody waits for it. */
  skip(): void {
    this.#turn++;
    this.#taken = this.connections.length;
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const peer of this.connections) peer.socket.destroy();
    await closed;
  }
}

/** Lets the event loop turn until `condition` holds; the test's own timeout is the limit. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

export async function rawClient(port: number, host = '127.0.0.1'): Promise<RawPeer> {
  const socket = connect({ port, host, allowHalfOpen: true, noDelay: true });
  await once(socket, 'connect');
  return new RawPeer(socket);
}
