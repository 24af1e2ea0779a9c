// SPDX-License-Identifier: Apache-2.0
// How HTTP/2 clients are sent away while a worker drains (RFC 9113 6.8): told first, cut off from new streams only when
// they have read it, so that no stream that was on its way is lost.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttp2Server } from 'node:http2';
import { type AddressInfo, connect } from 'node:net';
import { type TestContext, test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import {
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_SETTINGS,
  WINDOW_MAX,
} from '#lib/http2/codes.ts';
import { connectionPreface } from '#lib/http2/frames.ts';
import { type Frame, FrameClient, frame, POST } from './frame-client.ts';
import { HEED_MS, LAST_MS, STAY_MS } from './http2-server.ts';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from './loopback.ts';
import { createHttpServer } from './server.ts';
import type { HttpServer } from './types.ts';

const timeout = { timeout: 20_000 };
const GRACE_MS = 60_000;

interface Ground {
  readonly clock: VirtualClock;
  readonly server: HttpServer;
  readonly client: () => Promise<FrameClient>;
}

async function ground(t: TestContext): Promise<Ground> {
  const application = createHttp2Server((request, response) => {
    response.write('ok');
    request.resume().on('end', () => response.end());
  }).listen(0, '127.0.0.1');
  await once(application, 'listening');
  const clock = new VirtualClock();
  const server = createHttpServer({ clock });
  const { port } = application.address() as AddressInfo;
  const endpoint = new LoopbackEndpoint(port, new RecordedMetrics(), false, true);
  const proxy = await listenLoopback(server, fixedTarget([endpoint]), null, false, true);
  const clients: FrameClient[] = [];
  t.after(async () => {
    for (const client of clients) client.destroy();
    await proxy.close();
    application.close();
    // Connections to the application end when they are idle.
    clock.advance(200_000);
  });
  return {
    clock,
    server,
    client: async () => {
      const socket = connect(proxy.port, '127.0.0.1');
      await once(socket, 'connect');
      const client = new FrameClient(socket);
      clients.push(client);
      client.send(connectionPreface, frame(FRAME_SETTINGS, 0, 0));
      await client.frame(({ type }) => type === FRAME_SETTINGS);
      return client;
    },
  };
}

const WHOLE = FLAG_END_HEADERS | FLAG_END_STREAM;

async function answered(client: FrameClient, stream: number): Promise<void> {
  await client.frame(
    (one) => one.stream === stream && one.type === FRAME_DATA && (one.flags & FLAG_END_STREAM) !== 0,
  );
}

async function ask(client: FrameClient, stream: number): Promise<void> {
  client.send(frame(FRAME_HEADERS, WHOLE, stream, POST));
  await answered(client, stream);
}

/** What the client was told up to now: last streams. */
async function toldOf(client: FrameClient): Promise<number[]> {
  // What was written before the answer to this has come.
  const { pongs } = client;
  client.send(frame(FRAME_PING, 0, 0, Buffer.alloc(8, 9)));
  await client.until(() => client.pongs > pongs);
  return client.frames
    .filter(({ type }) => type === FRAME_GOAWAY)
    .map(({ payload }) => payload.readUInt32BE(0));
}

const asked = ({ type, flags }: Frame): boolean => type === FRAME_PING && (flags & FLAG_ACK) === 0;
const closed = (client: FrameClient): Promise<void> => client.until(() => client.closed);

test(
  'a client that comes during a drain stays a while, is told, and loses nothing that was on its way',
  timeout,
  async (t) => {
    const { clock, server, client: connected } = await ground(t);
    server.drain(GRACE_MS);
    clock.advance(STAY_MS);
    const client = await connected();
    client.answersPings = false;
    await ask(client, 1);
    server.dismiss();
    clock.advance(STAY_MS - 1);
    server.dismiss();
    await ask(client, 3);
    assert.deepEqual(await toldOf(client), []);
    clock.advance(1);
    server.dismiss();
    const { payload } = await client.frame(asked);
    assert.deepEqual(await toldOf(client), [WINDOW_MAX]);
    // It has not read that yet: what it opens now it would not send again.
    clock.advance(HEED_MS - 1);
    server.dismiss();
    await ask(client, 5);
    client.send(frame(FRAME_HEADERS, WHOLE, 7, POST), frame(FRAME_PING, FLAG_ACK, 0, payload));
    await answered(client, 7);
    await client.frame((one) => one.type === FRAME_GOAWAY && one.payload.readUInt32BE(0) === 7);
    await closed(client);
  },
);

test(
  'a client that was there before is told at once; one that answers no PING is not waited for',
  timeout,
  async (t) => {
    const { clock, server, client: connected } = await ground(t);
    const client = await connected();
    client.answersPings = false;
    await ask(client, 1);
    server.drain(GRACE_MS);
    await client.frame(asked);
    clock.advance(HEED_MS - 1);
    server.dismiss();
    await ask(client, 3);
    assert.deepEqual(await toldOf(client), [WINDOW_MAX]);
    clock.advance(1);
    server.dismiss();
    await client.frame((one) => one.type === FRAME_GOAWAY && one.payload.readUInt32BE(0) === 3);
    await closed(client);
  },
);

test('streams that are open when the client is dismissed are served to their ends', timeout, async (t) => {
  const { clock, server, client: connected } = await ground(t);
  const client = await connected();
  client.send(frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, POST));
  await client.frame(({ type, stream }) => type === FRAME_HEADERS && stream === 1);
  server.drain(GRACE_MS);
  await client.frame(asked);
  await toldOf(client);
  clock.advance(STAY_MS);
  server.dismiss();
  assert.deepEqual(await toldOf(client), [WINDOW_MAX, 1]);
  // What is begun all the same is passed over, with its body.
  client.send(frame(FRAME_HEADERS, FLAG_END_HEADERS, 3, POST), frame(FRAME_DATA, 0, 3, Buffer.from('late')));
  client.send(frame(FRAME_DATA, FLAG_END_STREAM, 1, Buffer.from('end')));
  await answered(client, 1);
  await closed(client);
});

test(
  'shortly before the end of a drain a client is told with its first stream, and none before it',
  timeout,
  async (t) => {
    const { clock, server, client: connected } = await ground(t);
    server.drain(LAST_MS + 1_000);
    clock.advance(1_000);
    const client = await connected();
    server.dismiss();
    assert.deepEqual(await toldOf(client), []);
    await ask(client, 1);
    await client.frame(asked);
    assert.deepEqual(await toldOf(client), [WINDOW_MAX]);
    server.dismiss();
    await client.frame((one) => one.type === FRAME_GOAWAY && one.payload.readUInt32BE(0) === 1);
    await closed(client);
  },
);

test('a client whose pod leaves loses nothing that was on its way', timeout, async (t) => {
  const { server, client: connected } = await ground(t);
  const client = await connected();
  client.answersPings = false;
  await ask(client, 1);
  server.dismiss();
  const { payload } = await client.frame(asked);
  await ask(client, 3);
  server.dismiss();
  client.send(frame(FRAME_HEADERS, WHOLE, 5, POST), frame(FRAME_PING, FLAG_ACK, 0, payload));
  await answered(client, 5);
  await client.frame((one) => one.type === FRAME_GOAWAY && one.payload.readUInt32BE(0) === 5);
  await closed(client);
  assert.equal(client.frames.filter(({ type }) => type === FRAME_GOAWAY).length, 2);
});

test('a client that has been told its last stream is not told a later one', timeout, async (t) => {
  const { server, client: connected } = await ground(t);
  const client = await connected();
  client.send(frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, POST));
  await client.frame(({ type, stream }) => type === FRAME_HEADERS && stream === 1);
  server.dismiss();
  await client.frame((one) => one.type === FRAME_GOAWAY && one.payload.readUInt32BE(0) === 1);
  server.drain(GRACE_MS);
  assert.deepEqual(await toldOf(client), [WINDOW_MAX, 1]);
});
