// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { afterEach, describe, test } from 'node:test';
import { writeDirect } from './direct-write.ts';

const TIMEOUT_MS = 20_000;

let open: Socket[] = [];

async function pair(): Promise<readonly [near: Socket, far: Socket]> {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const near = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' });
  const [[far]] = (await Promise.all([once(server, 'connection'), once(near, 'connect')])) as [
    [Socket],
    unknown,
  ];
  server.close();
  open.push(near, far);
  far.on('error', () => undefined);
  return [near, far];
}

async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

afterEach(() => {
  for (const socket of open) socket.destroy();
  open = [];
});

describe('writing without the stream', { timeout: TIMEOUT_MS }, () => {
  test('what is written arrives in order, however it was written', async () => {
    const [near, far] = await pair();
    const all = readAll(far);
    let expected = '';
    for (let index = 0; index < 50; index++) {
      const text = `${index} \xe4\n`;
      expected += text.repeat(3);
      writeDirect(near, text);
      near.write(text, 'latin1');
      writeDirect(near, Buffer.from(text, 'latin1'));
    }
    near.end();
    assert.equal((await all).toString('latin1'), expected);
    assert.equal(near.bytesWritten, expected.length);
  });

  test('the stream is left alone where the kernel takes all at once', async () => {
    const [near, far] = await pair();
    // What `net` does is learned from the first of each kind.
    writeDirect(near, 'a');
    writeDirect(near, Buffer.from('b'));
    near.write = () => assert.fail('written through the stream');
    writeDirect(near, 'c');
    writeDirect(near, Buffer.from('d'));
    let text = '';
    while (text.length < 4) text += String((await once(far, 'data'))[0]);
    assert.equal(text, 'abcd');
  });

  test('what the kernel does not take waits in the stream, and the end comes after it', async () => {
    const [near, far] = await pair();
    const expected: Buffer[] = [];
    const write = (chunk: string | Buffer): void => {
      expected.push(Buffer.from(chunk as string, 'latin1'));
      writeDirect(near, chunk);
    };
    for (let index = 0; !near.writableNeedDrain; index++) {
      write(index % 2 === 0 ? `${index} `.repeat(4_000) : Buffer.alloc(60_000, index));
    }
    assert.ok(near.writableLength > 0);
    write('late');
    const drained = once(near, 'drain');
    const all = readAll(far);
    await drained;
    assert.equal(near.writableLength, 0);
    write('after it');
    near.end();
    assert.ok((await all).equals(Buffer.concat(expected)));
    assert.equal(near.bytesWritten, Buffer.concat(expected).length);
  });

  test('an error is the socket’s', async () => {
    const [near, far] = await pair();
    far.resetAndDestroy();
    await once(far, 'close');
    const failed = once(near, 'error');
    // Until the kernel knows.
    const again = setInterval(() => writeDirect(near, 'x'), 1);
    const [error] = (await failed) as [NodeJS.ErrnoException];
    clearInterval(again);
    assert.match(error.code ?? '', /^(EPIPE|ECONNRESET)$/);
    await once(near, 'close');
    writeDirect(near, 'nobody is there');
  });
});
