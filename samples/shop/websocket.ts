// SPDX-License-Identifier: Apache-2.0
// The server's side of WebSockets for short texts, as small as it can be (RFC 6455): no extensions, no subprotocols,
// no fragments, which no browser makes of short texts. Node.js has a client only.

import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';

const TEXT = 1;
const CLOSE = 8;
const PING = 9;
const PONG = 10;
const PAYLOAD_BYTES_MAX = 64 * 1024;
/** What a client that does not read may have waiting, before it is cut off. */
const UNREAD_BYTES_MAX = 1024 * 1024;
/** For as long the client may take to agree to a close. */
const CLOSE_MS = 2_000;

export interface Frame {
  readonly kind: number;
  readonly payload: Buffer;
  /** How many bytes of the input it took. */
  readonly bytes: number;
}

/** The first frame that a client sent, undefined while it is not whole, or the code to close with (RFC 6455 7.4.1). */
export function parseFrame(input: Buffer): Frame | number | undefined {
  if (input.length < 2) return undefined;
  const first = input.readUInt8(0);
  const second = input.readUInt8(1);
  const kind = first & 0x0f;
  if ((first & 0xf0) !== 0x80 || (second & 0x80) === 0) return 1002;
  let length = second & 0x7f;
  let at = 2;
  if (length >= 126) {
    if (kind >= CLOSE) return 1002;
    if (length === 127) return 1009;
    if (input.length < 4) return undefined;
    length = input.readUInt16BE(2);
    at = 4;
  }
  if (length > PAYLOAD_BYTES_MAX) return 1009;
  if (input.length < at + 4 + length) return undefined;
  const payload = Buffer.from(input.subarray(at + 4, at + 4 + length));
  for (let index = 0; index < length; index++)
    payload[index] = (payload[index] ?? 0) ^ (input[at + (index & 3)] ?? 0);
  return { kind, payload, bytes: at + 4 + length };
}

export function writeFrame(kind: number, payload: Buffer): Buffer {
  const long = payload.length >= 126;
  const head = Buffer.alloc(long ? 4 : 2);
  head[0] = 0x80 | kind;
  head[1] = long ? 126 : payload.length;
  if (long) head.writeUInt16BE(payload.length, 2);
  return Buffer.concat([head, payload]);
}

export interface WebSocketEvents {
  onText(text: string): void;
  /** Once, however it ended. */
  onClose(): void;
}

export class ServerWebSocket {
  readonly #socket: Duplex;
  readonly #events: WebSocketEvents;
  #rest = Buffer.alloc(0);
  #ended = false;

  private constructor(socket: Duplex, events: WebSocketEvents) {
    this.#socket = socket;
    this.#events = events;
  }

  /** Takes over the socket of an `upgrade`; undefined, and a 400, for a request that asks for no WebSocket. */
  static accept(
    request: IncomingMessage,
    socket: Duplex,
    early: Buffer,
    events: WebSocketEvents,
  ): ServerWebSocket | undefined {
    const key = request.headers['sec-websocket-key'];
    const { upgrade, 'sec-websocket-version': version } = request.headers;
    socket.on('error', () => socket.destroy());
    if (upgrade?.toLowerCase() !== 'websocket' || version !== '13' || key === undefined) {
      socket.end('HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
      return undefined;
    }
    const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
    );
    const opened = new ServerWebSocket(socket, events);
    socket.on('data', (chunk: Buffer) => opened.#read(chunk));
    socket.on('end', () => socket.end());
    socket.on('close', () => opened.#events.onClose());
    if (early.length > 0) opened.#read(early);
    return opened;
  }

  send(text: string): void {
    this.#write(TEXT, Buffer.from(text));
  }

  /** Says so; the connection ends when the client has said it too (RFC 6455 7.1.1), which else sees a broken one. */
  close(code: number): void {
    if (this.#ended) return;
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    this.#write(CLOSE, payload);
    this.#ended = true;
    const limit = setTimeout(() => this.#socket.destroy(), CLOSE_MS);
    this.#socket.once('close', () => clearTimeout(limit));
  }

  #write(kind: number, payload: Buffer): void {
    if (this.#ended) return;
    this.#socket.write(writeFrame(kind, payload));
    if (this.#socket.writableLength > UNREAD_BYTES_MAX) this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    for (;;) {
      const frame = parseFrame(this.#rest);
      if (frame === undefined) return;
      if (typeof frame === 'number') return this.close(frame);
      this.#rest = this.#rest.subarray(frame.bytes);
      if (frame.kind === CLOSE) {
        this.close(1000);
        this.#socket.end();
        return;
      }
      if (this.#ended) continue;
      if (frame.kind === TEXT) this.#events.onText(frame.payload.toString());
      else if (frame.kind === PING) this.#write(PONG, frame.payload);
      else if (frame.kind !== PONG) this.close(1003);
    }
  }
}
