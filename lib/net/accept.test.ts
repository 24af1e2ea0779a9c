// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { silentLog } from '#lib/core/log.ts';
import {
  type AcceptedSource,
  acceptedSource,
  EventSource,
  proveSharedAccept,
  SharedSource,
} from './accept.ts';
import { descriptorOf } from './descriptor.ts';

describe('accepted sources', () => {
  let server: Server;
  let make: (raw: Socket) => AcceptedSource;
  const sources: AcceptedSource[] = [];

  before(async () => {
    assert.equal(await proveSharedAccept(silentLog), true);
    server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (raw) => {
      sources.push(make(raw));
      server.emit('source');
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(async () => {
    const closed = once(server, 'close');
    server.close();
    // The server counts each connection until its new socket closes.
    await closed;
  });

  const pair = async (): Promise<[Socket, AcceptedSource]> => {
    const { port } = server.address() as AddressInfo;
    const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    await Promise.all([once(client, 'connect'), sources.length > 0 ? undefined : once(server, 'source')]);
    return [client, sources.shift() as AcceptedSource];
  };

  for (const [name, kind] of [
    ['a shared buffer', acceptedSource],
    ["'data' events", (raw: Socket) => new EventSource(raw)],
  ] as const) {
    test(`with ${name}: addresses, bytes, pauses, ends`, async () => {
      make = kind;
      const [client, source] = await pair();
      assert.equal(source instanceof SharedSource, kind === acceptedSource);
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
      make = kind;
      const [first, unwanted] = await pair();
      first.on('error', () => first.destroy());
      first.resume();
      const closed = once(unwanted.socket, 'close');
      first.write('unwanted');
      unwanted.socket.resume();
      await closed;

      const [second, source] = await pair();
      const failed = once(second, 'error');
      source.reset();
      assert.equal(((await failed)[0] as NodeJS.ErrnoException).code, 'ECONNRESET');
    });
  }

  test('large input arrives in order although all sources read into one buffer', async () => {
    make = acceptedSource;
    const pairs = [await pair(), await pair(), await pair()];
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
