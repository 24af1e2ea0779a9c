// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { descriptorOf } from './descriptor.ts';
import { checked, close, dup } from './native.ts';
import { peekOnce } from './peek.ts';

describe('looking ahead', { timeout: 20_000 }, () => {
  let server: Server;
  const released: number[] = [];
  const release = (fd: number): void => {
    released.push(fd);
    close(fd);
  };
  before(async () => {
    server = createServer({ pauseOnConnect: true });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => server.close());

  const pair = async (): Promise<[client: Socket, accepted: Socket, duplicate: number]> => {
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
    const [accepted] = (await once(server, 'connection')) as [Socket];
    accepted.on('error', () => undefined);
    return [client, accepted, checked('fcntl', dup(descriptorOf(accepted) ?? -1), 'a test')];
  };

  test('shows what arrives and leaves it there', async () => {
    const [client, accepted, duplicate] = await pair();
    const seen = new Promise<Buffer | undefined>((resolve) => {
      const stop = peekOnce(duplicate, release, (bytes) => {
        stop();
        resolve(bytes);
      });
    });
    client.write('first');
    assert.equal(String(await seen), 'first');
    assert.deepEqual(released.splice(0), [duplicate]);
    accepted.resume();
    assert.equal(String((await once(accepted, 'data'))[0]), 'first');
    client.destroy();
    accepted.destroy();
  });

  test('nothing at the end, undefined after a reset', async () => {
    for (const how of ['end', 'reset'] as const) {
      const [client, accepted, duplicate] = await pair();
      const seen = new Promise<Buffer | undefined>((resolve) => {
        peekOnce(duplicate, release, resolve);
      });
      if (how === 'end') client.end();
      else client.resetAndDestroy();
      assert.deepEqual(await seen, how === 'end' ? Buffer.alloc(0) : undefined);
      assert.deepEqual(released.splice(0), [duplicate]);
      client.destroy();
      accepted.destroy();
    }
  });

  test('who gives up sees nothing, and the number is free at once', async () => {
    const [client, accepted, duplicate] = await pair();
    const stop = peekOnce(duplicate, release, () => assert.fail('nobody wants to see'));
    client.write('unseen');
    stop();
    stop();
    assert.deepEqual(released.splice(0), [duplicate]);
    accepted.resume();
    assert.equal(String((await once(accepted, 'data'))[0]), 'unseen');
    client.destroy();
    accepted.destroy();
  });
});
