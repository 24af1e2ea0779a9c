// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { bytesWritten, endNow, sendNow } from './send-now.ts';

async function makePair(): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const near = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  const [[far]] = (await Promise.all([once(server, 'connection'), once(near, 'connect')])) as [
    [Socket],
    unknown,
  ];
  server.close();
  return [near, far];
}

function readAll(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
  socket.resume();
  return once(socket, 'end').then(() => text);
}

test('bytes leave at once and are counted, an end follows, and what comes back is still read', async () => {
  const [near, far] = await makePair();
  const received = readAll(far);
  const bytes = Buffer.from('one!');
  assert.equal(sendNow(near, bytes, 3), 3);
  bytes.fill('x');
  await new Promise((written) => {
    near.write('two', written);
  });
  assert.equal(sendNow(near, Buffer.from('three'), 5), 5);
  assert.equal(bytesWritten(near), 11);
  assert.equal(endNow(near), true);
  assert.equal(await received, 'onetwothree');
  far.end('back');
  assert.equal(await readAll(near), 'back');
  near.destroy();
  assert.equal(bytesWritten(near), 11);
});

test('where something waits, or nobody can be reached, it is left to the socket', async () => {
  const [near, far] = await makePair();
  const size = 65_536;
  const bytes = Buffer.alloc(size);
  let last = size;
  while (last === size) last = sendNow(near, bytes, size);
  const written = new Promise((done) => {
    near.write('waits', done);
  });
  assert.ok(near.writableLength > 0);
  far.resume();
  assert.equal(sendNow(near, bytes, 1), 0);
  assert.equal(endNow(near), false);
  await written;
  assert.equal(sendNow(near, bytes, 1), 1);
  const closed = once(far, 'close');
  near.destroy();
  assert.equal(sendNow(near, bytes, 1), 0);
  assert.equal(endNow(near), false);
  far.end();
  await closed;
});
