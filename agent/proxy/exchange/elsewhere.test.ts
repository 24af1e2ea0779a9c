// SPDX-License-Identifier: Apache-2.0
// Requests that an endpoint over HTTP/2 did nothing with, or to which there is no connection, go to another one.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  type ClientHttp2Session,
  connect,
  constants,
  createServer,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { FAILURE_TLS_HANDSHAKE } from '../failure.ts';
import { NO_ERROR, REFUSED_STREAM } from '#lib/http2/codes.ts';
import { writeGoAway, writeSettings } from '#lib/http2/frame-writer.ts';
import { LoopbackEndpoint, listenLoopback, RecordedMetrics } from './loopback.ts';
import { rawClient, RawServer, until } from './raw-peers.ts';
import { createHttpServer } from './server.ts';
import type { Connected, HttpEndpoint } from './types.ts';

const timeout = { timeout: 20_000 };
const GET = 'GET / HTTP/1.1\r\nHost: shop\r\n\r\n';

/** Takes the place of a dial: it goes on, or fails, when the test says so. */
class HeldEndpoint extends LoopbackEndpoint {
  readonly recorded: RecordedMetrics;
  held = true;
  readonly waiting: Connected[] = [];

  constructor(port: number, held = true) {
    const recorded = new RecordedMetrics();
    super(port, recorded, false, true);
    this.recorded = recorded;
    this.held = held;
  }

  override connect(http2: boolean, done: Connected): void {
    if (!this.held) super.connect(http2, done);
    else {
      this.connections++;
      this.waiting.push(done);
    }
  }

  fail(): void {
    for (const done of this.waiting.splice(0)) done(FAILURE_TLS_HANDSHAKE, null);
  }
}

interface Ground {
  readonly clock: VirtualClock;
  /** Answers with its name, unless `first` does something else. */
  readonly endpoint: (name: string, answer?: (stream: ServerHttp2Stream) => void) => Promise<HeldEndpoint>;
  /** A client of either protocol before these endpoints; of two with the same load the first is picked. */
  readonly get: (endpoints: readonly HttpEndpoint[], http2: boolean) => Promise<() => Promise<string>>;
}

function ground(t: TestContext): Ground {
  const clock = new VirtualClock();
  return {
    clock,
    endpoint: async (name, answer) => {
      const server = createServer();
      const sessions = new Set<{ destroy(): void }>();
      server.on('session', (session) => sessions.add(session));
      server.on('stream', (stream: ServerHttp2Stream) => {
        stream.on('error', () => undefined);
        if (answer !== undefined) answer(stream);
        else {
          stream.respond({ ':status': 200, 'content-length': name.length });
          stream.end(name);
        }
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      t.after(() => {
        for (const session of sessions) session.destroy();
        server.close();
      });
      return new HeldEndpoint((server.address() as AddressInfo).port, false);
    },
    get: async (endpoints, http2) => {
      const server = createHttpServer({ clock, random: () => 0 });
      const target = { authority: 'a:80', endpoints, failfast: false, whenAvailable: () => undefined };
      const proxy = await listenLoopback(server, target, null, false, http2);
      t.after(() => proxy.close());
      if (!http2) return () => overHttp1(proxy.port);
      const session = connect(`http://127.0.0.1:${proxy.port}`);
      t.after(() => session.destroy());
      return () => overHttp2(session);
    },
  };
}

/** Status, or what the stream was reset with, and body. */
async function overHttp2(session: ClientHttp2Session): Promise<string> {
  const stream = session.request({ ':method': 'POST', ':path': '/' });
  let text = '';
  stream.on('response', (headers) => (text += `${headers[':status']} `));
  stream.on('data', (part: Buffer) => (text += part.toString()));
  stream.on('error', () => (text += `reset ${stream.rstCode}`));
  stream.end('some body');
  await new Promise((resolve) => stream.on('close', resolve));
  return text.trim();
}

async function overHttp1(port: number): Promise<string> {
  const peer = await rawClient(port);
  peer.write(GET);
  const head = await peer.head();
  const length = Number(/content-length: (\d+)/.exec(head)?.[1] ?? 0);
  await peer.when(() => peer.received.length >= length);
  const text = `${head.split(' ')[1]} ${peer.received}`;
  await peer.close();
  return text.trim();
}

for (const http2 of [true, false]) {
  const kind = http2 ? 'HTTP/2' : 'HTTP/1';

  test(`${kind}: a stream that is refused goes to another endpoint`, timeout, async (t) => {
    const { endpoint, get } = ground(t);
    let refused = 0;
    const full = await endpoint('full', (stream) => {
      refused++;
      stream.close(constants.NGHTTP2_REFUSED_STREAM);
    });
    const free = await endpoint('free');
    const ask = await get([full, free], http2);
    // A body that was sent is not there any more for a second time.
    assert.equal(await ask(), http2 ? `reset ${REFUSED_STREAM}` : '200 free');
    assert.equal(refused, 1);
    assert.deepEqual(full.recorded.resets, [REFUSED_STREAM]);
    assert.equal(full.slot?.load.inFlight, 0);
    if (!http2) assert.deepEqual(free.recorded.ended, [{ status: 200, failure: 0 }]);
  });

  test(`${kind}: the only endpoint is asked again, three times in all`, timeout, async (t) => {
    const { endpoint, get } = ground(t);
    let refused = 0;
    const full = await endpoint('full', (stream) => {
      refused++;
      stream.close(constants.NGHTTP2_REFUSED_STREAM);
    });
    const ask = await get([full], http2);
    assert.equal(await ask(), http2 ? `reset ${REFUSED_STREAM}` : '503');
    assert.equal(refused, http2 ? 1 : 3);
    assert.equal(full.slot?.load.inFlight, 0);
  });

  test(`${kind}: nobody waits for a slow connection while another endpoint has one`, timeout, async (t) => {
    const { clock, endpoint, get } = ground(t);
    const slow = await endpoint('slow');
    const quick = await endpoint('quick');
    slow.held = true;
    const ask = await get([slow, quick], http2);
    const answers = Promise.all([ask(), ask(), ask()]);
    // No endpoint has a connection yet; what is slow is left after a second.
    await until(() => slow.recorded.started + quick.recorded.started === 3);
    clock.advance(1_000);
    assert.deepEqual(await answers, ['200 quick', '200 quick', '200 quick']);
    assert.ok(slow.recorded.started > 0);
    assert.deepEqual([slow.recorded.returned, slow.recorded.ended.length], [slow.recorded.started, 0]);
    assert.equal(slow.slot?.load.inFlight, 0);
    assert.equal(await ask(), '200 quick');
    assert.equal(slow.connections, 1, 'one dial');
    slow.held = false;
    slow.fail();
    assert.equal(await ask(), '200 quick');
    assert.equal(slow.connections, 1, 'none right after one that failed');
    clock.advance(111);
    assert.equal(await ask(), '200 quick');
    assert.equal(slow.connections, 2, 'dialled, while the request goes where there is a connection');
    await until(() => slow.slot?.connections.length === 1);
  });

  test(`${kind}: requests that share a dial all go elsewhere when it fails`, timeout, async (t) => {
    const { endpoint, get } = ground(t);
    const dead = await endpoint('dead');
    const alive = await endpoint('alive');
    dead.held = true;
    const ask = await get([dead, alive], http2);
    alive.held = true;
    const answers = Promise.all([ask(), ask(), ask(), ask()]);
    await until(() => dead.recorded.started + alive.recorded.started === 4);
    alive.held = false;
    for (const done of alive.waiting.splice(0)) alive.connect(true, done);
    dead.fail();
    assert.deepEqual(
      await answers,
      Array.from({ length: 4 }, () => '200 alive'),
    );
    assert.equal(dead.recorded.returned, dead.recorded.started);
    assert.equal(dead.recorded.ended.length, 0);
  });

  test(`${kind}: without another endpoint the failure is told`, timeout, async (t) => {
    const { endpoint, get } = ground(t);
    const [dead, gone] = [await endpoint('dead'), await endpoint('gone')];
    dead.held = true;
    gone.held = true;
    const ask = await get([dead, gone], http2);
    const answer = ask();
    await until(() => dead.waiting.length === 1);
    dead.fail();
    await until(() => gone.waiting.length === 1);
    gone.fail();
    assert.equal(await answer, '502');
    assert.deepEqual([dead.recorded.returned, gone.recorded.returned], [1, 0]);
    assert.deepEqual(gone.recorded.ended, [{ status: 502, failure: FAILURE_TLS_HANDSHAKE }]);
  });
}

test('a request above the last stream of a GOAWAY goes to another endpoint', timeout, async (t) => {
  const { endpoint, get } = ground(t);
  const raw = await RawServer.listen();
  t.after(() => raw.close());
  raw.onConnection = (peer) => {
    const out = Buffer.alloc(64);
    peer.socket.write(out.subarray(0, writeSettings(out, 0, [])));
    // The preface, settings, and a request.
    void peer
      .when(() => peer.received.includes('shop'))
      .then(() => {
        const bye = Buffer.alloc(64);
        peer.socket.end(bye.subarray(0, writeGoAway(bye, 0, 0, NO_ERROR)));
      });
  };
  const leaving = new HeldEndpoint(raw.port, false);
  const staying = await endpoint('staying');
  const ask = await get([leaving, staying], false);
  assert.equal(await ask(), '200 staying');
  assert.equal(raw.connections.length, 1);
  assert.deepEqual([leaving.recorded.returned, leaving.recorded.resets.length], [1, 0]);
});
