// SPDX-License-Identifier: Apache-2.0
// gRPC over node:http2 and mutual TLS without ALPN, as Linkerd's proxies call their control plane. Answers are read by
// field number.

import { once } from 'node:events';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  type IncomingHttpHeaders,
} from 'node:http2';
import { connect as connectTls } from 'node:tls';
import { Message } from './protobuf.ts';

export interface RawGrpcOptions {
  readonly host: string;
  readonly port: number;
  readonly serverName: string;
  readonly anchorsPem: string;
  /** Absent: no certificate is shown. */
  readonly shown?: { readonly cert: string; readonly key: string };
  /** Offered; absent: there is no ALPN. */
  readonly alpn?: readonly string[];
}

export class RawGrpc {
  readonly #session: ClientHttp2Session;

  static async connect(options: RawGrpcOptions): Promise<RawGrpc> {
    const { host, port, serverName, anchorsPem, shown, alpn } = options;
    const socket = connectTls({
      host,
      port,
      servername: serverName,
      ca: anchorsPem,
      ...shown,
      ...(alpn === undefined ? {} : { ALPNProtocols: [...alpn] }),
    });
    await once(socket, 'secureConnect');
    return new RawGrpc(connect(`https://${serverName}`, { createConnection: () => socket }));
  }

  private constructor(session: ClientHttp2Session) {
    this.#session = session;
    // Every call hears of it too.
    session.on('error', () => undefined);
  }

  /** `path` is `package.Service/Method`. */
  call(path: string, message: Uint8Array): RawCall {
    const stream = this.#session.request({
      ':method': 'POST',
      ':path': `/${path}`,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([head, message]));
    return new RawCall(stream);
  }

  /** Everything that the server had sent before has come in. */
  async settled(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#session.ping((error) => (error === null ? resolve() : reject(error)));
    });
  }

  close(): void {
    this.#session.destroy();
  }
}

export interface RawStatus {
  readonly code: number;
  readonly message: string;
}

/** The messages of a call, one by one, and its end. */
export class RawCall {
  readonly #stream: ClientHttp2Stream;
  readonly #messages: Message[] = [];
  #buffer = Buffer.alloc(0);
  #status: RawStatus | undefined;
  #failure: Error | undefined;
  #headers: IncomingHttpHeaders = {};

  constructor(stream: ClientHttp2Stream) {
    this.#stream = stream;
    const takeStatus = (headers: IncomingHttpHeaders): void => {
      const code = headers['grpc-status'];
      if (code === undefined) return;
      this.#status = {
        code: Number(code),
        message: decodeURIComponent(String(headers['grpc-message'] ?? '')),
      };
      this.#wake();
    };
    stream.on('response', (headers) => {
      this.#headers = headers;
      takeStatus(headers);
      this.#wake();
    });
    stream.on('trailers', takeStatus);
    stream.on('data', (part: Buffer) => this.#data(part));
    stream.on('error', (error) => {
      this.#failure = error;
      this.#wake();
    });
    stream.on('close', () => {
      this.#failure ??= new Error('the stream ended without a status');
      this.#wake();
    });
  }

  /** Messages that have come and were not taken. */
  get pending(): number {
    return this.#messages.length;
  }

  get ended(): boolean {
    return this.#status !== undefined;
  }

  async headers(): Promise<IncomingHttpHeaders> {
    while (Object.keys(this.#headers).length === 0 && this.#failure === undefined) await this.#woken();
    return this.#headers;
  }

  async next(): Promise<Message> {
    for (;;) {
      const message = this.#messages.shift();
      if (message !== undefined) return message;
      if (this.#status !== undefined) throw new Error(`ended: ${JSON.stringify(this.#status)}`);
      if (this.#failure !== undefined) throw this.#failure;
      await this.#woken();
    }
  }

  async status(): Promise<RawStatus> {
    while (this.#status === undefined) {
      if (this.#failure !== undefined) throw this.#failure;
      await this.#woken();
    }
    return this.#status;
  }

  cancel(): void {
    this.#stream.close();
  }

  readonly #waiting = new Set<() => void>();

  #wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  #woken(): Promise<void> {
    return new Promise((resolve) => this.#waiting.add(resolve));
  }

  #data(part: Buffer): void {
    this.#buffer = Buffer.concat([this.#buffer, part]);
    while (this.#buffer.length >= 5) {
      const end = 5 + this.#buffer.readUInt32BE(1);
      if (this.#buffer.length < end) break;
      this.#messages.push(new Message(this.#buffer.subarray(5, end)));
      this.#buffer = this.#buffer.subarray(end);
    }
    this.#wake();
  }
}
