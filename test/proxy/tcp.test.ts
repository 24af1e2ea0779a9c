// SPDX-License-Identifier: Apache-2.0
// Bytes, ends and errors through two workers: what one side of a connection does is what the other side sees.

import { strict as assert } from 'node:assert';
import { createHash, randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { endpoint, identityOf, serveIn, untilMetric } from './harness.ts';
import {
  createScene,
  DETECT_TIMEOUT_MS,
  dial,
  get,
  PEER,
  readAll,
  readSome,
  type Scene,
  SERVER,
  services,
  TCP_PORT,
} from './scene.ts';

describe('TCP through the mesh', () => {
  let scene: Scene;
  before(async () => {
    scene = await createScene();
  });
  after(async () => scene.close());

  const pair = async (): Promise<[Socket, Socket]> => {
    const client = await dial('tcp');
    return [client, await scene.nextAccepted()];
  };

  test('a server that speaks first is heard at once', async () => {
    const [client, server] = await pair();
    server.write('220 ready');
    assert.equal(await readSome(client), '220 ready');
    client.end();
    assert.equal(await readAll(server), '');
    server.end();
    assert.equal(await readAll(client), '');
  });

  test('connections that are dialled on in the same turn make their TLS handshakes in turns', async () => {
    const count = 40;
    const clients = await Promise.all(Array.from({ length: count }, () => dial('http')));
    const { ip, port } = services.http;
    const opened = `^tcp_open_total\\{direction="outbound",peer="src",target_addr="${ip}:${port}".*\\} ${count}$`;
    await untilMetric(scene.client, new RegExp(opened, 'm'));
    // None has said what it speaks; the time for that ends for all of them while this thread does something else.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2 * DETECT_TIMEOUT_MS);
    await untilMetric(scene.client, /^nodemesh_handshakes_held_total\{.*pod="web-0".*\} [1-9]/m);
    for (const client of clients) client.write('GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n');
    for (const answer of await Promise.all(clients.map(readAll))) assert.match(answer, /^HTTP\/1\.1 200 /);
  });

  test('the client half-closes, the server answers and closes', async () => {
    const [client, server] = await pair();
    client.end('question');
    assert.equal(await readAll(server), 'question');
    server.end('answer');
    assert.equal(await readAll(client), 'answer');
  });

  test('the server half-closes, the client goes on', async () => {
    const [client, server] = await pair();
    server.end('all I have');
    assert.equal(await readAll(client), 'all I have');
    client.write('still ');
    client.end('talking');
    assert.equal(await readAll(server), 'still talking');
  });

  test('a reset by the client is a reset for the server', async () => {
    const [client, server] = await pair();
    client.write('x');
    assert.equal(await readSome(server), 'x');
    client.resetAndDestroy();
    assert.equal(await readAll(server), '!ECONNRESET');
  });

  test('a reset by the server is a reset for the client', async () => {
    const [client, server] = await pair();
    client.write('x');
    assert.equal(await readSome(server), 'x');
    server.resetAndDestroy();
    assert.equal(await readAll(client), '!ECONNRESET');
  });

  test('large transfers in both directions at once arrive whole, also at a slow reader', async () => {
    const [client, server] = await pair();
    const up = randomBytes(5_000_000);
    const down = randomBytes(5_000_000);
    const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
    const collect = async (socket: Socket): Promise<string> => {
      const hash = createHash('sha256');
      for await (const chunk of socket) {
        hash.update(chunk as Buffer);
        // A turn of the loop between chunks: slower than the other side writes.
        await new Promise((resolve) => setImmediate(resolve));
      }
      return hash.digest('hex');
    };
    client.end(up);
    server.end(down);
    const [atServer, atClient] = await Promise.all([collect(server), collect(client)]);
    assert.equal(atServer, digest(up));
    assert.equal(atClient, digest(down));
  });

  test('many connections at once, each with its own bytes', async () => {
    const clients = await Promise.all(Array.from({ length: 40 }, async () => dial('tcp')));
    for (const [index, client] of clients.entries()) client.end(`number ${index}`);
    const seen = await Promise.all(
      clients.map(async () => {
        const server = await scene.nextAccepted();
        const text = await readAll(server);
        server.end();
        return text;
      }),
    );
    assert.deepEqual(seen.sort(), clients.map((_, index) => `number ${index}`).sort());
    await Promise.all(clients.map(readAll));
  });

  test('an application that refuses is a reset, counted', async () => {
    scene.lead('tcp', [endpoint(SERVER, 1234, { identity: identityOf('api'), inboundPort: 4143 })], true);
    const refused = await dial('tcp');
    // Nobody listens in the pod behind this port; the worker does, as the kernel would not have it.
    assert.equal(await readAll(refused), '!ECONNRESET');
    await untilMetric(
      scene.server,
      /inbound_tcp_errors_total\{error="i\/o",[^}]*target_port="1234"[^}]*\} [1-9]/,
    );
  });

  test('an unmeshed endpoint is dialled in plain text, with the half-close of a client that sends nothing', async () => {
    const plain = await serveIn(scene.home, PEER, TCP_PORT, (socket) => {
      void readAll(socket).then((text) => socket.end(`got ${text.length}`));
    });
    scene.lead('peerTcp', [endpoint(PEER, TCP_PORT)], true);
    const client = await dial('peerTcp');
    client.end();
    assert.equal(await readAll(client), 'got 0');
    plain.close();
  });

  test('what nobody knows is forwarded to where it was going', async () => {
    const plain = await serveIn(scene.home, PEER, 7000, (socket) => socket.end('stranger'));
    scene.client.setDestination(`${PEER}:7000`, { kind: 'unknown' });
    // Detection gives up on a client that waits for the server to speak.
    const client = await dial('unknown');
    assert.equal(await readAll(client), 'stranger');
    client.destroy();
    plain.close();
  });

  test('a destination that is not answered: 503 for HTTP, a reset for others, never plain text', async () => {
    const answer = await get('silent', '/');
    assert.equal(answer.status, 503);
    assert.equal(answer.headers['l5d-proxy-error'], 'destination cannot be resolved now');
    const client = await dial('silent');
    client.write('not HTTP at all\r\n');
    assert.equal(await readAll(client), '!ECONNRESET');
    await untilMetric(scene.client, /nodemesh_connections_refused_total\{reason="discovery"[^}]*\} 2/);
  });

  test('bytes and connections are counted on both sides of both workers', async () => {
    await untilMetric(
      scene.client,
      /tcp_open_total\{direction="outbound",peer="src",target_addr="10\.96\.0\.2:6379"[^}]*\} [1-9]/,
    );
    await untilMetric(
      scene.client,
      /tcp_open_total\{direction="outbound",peer="dst",authority="tcp\.shop[^}]*tls="true"[^}]*\} [1-9]/,
    );
    await untilMetric(
      scene.server,
      /tcp_open_total\{direction="inbound",peer="src",[^}]*client_id="web[^}]*\} [1-9]/,
    );
    await untilMetric(scene.server, /tcp_read_bytes_total\{direction="inbound",peer="dst"[^}]*\} [5-9]\d{6}/);
    await untilMetric(
      scene.client,
      /tcp_close_total\{direction="outbound",peer="src"[^}]*errno="ECONNRESET"\} [1-9]/,
    );
    await untilMetric(
      scene.client,
      /tcp_open_connections\{direction="outbound",peer="src",target_addr="10\.96\.0\.2:6379"[^}]*\} 0\n/,
    );
  });
});
