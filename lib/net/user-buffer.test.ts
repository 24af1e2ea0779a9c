// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, createServer, connect as dial, type Socket } from 'node:net';
import { before, describe, test, type TestContext } from 'node:test';
import { connect, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { silentLog } from '#lib/core/log.ts';
import { proveUserBuffer, readInto } from './user-buffer.ts';

const key = randomBytes(32);
const psk = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const;

interface Ends {
  readonly client: TLSSocket;
  readonly server: TLSSocket;
  readonly rawClient: Socket;
}

async function makePair(t: TestContext): Promise<Ends> {
  const listener = createServer({ allowHalfOpen: true });
  const tls = createTlsServer({ ...psk, pskCallback: () => key });
  listener.on('connection', (raw) => {
    raw.on('error', () => undefined);
    tls.emit('connection', raw);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const rawClient = dial((listener.address() as AddressInfo).port, '127.0.0.1');
  const secured = once(tls, 'secureConnection');
  const client = connect({
    ...psk,
    socket: rawClient,
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ psk: key, identity: 'test' }),
  });
  client.on('error', () => undefined);
  const [server] = (await secured) as [TLSSocket];
  t.after(() => {
    client.destroy();
    server.destroy();
    rawClient.destroy();
    listener.close();
  });
  return { client, server, rawClient };
}

describe('reading into a buffer of ours', () => {
  before(async () => assert.equal(await proveUserBuffer(silentLog), true));

  test('carries bytes, pauses and the end of an encrypted socket', { timeout: 20_000 }, async (t) => {
    const { client, server } = await makePair(t);
    const sent = randomBytes(3_000_000);
    const received: Buffer[] = [];
    const buffer = Buffer.allocUnsafeSlow(16_384);
    let paused = 0;
    server.on('data', () => assert.fail('a buffer of its own'));
    const ok = readInto(server, buffer, (length, read) => {
      assert.equal(read, buffer);
      received.push(Buffer.from(read.subarray(0, length)));
      if (received.length % 16 === 0 && !server.isPaused()) {
        paused++;
        server.pause();
        setImmediate(() => server.resume());
      }
      return true;
    });
    assert.equal(ok, true);
    server.resume();
    client.end(sent);
    await once(server, 'end');
    assert.ok(sent.equals(Buffer.concat(received)));
    assert.ok(paused > 1);
    assert.equal(server.bytesRead, sent.length);
  });

  test('a reset is an error', { timeout: 20_000 }, async (t) => {
    const { client, server, rawClient } = await makePair(t);
    const read = new Promise<void>((resolve) => {
      readInto(server, Buffer.allocUnsafeSlow(16_384), () => {
        resolve();
        return true;
      });
    });
    server.resume();
    client.write('something');
    await read;
    const failed = once(server, 'error');
    rawClient.resetAndDestroy();
    assert.equal(((await failed)[0] as NodeJS.ErrnoException).code, 'ECONNRESET');
  });

  test('not while something waits unread, which comes first', { timeout: 20_000 }, async (t) => {
    const { client, server } = await makePair(t);
    server.pause();
    client.write('first');
    await once(server, 'readable');
    assert.equal(
      readInto(server, Buffer.allocUnsafeSlow(16_384), () => true),
      false,
    );
    assert.equal(String(server.read()), 'first');
  });
});
