// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { silentLog } from '#lib/core/log.ts';
import { type AcceptedSource, EventSource, onAccepted, proveSharedAccept, SharedSource } from './accept.ts';
import { descriptorOf } from './descriptor.ts';
import { AF_INET, checked, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, socket } from './native.ts';

describe('accepted sources', () => {
  type Accepting = (server: Server, accept: (source: AcceptedSource) => void) => void;
  const byEvents: Accepting = (server, accept) => {
    server.on('connection', (raw) => accept(new EventSource(raw)));
  };
  const servers = new Map<Accepting, Server>();

  before(async () => {
    assert.equal(await proveSharedAccept(silentLog), true);
    for (const accepting of [onAccepted, byEvents]) {
      const server = createServer({ pauseOnConnect: true, allowHalfOpen: true });
      accepting(server, (source) => server.emit('source', source));
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      servers.set(accepting, server);
    }
  });
  after(async () => {
    for (const server of servers.values()) {
      const closed = once(server, 'close');
      server.close();
      await closed;
    }
  });

  const pair = async (accepting: Accepting): Promise<[Socket, AcceptedSource]> => {
    const server = servers.get(accepting) as Server;
    const accepted = once(server, 'source');
    const { port } = server.address() as AddressInfo;
    const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    await once(client, 'connect');
    const [source] = (await accepted) as [AcceptedSource];
    return [client, source];
  };

  for (const [name, kind] of [
    ['a shared buffer', onAccepted],
    ["'data' events", byEvents],
  ] as const) {
    test(`with ${name}: addresses, bytes, pauses, ends`, async () => {
      const [client, source] = await pair(kind);
      assert.equal(source instanceof SharedSource, kind === onAccepted);
      assert.equal(source.socket.remotePort, client.localPort);
      assert.equal(source.socket.localAddress, '127.0.0.1');
      assert.ok((descriptorOf(source.socket) ?? -1) > 2);

      client.write('one');
      const read = async (): Promise<string> =>
        new Promise((resolve) => {
          source.onBytes = (buffer, length) => {
            source.onBytes = null;
            source.socket.pause();
            resolve(buffer.toString('latin1', 0, length));
          };
          source.socket.resume();
        });
      assert.equal(await read(), 'one');
      client.write('two');
      assert.equal(await read(), 'two');
      const ended = once(source.socket, 'end');
      source.onBytes = () => assert.fail('no bytes are left');
      client.end();
      source.socket.resume();
      await ended;
      const answer = once(client, 'data');
      const closed = once(source.socket, 'close');
      source.socket.end('still open');
      assert.equal(String((await answer)[0]), 'still open');
      await closed;
      assert.equal(descriptorOf(source.socket), undefined);
      client.destroy();
    });

    test(`with ${name}: bytes that nobody wants close the connection, a reset is an RST`, async () => {
      const [first, unwanted] = await pair(kind);
      first.on('error', () => first.destroy());
      first.resume();
      const closed = once(unwanted.socket, 'close');
      first.write('unwanted');
      unwanted.socket.resume();
      await closed;

      const [second, source] = await pair(kind);
      const failed = once(second, 'error');
      source.reset();
      assert.equal(((await failed)[0] as NodeJS.ErrnoException).code, 'ECONNRESET');
    });
  }

  test('a socket of ours is dialled, also when the handle below it is made without Node.js', async () => {
    for (let round = 0; round < 2; round++) {
      const server = servers.get(onAccepted) as Server;
      const accepted = once(server, 'source');
      const fd = checked('socket', socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'a test');
      const dialled = SharedSource.ofTcp(fd);
      dialled.socket.pause();
      dialled.socket.connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' });
      await once(dialled.socket, 'connect');
      assert.equal(descriptorOf(dialled.socket), fd);
      const [source] = (await accepted) as [AcceptedSource];
      const heard = new Promise<string>((resolve) => {
        dialled.onBytes = (buffer, length) => resolve(buffer.toString('latin1', 0, length));
      });
      dialled.socket.resume();
      source.socket.write('hello');
      assert.equal(await heard, 'hello');
      const failed = once(source.socket, 'error');
      dialled.reset();
      source.socket.resume();
      assert.equal(((await failed)[0] as NodeJS.ErrnoException).code, 'ECONNRESET');
    }
  });

  test('large input arrives in order although all sources read into one buffer', async () => {
    const pairs = [await pair(onAccepted), await pair(onAccepted), await pair(onAccepted)];
    const texts = await Promise.all(
      pairs.map(async ([client, source], index) => {
        let text = '';
        source.onBytes = (buffer, length) => {
          text += buffer.toString('latin1', 0, length);
        };
        source.socket.resume();
        client.end(String(index).repeat(300_000));
        await once(source.socket, 'end');
        source.socket.destroy();
        client.destroy();
        return text;
      }),
    );
    assert.deepEqual(
      texts,
      [0, 1, 2].map((index) => String(index).repeat(300_000)),
    );
  });
});
