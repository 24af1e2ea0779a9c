// SPDX-License-Identifier: Apache-2.0
// The relay's own limits on virtual time; what it does with real traffic is in test/proxy.
import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import { listenPlain } from '#lib/net/plain-fixture.ts';
import { PlainSocket } from '#lib/net/plain-socket.ts';
import { plainReadiness } from '#lib/net/readiness.ts';
import { proveUserBuffer } from '#lib/net/user-buffer.ts';
import { attachDataSource, type ByteSource, type TcpSource } from '../exchange/byte-source.ts';
import { relay } from './relay.ts';

type MakePair = () => Promise<[Socket, TcpSource]>;

/** An outer socket and the relay's end of it. */
async function makeNodePair(): Promise<[Socket, ByteSource]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const outer = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  const [inner] = (await once(server, 'connection')) as [Socket];
  inner.on('error', () => inner.destroy());
  server.close();
  return [outer, attachDataSource(inner)];
}

const readiness = plainReadiness();
const plainServer = listenPlain(readiness);

/** As makeNodePair, the relay's end without streams. */
async function makePlainPair(): Promise<[Socket, PlainSocket]> {
  const outer = connect({ port: plainServer.port, host: '127.0.0.1', allowHalfOpen: true });
  const [fd] = await Promise.all([plainServer.accepted(), once(outer, 'connect')]);
  const inner = new PlainSocket(readiness, fd);
  inner.on('error', () => undefined);
  return [outer, inner];
}

/** As makeNodePair, with TLS between the two. */
async function makeSecurePair(): Promise<[TLSSocket, ByteSource]> {
  const psk = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const;
  const key = randomBytes(32);
  const server = createTlsServer({ ...psk, pskCallback: () => key, allowHalfOpen: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const secured = once(server, 'secureConnection');
  const outer = connectTls({
    ...psk,
    port: (server.address() as AddressInfo).port,
    host: '127.0.0.1',
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ psk: key, identity: 'test' }),
  });
  const [inner] = (await secured) as [TLSSocket];
  inner.on('error', () => inner.destroy());
  server.close();
  return [outer, attachDataSource(inner)];
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!holds()) {
    assert.ok(Date.now() < deadline);
    await new Promise((resolve) => {
      setTimeout(resolve, 5);
    });
  }
}

/** What stands on the left and on the right. */
const kinds: readonly (readonly [name: string, left: MakePair, right: MakePair])[] = [
  ['sockets of Node.js', makeNodePair, makeNodePair],
  ['plain sockets', makePlainPair, makePlainPair],
  ['a socket of Node.js and a plain one', makeNodePair, makePlainPair],
];

before(async () => assert.equal(await proveUserBuffer(silentLog), true));
after(() => {
  plainServer.listener.close();
  readiness.close();
});

for (const [name, makeLeft, makeRight] of kinds) {
  describe(`relay between ${name}`, () => {
    test('a half-closed pair in which nothing moves is reset after the limit, not while it moves', async () => {
      const clock = new VirtualClock();
      const [client, left] = await makeLeft();
      const [server, right] = await makeRight();
      const closed = new Promise<void>((resolve) => {
        relay(left, right, Buffer.from('first'), { clock, halfClosedIdleMs: 1000, onClosed: resolve });
      });
      assert.equal(String((await once(server, 'data'))[0]), 'first');
      assert.equal(clock.pendingTimers, 0);
      const half = once(server, 'end');
      client.end();
      await half;
      for (let round = 0; round < 3; round++) {
        clock.advance(900);
        const heard = once(client, 'data');
        server.write('moving');
        await heard;
      }
      // The server has seen the end already and would hear of the reset when it writes.
      const failed = once(client, 'error');
      clock.advance(1000);
      await Promise.all([failed, closed]);
    });

    test('a pair that has ended on both sides is reset when the peer takes nothing of what is left', async () => {
      const clock = new VirtualClock();
      const [client, left] = await makeLeft();
      const [server, right] = await makeRight();
      let times = 0;
      const closed = new Promise<void>((resolve) => {
        relay(left, right, null, {
          clock,
          unreadMs: 1000,
          onClosed: () => {
            times++;
            resolve();
          },
        });
      });
      // More than the buffers of the kernel take, written before the end; the server never reads.
      right.socket.write(Buffer.alloc(32 << 20));
      server.end();
      client.end();
      await until(() => left.socket.readableEnded && right.socket.readableEnded);
      assert.ok(right.socket.writableLength > 0);
      clock.advance(999);
      assert.equal(times, 0);
      assert.equal(clock.pendingTimers, 1);
      const failed = once(server, 'error');
      clock.advance(1);
      await closed;
      server.resume();
      await failed;
      assert.equal(clock.pendingTimers, 0);
      assert.equal(times, 1);
    });

    test('what waits for a slow reader is not overwritten by what passes meanwhile', async () => {
      const pairs = await Promise.all(
        Array.from({ length: 3 }, async () => ({ near: await makeLeft(), far: await makeRight() })),
      );
      await Promise.all(
        pairs.map(async ({ near: [client, left], far: [server, right] }, index) => {
          relay(left, right, null, { clock: new VirtualClock(), onClosed: () => undefined });
          // Pieces of every size, each pair's bytes its own, more than the kernel holds.
          const sent = Buffer.alloc(12 << 20, index + 1);
          for (let at = 0; at < sent.length; at += 4099)
            sent.writeUInt32LE(at, Math.min(at, sent.length - 4));
          server.pause();
          client.end(sent);
          if (index > 0) await until(() => right.socket.writableLength > 0);
          const received: Buffer[] = [];
          for await (const chunk of server) received.push(chunk as Buffer);
          assert.ok(sent.equals(Buffer.concat(received)));
          server.end();
        }),
      );
    });

    test('bytes from TLS arrive whole and in order, those before the relay began first, the reader slow or not', async () => {
      for (const slow of [false, true]) {
        const [client, left] = await makeSecurePair();
        const [server, right] = await makeRight();
        const sent = randomBytes(12 << 20);
        client.end(sent);
        // Some of it was read and waits in the socket.
        await until(() => left.socket.readableLength > 0);
        relay(left, right, null, { clock: new VirtualClock(), onClosed: () => undefined });
        if (slow) {
          server.pause();
          await until(() => right.socket.writableLength > 0 && left.socket.isPaused());
        }
        const received: Buffer[] = [];
        for await (const chunk of server) received.push(chunk as Buffer);
        assert.ok(sent.equals(Buffer.concat(received)));
        assert.equal(left.socket.bytesRead, sent.length);
        server.end();
      }
    });

    test('both ends closed leave no timer and say so once', async () => {
      const clock = new VirtualClock();
      const [client, left] = await makeLeft();
      const [server, right] = await makeRight();
      let times = 0;
      const closed = new Promise<void>((resolve) => {
        relay(left, right, null, {
          clock,
          onClosed: () => {
            times++;
            resolve();
          },
        });
      });
      server.resume();
      client.resume();
      client.end();
      await once(server, 'end');
      server.end();
      await once(client, 'end');
      await closed;
      assert.equal(clock.pendingTimers, 0);
      assert.equal(times, 1);
    });

    test('a source that was closed before the relay began resets the other', async () => {
      const [, left] = await makeLeft();
      const [server, right] = await makeRight();
      left.socket.destroy();
      await new Promise<void>((resolve) => {
        left.socket.on('close', resolve);
      });
      const failed = once(server, 'error');
      await new Promise<void>((resolve) => {
        relay(left, right, null, { clock: new VirtualClock(), onClosed: resolve });
      });
      await failed;
    });

    test('the returned function resets both', async () => {
      const [client, left] = await makeLeft();
      const [server, right] = await makeRight();
      const failed = [once(client, 'error'), once(server, 'error')];
      relay(left, right, null, { clock: new VirtualClock(), onClosed: () => undefined })();
      await Promise.all(failed);
    });
  });
}
