// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { parseFrame, ServerWebSocket, writeFrame } from './websocket.ts';

/** As a client sends it. */
function masked(first: number, payload: Buffer): Buffer {
  const whole = writeFrame(1, payload);
  const head = Buffer.from(whole.subarray(0, whole.length - payload.length));
  head[0] = first;
  head[1] = (head[1] ?? 0) | 0x80;
  const mask = Buffer.from([0x12, 0x00, 0xff, 0x7f]);
  return Buffer.concat([head, mask, payload.map((byte, index) => byte ^ (mask[index & 3] ?? 0))]);
}

describe('frames', () => {
  it('are read at every split point, short and long', () => {
    for (const length of [0, 1, 125, 126, 1000]) {
      const payload = Buffer.alloc(length, 'xyz');
      const bytes = masked(0x81, payload);
      for (let cut = 0; cut < bytes.length; cut++)
        assert.equal(parseFrame(bytes.subarray(0, cut)), undefined);
      const frame = { kind: 1, payload, bytes: bytes.length };
      assert.deepEqual(parseFrame(Buffer.concat([bytes, Buffer.from('more')])), frame);
    }
  });

  it('that no client may send, or none so long, end the connection', () => {
    assert.equal(parseFrame(writeFrame(1, Buffer.from('not masked'))), 1002);
    assert.equal(parseFrame(masked(0x01, Buffer.from('a fragment'))), 1002);
    assert.equal(parseFrame(masked(0xc1, Buffer.from('of an extension'))), 1002);
    assert.equal(parseFrame(masked(0x89, Buffer.alloc(126))), 1002);
    assert.equal(parseFrame(Buffer.from([0x81, 0xff])), 1009);
  });
});

describe('a WebSocket with the client of Node.js', () => {
  let server: Server;
  let url = '';
  let closed: (() => void) | undefined;
  const open = new Set<ServerWebSocket>();
  before(async () => {
    server = createServer().listen(0, '127.0.0.1');
    server.on('upgrade', (request, socket, early) => {
      const peer = ServerWebSocket.accept(request, socket, early, {
        onText: (text) => peer?.send(text),
        onClose: () => closed?.(),
      });
      if (peer !== undefined) open.add(peer);
    });
    await once(server, 'listening');
    url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  });
  after(() => server.close());

  it('carries texts both ways, and either side ends it', async () => {
    const socket = new WebSocket(url);
    await once(socket, 'open');
    for (const text of ['', 'grün', 'y'.repeat(60_000)]) {
      const said = once(socket, 'message') as Promise<[MessageEvent]>;
      socket.send(text);
      assert.equal((await said)[0].data, text);
    }
    const gone = new Promise<void>((resolve) => (closed = resolve));
    socket.close();
    assert.equal(((await once(socket, 'close')) as [CloseEvent])[0].code, 1000);
    await gone;

    const second = new WebSocket(url);
    await once(second, 'open');
    const ended = once(second, 'close') as Promise<[CloseEvent]>;
    for (const peer of open) peer.close(1001);
    assert.equal((await ended)[0].code, 1001);
  });

  it('a text that is too long ends it with 1009', async () => {
    const socket = new WebSocket(url);
    await once(socket, 'open');
    socket.send('z'.repeat(70_000));
    assert.equal(((await once(socket, 'close')) as [CloseEvent])[0].code, 1009);
  });

  it('a request without a key is refused', async () => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    socket.write('GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n');
    const [answer] = (await once(socket, 'data')) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 400 /);
    socket.destroy();
  });
});
