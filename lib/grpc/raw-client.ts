// SPDX-License-Identifier: Apache-2.0
// For tests: a client that writes HTTP/2 frames as it is told, and keeps what it is answered as lines of text.

import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { AddressInfo } from 'node:net';
import { FRAME_HEADER_BYTES, FRAME_SIZE_DEFAULT } from '#lib/http2/codes.ts';
import { FrameLog } from '#lib/http2/frame-log.ts';
import {
  frameHeaderBlock,
  writeDataHeader,
  writePreface,
  writeSettings,
  writeSettingsAck,
} from '#lib/http2/frame-writer.ts';
import { FrameReader } from '#lib/http2/frames.ts';
import { Decoder } from '#lib/http2/hpack/decoder.ts';
import { Encoder } from '#lib/http2/hpack/encoder.ts';
import { defineField } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { CallServer } from './call-server.ts';

/** Plain HTTP/2 on loopback in front of a server, whose connections come from `identity`. */
export async function listenPlain(server: CallServer, identity?: string): Promise<Server> {
  const listener = createServer((socket) => server.accept(socket, identity));
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  return listener;
}

export const portOf = (listener: Server): number => (listener.address() as AddressInfo).port;

/** Header lists as text. */
class Heard extends FrameLog {
  readonly #decoder = new Decoder();
  readonly #list = new HeaderList();

  override onHeaders(
    stream: number,
    endStream: boolean,
    streamError: number,
    buffer: Buffer,
    start: number,
    end: number,
  ): number {
    this.#decoder.decode(buffer, start, end, this.#list);
    const fields = this.#list.fields.slice(0, this.#list.length);
    const all = this.#list.statusField === null ? fields : [this.#list.statusField, ...fields];
    const text = Buffer.from(all.map(({ name, value }) => `${name}=${value}`).join(' '));
    return super.onHeaders(stream, endStream, streamError, text, 0, text.length);
  }
}

export class RawClient {
  readonly socket: Socket;
  /** Everything so far; DATA of a stream that goes on appears with what comes after it. */
  readonly lines: string[] = [];
  closed = false;
  readonly #heard = new Heard();
  readonly #reader = new FrameReader(false, this.#heard);
  readonly #encoder = new Encoder();
  #check: () => void = () => undefined;

  static async open(listener: Server, settings: readonly number[] = []): Promise<RawClient> {
    const socket = connect(portOf(listener), '127.0.0.1');
    await once(socket, 'connect');
    const client = new RawClient(socket);
    const greeting = Buffer.alloc(256);
    const at = writeSettings(greeting, writePreface(greeting, 0), settings);
    client.send(greeting.subarray(0, writeSettingsAck(greeting, at)));
    return client;
  }

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (bytes: Buffer) => {
      this.#reader.push(bytes, 0, bytes.length);
      this.lines.push(...this.#heard.take());
      this.#check();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
      this.#check();
    });
  }

  send(bytes: Buffer): void {
    this.socket.write(bytes);
  }

  /** What a function of `frame-writer.ts` writes. */
  frame(write: (out: Buffer, at: number) => number): void {
    const out = Buffer.alloc(1024);
    this.send(out.subarray(0, write(out, 0)));
  }

  headers(id: number, fields: Readonly<Record<string, string>>, endStream = false): void {
    const out = Buffer.alloc(100_000);
    let at = this.#encoder.begin(out, FRAME_HEADER_BYTES);
    for (const [name, value] of Object.entries(fields))
      at = this.#encoder.writeField(out, at, defineField(name, value));
    const bytes = at - FRAME_HEADER_BYTES;
    this.send(out.subarray(0, frameHeaderBlock(out, 0, bytes, id, endStream, FRAME_SIZE_DEFAULT)));
  }

  /** The head of a call of gRPC. */
  call(id: number, path: string, fields: Readonly<Record<string, string>> = {}): void {
    this.headers(id, {
      ':method': 'POST',
      ':scheme': 'http',
      ':path': path,
      ':authority': 'test',
      'content-type': 'application/grpc',
      te: 'trailers',
      ...fields,
    });
  }

  data(id: number, bytes: Uint8Array, endStream = false): void {
    const head = Buffer.alloc(FRAME_HEADER_BYTES);
    writeDataHeader(head, 0, bytes.length, id, endStream);
    this.send(Buffer.concat([head, bytes]));
  }

  /** Resolves with the first line that matches, once there is one. */
  async heard(pattern: RegExp): Promise<string> {
    for (;;) {
      const found = this.lines.find((line) => pattern.test(line));
      if (found !== undefined) return found;
      if (this.closed) throw new Error(`closed without ${String(pattern)}: ${this.lines.join(' | ')}`);
      await this.#more();
    }
  }

  async isClosed(): Promise<void> {
    while (!this.closed) await this.#more();
  }

  #more(): Promise<void> {
    return new Promise((resolve) => (this.#check = resolve));
  }
}
