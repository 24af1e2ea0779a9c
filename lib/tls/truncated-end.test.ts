// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { type AddressInfo, createServer, connect as dial, type Socket } from 'node:net';
import { before, describe, test, type TestContext } from 'node:test';
import { connect, TLSSocket } from 'node:tls';
import { recordingLog } from '#lib/core/log.ts';
import { proveUserBuffer, readInto } from '#lib/net/user-buffer.ts';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { createMeshContext } from './mesh-context.ts';
import { proveTruncatedEnd, watchEnd } from './truncated-end.ts';

interface Ends {
  readonly client: TLSSocket;
  readonly rawClient: Socket;
  readonly server: TLSSocket;
  /** Of the server's reading. */
  readonly told: () => boolean;
}

const identity = 'web.shop.serviceaccount.identity.linkerd.cluster.local';
const log = recordingLog();
let context: ReturnType<typeof createMeshContext>;

before(async () => {
  await Promise.all([proveTruncatedEnd(log), proveUserBuffer(log)]);
  const authority = await makeTestAuthority();
  context = createMeshContext({
    certificate: await authority.leaf(identity),
    anchorsPem: authority.anchorPem,
  });
});

/** TLS 1.3 over TCP, as between agents. */
async function makePair(t: TestContext): Promise<Ends> {
  const listener = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const rawClient = dial({ port: (listener.address() as AddressInfo).port, host: '127.0.0.1' });
  const [raw] = (await once(listener, 'connection')) as [Socket];
  const server = new TLSSocket(raw, { isServer: true, secureContext: context });
  let told = false;
  watchEnd(server, raw, () => (told = true));
  const client = connect({ socket: rawClient, secureContext: context, rejectUnauthorized: false });
  for (const socket of [client, rawClient, server, raw]) socket.on('error', () => undefined);
  t.after(() => {
    for (const socket of [client, rawClient, server, raw]) socket.destroy();
    listener.close();
  });
  await once(client, 'secureConnect');
  assert.equal(client.getProtocol(), 'TLSv1.3');
  return { client, rawClient, server, told: () => told };
}

describe('the end of an encrypted connection', { timeout: 60_000 }, () => {
  test('is known here', () => assert.deepEqual(log.lines, []));

  test('with a close_notify it is no cut, whatever came before it', async (t) => {
    for (const bytes of [0, 1, 1_000_000]) {
      const { client, server, told } = await makePair(t);
      server.resume();
      client.end(Buffer.alloc(bytes));
      await once(server, 'end');
      assert.equal(server.bytesRead, bytes);
      assert.equal(told(), false, String(bytes));
    }
  });

  test('a close_notify behind what the reader does not take yet is none either', async (t) => {
    for (const mine of [false, true]) {
      const { client, server, told } = await makePair(t);
      let read = 0;
      const took = (length: number): boolean => {
        read += length;
        server.pause();
        setImmediate(() => server.resume());
        return false;
      };
      if (mine) assert.ok(readInto(server, Buffer.alloc(16_384), took));
      else server.on('data', (chunk: Buffer) => took(chunk.length));
      server.resume();
      client.end(Buffer.alloc(300_000));
      await once(server, 'end');
      assert.equal(read, 300_000);
      assert.equal(told(), false);
    }
  });

  test('a FIN without one is a cut, after a record and in the middle of one', async (t) => {
    for (const partial of [false, true]) {
      const { client, rawClient, server, told } = await makePair(t);
      server.resume();
      client.write('said');
      await once(server, 'data');
      // The head of a record, and a part of it.
      if (partial) rawClient.write(Buffer.from([23, 3, 3, 1, 0, 1, 2, 3]));
      rawClient.destroySoon();
      await once(server, 'end');
      assert.equal(told(), true);
    }
  });

  test('a FIN that waited for a reader that was paused is one, too', async (t) => {
    const { client, rawClient, server, told } = await makePair(t);
    server.pause();
    client.write(Buffer.alloc(100_000), () => rawClient.destroySoon());
    await once(rawClient, 'close');
    server.resume();
    await once(server, 'end');
    assert.equal(server.bytesRead, 100_000);
    assert.equal(told(), true);
  });
});
