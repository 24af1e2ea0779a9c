// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { parseValue, RedisClient } from './redis.ts';

describe("redis's protocol", () => {
  it('is read at every split point', () => {
    const text = '*4\r\n+OK\r\n:-7\r\n$5\r\na\r\nb!\r\n*2\r\n$-1\r\n*0\r\n';
    const bytes = Buffer.from(text);
    for (let cut = 0; cut < bytes.length; cut++) {
      assert.equal(parseValue(bytes.subarray(0, cut), 0), undefined, String(cut));
    }
    assert.deepEqual(parseValue(bytes, 0), { value: ['OK', -7, 'a\r\nb!', [null, []]], next: bytes.length });
    assert.throws(() => parseValue(Buffer.from('HTTP/1.1 200\r\n'), 0));
  });
});

describe('the redis client', () => {
  const socket = createServer();
  let port = 0;
  before(async () => {
    socket.listen(0, '127.0.0.1');
    await once(socket, 'listening');
    port = (socket.address() as { port: number }).port;
    socket.close();
    await once(socket, 'close');
  });
  let server: ReturnType<typeof spawn> | undefined;
  after(() => server?.kill());

  it('fails while there is no server, and talks to the real one when it is there', async () => {
    const client = new RedisClient('127.0.0.1', port);
    await assert.rejects(client.command('PING'), /ECONNREFUSED/);
    server = spawn('redis-server', [
      '--port',
      String(port),
      '--bind',
      '127.0.0.1',
      '--save',
      '',
      '--appendonly',
      'no',
    ]);
    for await (const line of server.stdout as AsyncIterable<Buffer>) {
      if (line.toString().includes('eady to accept connections')) break;
    }
    const answers = await Promise.all([
      client.command('HINCRBY', 'cart', 'ü', '2'),
      client.command('HGETALL', 'cart'),
      client.command('GET', 'none'),
    ]);
    assert.deepEqual(answers, [2, ['ü', '2'], null]);
    await assert.rejects(client.command('HGET'), /redis: ERR wrong number/);
    client.close();
    await assert.rejects(client.command('PING'));
  });
});
