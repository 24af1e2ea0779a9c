// SPDX-License-Identifier: Apache-2.0
// What an HTTP/2 client may not do: each limit at work, told by its name, and what honest clients do beside it.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import {
  ENHANCE_YOUR_CALM,
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_PRIORITY,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_SIZE_ERROR,
  FRAME_WINDOW_UPDATE,
  REFUSED_STREAM,
  SETTINGS_INITIAL_WINDOW_SIZE,
} from '#lib/http2/codes.ts';
import { connectionPreface } from '#lib/http2/frames.ts';
import { CONTINUATIONS_MAX, LIST_FIELDS_MAX } from '#lib/http2/limits.ts';
import { attachDataSource } from './byte-source.ts';
import { STREAMS_MAX, UNSENT_BYTES_MAX } from './http2-connection.ts';
import { type Frame, FrameClient, frame, number32, POST, setting } from './frame-client.ts';
import { fixedTarget, LoopbackEndpoint, RecordedMetrics } from './loopback.ts';
import { createHttpServer } from './server.ts';

const timeout = { timeout: 30_000 };
/** More than any budget. */
const FLOOD = 10_000;
/** More than may come at once, less than tests have time for. */
const HONEST = 6_000;
const BODY_BYTES = 2_000_000;

interface Setting {
  readonly client: FrameClient;
  readonly limits: string[];
  readonly clock: VirtualClock;
  /** What the application was asked. */
  readonly pings: { count: number };
  /** The server's ends of connections. */
  readonly sockets: readonly Socket[];
}

async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

/** A client of one of our servers, before an application that echoes, or gives BODY_BYTES for an empty body. */
async function setUp(t: TestContext): Promise<Setting> {
  const application = createHttp2Server({ maxSessionMemory: 1_000 });
  const pings = { count: 0 };
  application.on('session', (session) => session.on('ping', () => pings.count++));
  application.on('stream', (any) => {
    const stream = any as ServerHttp2Stream;
    let length = 0;
    stream.on('error', () => undefined);
    stream.respond({ ':status': 200 });
    stream.on('data', (chunk: Buffer) => {
      length += chunk.length;
      stream.write(chunk);
    });
    stream.on('end', () => stream.end(length === 0 ? Buffer.alloc(BODY_BYTES) : ''));
  });
  application.listen(0, '127.0.0.1');
  await once(application, 'listening');
  const { port } = application.address() as AddressInfo;
  const target = fixedTarget([new LoopbackEndpoint(port, new RecordedMetrics(), false, true)]);
  const clock = new VirtualClock();
  const server = createHttpServer({ clock });
  const limits: string[] = [];
  const sockets: Socket[] = [];
  const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    sockets.push(socket);
    server.serve({
      source: attachDataSource(socket),
      first: null,
      http2: true,
      target,
      gate: null,
      onLimit: (_version, limit) => limits.push(limit),
      onClosed: () => undefined,
    });
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const socket = connect((listener.address() as AddressInfo).port, '127.0.0.1');
  await once(socket, 'connect');
  const client = new FrameClient(socket);
  t.after(() => {
    client.destroy();
    for (const one of sockets) one.destroy();
    listener.close();
    application.close();
    // Its connections to the application are ours and end with it.
    server.dismiss();
    clock.advance(200_000);
  });
  client.send(connectionPreface, frame(FRAME_SETTINGS, 0, 0));
  return { client, limits, clock, pings, sockets };
}

const HEAD = FLAG_END_HEADERS;
const WHOLE = FLAG_END_HEADERS | FLAG_END_STREAM;
const idOf = (index: number): number => index * 2 + 1;

/** Sends until the connection ends. */
async function flood(setting: Setting, limit: string, frames: (index: number) => Buffer[]): Promise<void> {
  const { client, limits } = setting;
  client.send(...Array.from({ length: FLOOD }, (_, index) => frames(index)).flat());
  await client.goAway(ENHANCE_YOUR_CALM);
  assert.deepEqual(limits, [limit]);
}

test('streams that are opened and reset at once', timeout, async (t) => {
  await flood(await setUp(t), 'flood_rst_stream', (index) => [
    frame(FRAME_HEADERS, HEAD, idOf(index), POST),
    frame(FRAME_RST_STREAM, 0, idOf(index), number32(8)),
  ]);
});

test('frames that carry nothing', timeout, async (t) => {
  await flood(await setUp(t), 'flood_settings', () => [frame(FRAME_SETTINGS, 0, 0)]);
  await flood(await setUp(t), 'flood_ping', () => [frame(FRAME_PING, 0, 0, Buffer.alloc(8))]);
  await flood(await setUp(t), 'flood_priority', () => [frame(FRAME_PRIORITY, 0, 1, Buffer.alloc(5))]);
  await flood(await setUp(t), 'flood_other', () => [frame(0x42, 0, 0)]);
  const empty = await setUp(t);
  empty.client.send(frame(FRAME_HEADERS, HEAD, 1, POST));
  await flood(empty, 'flood_data', () => [frame(FRAME_DATA, 0, 1)]);
});

test('a mistake about a stream that is over is answered, too', timeout, async (t) => {
  const { client } = await setUp(t);
  client.send(frame(FRAME_HEADERS, HEAD, 1, POST), frame(FRAME_DATA, FLAG_END_STREAM, 1, Buffer.from('x')));
  await client.frame(({ type, flags }) => type === FRAME_DATA && (flags & FLAG_END_STREAM) !== 0);
  client.send(frame(FRAME_PRIORITY, 0, 1, Buffer.alloc(4)));
  const { payload } = await client.frame(({ type }) => type === FRAME_RST_STREAM);
  assert.equal(payload.readUInt32BE(0), FRAME_SIZE_ERROR);
});

test('settings are acknowledged before anything is sent that they allow', timeout, async (t) => {
  const { client } = await setUp(t);
  client.send(setting(SETTINGS_INITIAL_WINDOW_SIZE, 0));
  client.send(frame(FRAME_HEADERS, HEAD, 1, POST), frame(FRAME_DATA, FLAG_END_STREAM, 1, Buffer.from('xyz')));
  // What it may send it sends, and then the rest of the answer is there, too.
  await client.frame(({ type }) => type === FRAME_HEADERS);
  client.send(frame(FRAME_WINDOW_UPDATE, 0, 1, number32(1)));
  await client.frame(({ type }) => type === FRAME_DATA);
  const before = client.frames.length;
  client.send(setting(SETTINGS_INITIAL_WINDOW_SIZE, 1));
  await client.until(() => client.count(FRAME_DATA) === 2);
  const after = client.frames.slice(before).map(({ type, flags }) => [type, flags & FLAG_ACK]);
  assert.deepEqual(after, [
    [FRAME_SETTINGS, FLAG_ACK],
    [FRAME_DATA, 0],
  ]);
});

test('a PING for each message is honest', timeout, async (t) => {
  const { client, limits } = await setUp(t);
  client.send(setting(SETTINGS_INITIAL_WINDOW_SIZE, 1_000_000), frame(FRAME_HEADERS, HEAD, 1, POST));
  const message = [frame(FRAME_DATA, 0, 1, Buffer.from('hello')), frame(FRAME_PING, 0, 0, Buffer.alloc(8))];
  for (let sent = 0; sent < HONEST; sent += 1_000) {
    client.send(...Array.from({ length: 1_000 }, () => message).flat());
    const answered = sent + 1_000;
    await client.until(() => client.pongs === answered);
  }
  assert.deepEqual(limits, []);
  assert.equal(client.count(FRAME_GOAWAY), 0);
});

test('a header block in endless frames, or of endless size', timeout, async (t) => {
  const { client, limits } = await setUp(t);
  client.send(
    frame(FRAME_HEADERS, 0, 1, POST),
    ...Array.from({ length: CONTINUATIONS_MAX + 1 }, () => frame(FRAME_CONTINUATION, 0, 1)),
  );
  await client.goAway(ENHANCE_YOUR_CALM);
  assert.deepEqual(limits, ['header_block']);
  const large = await setUp(t);
  large.client.send(
    frame(FRAME_HEADERS, 0, 1, POST),
    ...Array.from({ length: CONTINUATIONS_MAX - 1 }, () =>
      frame(FRAME_CONTINUATION, 0, 1, Buffer.alloc(16_384)),
    ),
  );
  await large.client.goAway(ENHANCE_YOUR_CALM);
  assert.deepEqual(large.limits, ['header_block']);
});

test(
  'a small block of large fields, or many of them, is answered with 431; the connection goes on',
  timeout,
  async (t) => {
    const { client, limits } = await setUp(t);
    // `x: yyy…` enters the table and is then repeated by its index, a byte each.
    const large = Buffer.concat([Buffer.from([0x40, 1, 0x78, 0x7f, 0x81, 0x1e]), Buffer.alloc(4_000, 'y')]);
    client.send(frame(FRAME_HEADERS, WHOLE, 1, Buffer.concat([POST, large, Buffer.alloc(10_000, 0xbe)])));
    const refused = await client.frame(({ type, stream }) => type === FRAME_HEADERS && stream === 1);
    assert.ok(refused.payload.includes('431'));
    const many = Buffer.concat(
      Array.from({ length: LIST_FIELDS_MAX + 1 }, () => Buffer.from([0x00, 1, 0x61, 1, 0x62])),
    );
    client.send(frame(FRAME_HEADERS, WHOLE, 3, Buffer.concat([POST, many])));
    assert.ok(
      (await client.frame(({ type, stream }) => type === FRAME_HEADERS && stream === 3)).payload.length > 0,
    );
    assert.deepEqual(limits, ['header_list', 'header_list']);
    client.send(frame(FRAME_HEADERS, WHOLE, 5, POST));
    const served = await client.frame(({ type, stream }) => type === FRAME_HEADERS && stream === 5);
    // Status 200 of the static table.
    assert.equal(served.payload[0], 0x88);
  },
);

test('one stream more than the limit is refused, the others are served', timeout, async (t) => {
  const { client, limits } = await setUp(t);
  for (let index = 0; index <= STREAMS_MAX; index++)
    client.send(frame(FRAME_HEADERS, HEAD, idOf(index), POST));
  await client.reset(idOf(STREAMS_MAX), REFUSED_STREAM);
  assert.deepEqual(limits, ['streams']);
  client.send(frame(FRAME_DATA, FLAG_END_STREAM, idOf(0), Buffer.from('echo')));
  await client.frame(({ type, stream }) => type === FRAME_DATA && stream === idOf(0));
});

test('a window that is never opened', timeout, async (t) => {
  const { client, limits, clock, pings } = await setUp(t);
  client.send(setting(SETTINGS_INITIAL_WINDOW_SIZE, 0), frame(FRAME_HEADERS, WHOLE, 1, POST));
  await client.frame(({ type, stream }) => type === FRAME_HEADERS && stream === 1);
  for (let checks = 1; limits.length === 0; checks++) {
    assert.ok(checks <= 40, 'the stream is given up');
    clock.advance(10_000);
    if (limits.length > 0) break;
    // Both connections are asked whether they live, and have answered some turns later.
    await client.until(() => client.count(FRAME_PING) === checks);
    while (pings.count < checks) await turn();
    for (let turns = 0; turns < 20; turns++) await turn();
  }
  assert.deepEqual(limits, ['stalled']);
  await client.reset(1, ENHANCE_YOUR_CALM);
  assert.equal(client.count(FRAME_DATA), 0);
});

test('a window that is opened by crumbs', timeout, async (t) => {
  const before = await setUp(t);
  before.client.send(setting(SETTINGS_INITIAL_WINDOW_SIZE, 1), frame(FRAME_HEADERS, WHOLE, 1, POST));
  await before.client.frame(({ type }) => type === FRAME_DATA);
  await flood(before, 'flood_window_update', () => [frame(FRAME_WINDOW_UPDATE, 0, 1, number32(1))]);
});

test(
  'a client with open windows that does not read its socket: little waits for it, and all of it comes',
  timeout,
  async (t) => {
    const { client, limits, sockets } = await setUp(t);
    client.pause();
    client.send(
      setting(SETTINGS_INITIAL_WINDOW_SIZE, 0x7fff_ffff),
      frame(FRAME_WINDOW_UPDATE, 0, 0, number32(0x7000_0000)),
    );
    const count = 10;
    for (let index = 0; index < count; index++) client.send(frame(FRAME_HEADERS, WHOLE, idOf(index), POST));
    const [socket] = sockets;
    assert.ok(socket !== undefined);
    while (socket.writableLength < UNSENT_BYTES_MAX) await turn();
    for (let turns = 0; turns < 500; turns++) {
      assert.ok(socket.writableLength < 2 * UNSENT_BYTES_MAX, String(socket.writableLength));
      await turn();
    }
    client.resume();
    const ended = ({ type, flags }: Frame): boolean => type === FRAME_DATA && (flags & FLAG_END_STREAM) !== 0;
    await client.until(() => client.frames.filter(ended).length === count);
    const bytes = client.frames.reduce(
      (sum, { type, payload }) => sum + (type === FRAME_DATA ? payload.length : 0),
      0,
    );
    assert.equal(bytes, count * BODY_BYTES);
    assert.deepEqual(limits, []);
  },
);
