// SPDX-License-Identifier: Apache-2.0
// Against nghttp2, through node:http2 on loopback: what it sends is understood, and what is written it understands.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import net, { type AddressInfo } from 'node:net';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { NO_ERROR, SETTINGS_HEADER_TABLE_SIZE } from './codes.ts';
import { FrameLog } from './frame-log.ts';
import {
  frameHeaderBlock,
  writeDataHeader,
  writePreface,
  writeSettings,
  writeSettingsAck,
} from './frame-writer.ts';
import { FrameReader } from './frames.ts';
import { Decoder } from './hpack/decoder.ts';
import { Encoder } from './hpack/encoder.ts';
import { defineField } from './hpack/field.ts';
import { HeaderList } from './hpack/header-list.ts';
import { VALID, validateRequest, validateResponse, validateTrailers } from './message.ts';

type Pair = readonly [name: string, value: string];

/** A side of a connection that answers SETTINGS and keeps what comes. */
class Peer extends FrameLog {
  readonly reader: FrameReader;
  readonly decoder = new Decoder();
  readonly encoder = new Encoder();
  readonly lists: { stream: number; endStream: boolean; verdict: number; pairs: Pair[] }[] = [];
  readonly bodies = new Map<number, string>();
  readonly #socket: net.Socket;
  readonly #isServer: boolean;
  #waiting: (() => void) | null = null;

  constructor(socket: net.Socket, isServer: boolean) {
    super();
    this.#socket = socket;
    this.#isServer = isServer;
    this.reader = new FrameReader(isServer, this);
    const out = Buffer.alloc(100);
    const at = isServer ? 0 : writePreface(out, 0);
    socket.write(out.subarray(0, writeSettings(out, at, [])));
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      assert.equal(this.reader.push(chunk, 0, chunk.length), NO_ERROR);
      this.#waiting?.();
    });
  }

  override onHeaders(
    stream: number,
    endStream: boolean,
    _streamError: number,
    buffer: Buffer,
    start: number,
    end: number,
  ): number {
    const list = new HeaderList();
    const error = this.decoder.decode(buffer, start, end, list);
    const isTrailer = this.lists.some((earlier) => earlier.stream === stream);
    const validate = isTrailer ? validateTrailers : this.#isServer ? validateRequest : validateResponse;
    const pseudo = [
      list.statusField,
      list.methodField,
      list.schemeField,
      list.authorityField,
      list.pathField,
    ];
    const pairs = [...pseudo, ...list.fields.slice(0, list.length)]
      .filter((field) => field !== null)
      .map((field): Pair => [field.name, field.value]);
    this.lists.push({ stream, endStream, verdict: validate(list), pairs });
    return error;
  }

  override onData(stream: number, buffer: Buffer, start: number, end: number): number {
    this.bodies.set(stream, (this.bodies.get(stream) ?? '') + buffer.toString('latin1', start, end));
    return NO_ERROR;
  }

  override onSetting(id: number, value: number): number {
    if (id === SETTINGS_HEADER_TABLE_SIZE) this.encoder.setTableBytesMax(value);
    return NO_ERROR;
  }

  override onSettingsEnd(): number {
    const out = Buffer.alloc(9);
    this.#socket.write(out.subarray(0, writeSettingsAck(out, 0)));
    return NO_ERROR;
  }

  async until(done: () => boolean): Promise<void> {
    while (!done()) {
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
      });
    }
  }

  send(stream: number, pairs: readonly Pair[], endStream: boolean): void {
    const out = Buffer.alloc(200_000);
    let at = this.encoder.begin(out, 9);
    for (const [name, value] of pairs) at = this.encoder.writeField(out, at, defineField(name, value));
    this.#socket.write(out.subarray(0, frameHeaderBlock(out, 0, at - 9, stream, endStream, 16_384)));
  }

  sendData(stream: number, text: string, endStream: boolean): void {
    const out = Buffer.alloc(9 + text.length);
    writeDataHeader(out, 0, text.length, stream, endStream);
    out.write(text, 9, 'latin1');
    this.#socket.write(out);
  }
}

const anyValue = fc.string({
  unit: fc
    .integer({ min: 32, max: 255 })
    .filter((code) => code !== 127)
    .map((code) => String.fromCharCode(code)),
  maxLength: 60,
});
const names = ['x-a', 'x-b', 'x-request-id', 'accept', 'user-agent', 'x-long-name-that-nobody-knows'];
const messages = fc.sample(
  fc.uniqueArray(
    fc
      .tuple(fc.constantFrom(...names), fc.oneof(anyValue, fc.constantFrom('same', 'other', '')))
      .map(([name, value]): Pair => [name, value.trim()]),
    { selector: ([name]) => name, maxLength: names.length },
  ),
  { numRuns: 200, seed: 7 },
);
// Every byte that may be in a value, Huffman coded, and a block that needs CONTINUATION.
const allBytes = Array.from({ length: 256 }, (_, code) => String.fromCharCode(code)).filter(
  (character) => character >= ' ' && character !== '\x7f',
);
messages.push([['x-a', `|${allBytes.join('')}|`]], [['x-a', `|${allBytes.reverse().join('|')}|`]]);
messages.push([['x-b', '\xff'.repeat(20_000)]]);

for (const headerTableSize of [4096, 0, 100, 65_536]) {
  test(`requests of nghttp2 with a table of ${headerTableSize} bytes, and answers to it`, {
    timeout: 60_000,
  }, async () => {
    const peers: Peer[] = [];
    const server = net.createServer((socket) => peers.push(new Peer(socket, true)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const client = http2.connect(`http://127.0.0.1:${port}`, { settings: { headerTableSize } });
    await once(client, 'remoteSettings');
    const peer = peers[0] as Peer;
    for (const [index, pairs] of messages.entries()) {
      const stream = index * 2 + 1;
      const request = client.request({
        ':path': `/${index}`,
        ':method': 'POST',
        ...Object.fromEntries(pairs),
      });
      const answered = once(request, 'response') as Promise<[http2.IncomingHttpHeaders]>;
      const trailed = once(request, 'trailers') as Promise<[http2.IncomingHttpHeaders]>;
      request.end(`body ${index}`);
      request.resume();
      await peer.until(() => peer.bodies.get(stream) === `body ${index}`);
      const received = peer.lists.find((list) => list.stream === stream);
      assert.equal(received?.verdict, VALID);
      assert.deepEqual(received.pairs, [
        [':method', 'POST'],
        [':scheme', 'http'],
        [':authority', `127.0.0.1:${port}`],
        [':path', `/${index}`],
        ...pairs,
      ]);
      peer.send(stream, [[':status', '200'], ...pairs], false);
      peer.sendData(stream, 'answer', false);
      peer.send(stream, [['x-trailer', 'last'], ...pairs], true);
      const [headers] = await answered;
      assert.equal(headers[':status'], 200);
      for (const [name, value] of pairs) assert.equal(headers[name], value, name);
      const [trailers] = await trailed;
      assert.equal(trailers['x-trailer'], 'last');
    }
    client.destroy();
    for (const { verdict } of peer.lists) assert.equal(verdict, VALID);
    await new Promise((resolve) => server.close(resolve));
  });

  test(`responses of nghttp2 with a table of ${headerTableSize} bytes, and requests to it`, {
    timeout: 60_000,
  }, async () => {
    const requests: http2.IncomingHttpHeaders[] = [];
    const server = http2.createServer({ settings: { headerTableSize } });
    server.on('stream', (stream: http2.ServerHttp2Stream, headers) => {
      requests.push(headers);
      stream.respond(
        { ':status': 200, date: 'now', ...Object.fromEntries(messages[requests.length - 1] ?? []) },
        { waitForTrailers: true },
      );
      stream.on('wantTrailers', () => stream.sendTrailers({ 'x-trailer': 'last' }));
      stream.end('answer');
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = net.connect((server.address() as AddressInfo).port, '127.0.0.1');
    const peer = new Peer(socket, false);
    for (const [index, pairs] of messages.entries()) {
      const stream = index * 2 + 1;
      peer.send(
        stream,
        [[':method', 'GET'], [':scheme', 'http'], [':authority', 'web'], [':path', `/${index}`], ...pairs],
        true,
      );
      await peer.until(() => peer.lists.filter((list) => list.stream === stream).length === 2);
      const [answer, trailers] = peer.lists.filter((list) => list.stream === stream);
      assert.equal(answer?.verdict, VALID);
      assert.deepEqual(answer.pairs, [[':status', '200'], ['date', 'now'], ...pairs]);
      assert.equal(peer.bodies.get(stream), 'answer');
      assert.deepEqual(trailers, { stream, endStream: true, verdict: VALID, pairs: [['x-trailer', 'last']] });
      assert.equal(requests[index]?.[':path'], `/${index}`);
      for (const [name, value] of pairs) assert.equal(requests[index]?.[name], value, name);
    }
    socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
}
