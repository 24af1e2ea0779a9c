// SPDX-License-Identifier: Apache-2.0
// What goes wrong, and that each side can tell: on real sockets.

import assert from 'node:assert/strict';
import { VirtualClock } from '#lib/core/clock.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';
import {
  FAILURE_BAD_REQUEST,
  FAILURE_CLIENT_GONE,
  FAILURE_CONNECT_REFUSED,
  FAILURE_FAILFAST,
  FAILURE_NONE,
  FAILURE_POLICY,
  FAILURE_UPSTREAM_PROTOCOL,
  FAILURE_UPSTREAM_RESET,
} from '../failure.ts';
import { HEAD_BYTES_MAX, TARGET_BYTES_MAX } from '#lib/http/limits.ts';
import type { TcpSource } from './byte-source.ts';
import { fixedTarget, LoopbackEndpoint, RecordedMetrics } from './loopback.ts';
import { proxyFixture, hasPlainSockets, testBoth } from './proxy-fixture.ts';
import { RawServer, until } from './raw-peers.ts';
import type { HttpEndpoint, HttpTarget } from './types.ts';

const GET = 'GET / HTTP/1.1\r\nHost: shop\r\n\r\n';
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

function refusal(line: string, error = '', closes = true): string {
  const explanation = error === '' ? '' : `l5d-proxy-error: ${error}\r\n`;
  return `HTTP/1.1 ${line}\r\n${explanation}content-length: 0\r\n${closes ? 'connection: close\r\n' : ''}\r\n`;
}

testBoth('what could smuggle a request is refused, closed, and never seen by the endpoint', async (t) => {
  const { client, upstream } = await proxyFixture(t);
  const table: readonly (readonly [request: string, status: string])[] = [
    [
      'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      '400 Bad Request',
    ],
    ['POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd', '400 Bad Request'],
    ['GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n', '400 Bad Request'],
    ['GET / HTTP/1.1\r\nHost : a\r\n\r\n', '400 Bad Request'],
    ['GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n', '400 Bad Request'],
    ['GET test HTTP/1.1\r\nHost: a\r\n\r\n', '400 Bad Request'],
    ['SSH-2.0-OpenSSH_9.6\r\n', '400 Bad Request'],
    ['GET / HTTP/1.3\r\n\r\n', '505 HTTP Version Not Supported'],
    [`GET / HTTP/1.1\r\n${'A: b\r\n'.repeat(101)}\r\n`, '431 Request Header Fields Too Large'],
    [`GET / HTTP/1.1\r\nA: ${'b'.repeat(HEAD_BYTES_MAX)}`, '431 Request Header Fields Too Large'],
    [`GET /${'a'.repeat(TARGET_BYTES_MAX)} HTTP/1.1\r\n\r\n`, '414 URI Too Long'],
    [`GET /${'a'.repeat(HEAD_BYTES_MAX)}`, '414 URI Too Long'],
  ];
  for (const [request, status] of table) {
    const peer = await client();
    peer.write(`${request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n`);
    assert.equal(await peer.rest(), refusal(status), JSON.stringify(request.slice(0, 60)));
    assert.equal(await peer.gone(), 'FIN');
  }
  assert.equal(upstream.connections.length, 0);
});

testBoth('a wrong chunk in the request: 400, and the endpoint never sees the end of the body', async (t) => {
  const { exchange, metrics } = await proxyFixture(t);
  const { client, server } = await exchange(
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n',
  );
  client.write('3\r\nabcX0\r\n\r\n');
  assert.equal(await client.rest(), refusal('400 Bad Request'));
  await server.gone();
  assert.ok(!server.received.includes('0\r\n'));
  assert.deepEqual(metrics.ended, [{ status: 400, failure: FAILURE_BAD_REQUEST }]);
});

testBoth('an endpoint that refuses connections', async (t) => {
  const { client, upstream, metrics } = await proxyFixture(t);
  await upstream.close();
  const peer = await client();
  peer.write(GET);
  assert.equal(await peer.rest(), refusal('502 Bad Gateway', 'connection refused by the endpoint'));
  assert.equal(await peer.gone(), 'FIN');
  assert.deepEqual(metrics.ended, [{ status: 502, failure: FAILURE_CONNECT_REFUSED }]);
});

testBoth('invalid responses become 502', async (t) => {
  for (const answer of [
    'SMTP ready\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na',
    'HTTP/1.1 200 OK\nContent-Length: 0\n\n',
    'HTTP/1.1 200 OK\r\nA : b\r\n\r\n',
    'HTTP/1.1 101 Switching Protocols\r\n\r\n',
    `HTTP/1.1 200 OK\r\n${'A: b\r\n'.repeat(101)}\r\n`,
  ]) {
    const { exchange, metrics } = await proxyFixture(t);
    const { client, server } = await exchange(GET);
    server.write(answer);
    assert.equal(
      await client.rest(),
      refusal('502 Bad Gateway', 'invalid response from the endpoint'),
      answer,
    );
    await server.gone();
    assert.deepEqual(metrics.ended, [{ status: 502, failure: FAILURE_UPSTREAM_PROTOCOL }]);
  }
});

testBoth('an endpoint that closes before or inside the head: 502', async (t) => {
  for (const [start, how] of [
    ['', 'end'],
    ['', 'resetAndDestroy'],
    ['HTTP/1.1 200 OK\r\nContent-', 'end'],
    ['HTTP/1.1 100 Continue\r\n\r\n', 'end'],
  ] as const) {
    const { exchange, metrics, endpoint } = await proxyFixture(t);
    const { client, server } = await exchange(GET);
    if (start !== '') server.socket.write(start);
    server.socket[how]();
    const answer = await client.rest();
    assert.ok(answer.endsWith(refusal('502 Bad Gateway', 'connection closed before the response')), answer);
    assert.deepEqual(metrics.ended, [{ status: 502, failure: FAILURE_UPSTREAM_RESET }]);
    assert.equal(endpoint.slot?.load.inFlight, 0);
  }
});

testBoth(
  'an endpoint that dies in mid-response: the client sees an RST, never a complete message',
  async (t) => {
    for (const [head, how] of [
      ['HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n', 'end'],
      ['HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n', 'resetAndDestroy'],
      ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n', 'end'],
      ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n', 'resetAndDestroy'],
      ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n', 'end'],
      ['HTTP/1.1 200 OK\r\n\r\n', 'resetAndDestroy'],
    ] as const) {
      const { exchange, metrics } = await proxyFixture(t);
      const { client, server } = await exchange(GET);
      server.write(`${head}part`);
      if (!head.includes('zz')) await client.take('part');
      server.socket[how]();
      assert.equal(await client.gone(), 'RST', head);
      assert.ok(!client.received.includes('0\r\n\r\n'));
      assert.equal(metrics.ended.length, 1);
      assert.notEqual(metrics.ended[0]?.failure, FAILURE_NONE);
    }
  },
);

testBoth('a client that goes away aborts its request', async (t) => {
  for (const how of ['destroy', 'resetAndDestroy', 'end'] as const) {
    const { exchange, metrics, endpoint } = await proxyFixture(t);
    const { client, server } = await exchange(GET);
    client.socket[how]();
    await server.when(() => server.ended || server.error !== undefined);
    assert.deepEqual(metrics.ended, [{ status: 0, failure: FAILURE_CLIENT_GONE }]);
    assert.equal(endpoint.slot?.load.inFlight, 0);
  }
});

testBoth(
  'a pooled connection lost before the request was written: sent again over a fresh one',
  async (t) => {
    // Lost between the pick and the flush at the end of the same turn.
    let pooled: StreamSocket | undefined;
    let losing = false;
    class Endpoint extends LoopbackEndpoint {
      override connect(http2: boolean, done: Parameters<HttpEndpoint['connect']>[1]): void {
        super.connect(http2, (failure, source) => {
          pooled = source?.socket;
          done(failure, source);
        });
      }
    }
    class Metrics extends RecordedMetrics {
      override requestStarted(): void {
        super.requestStarted();
        if (losing) process.nextTick(() => pooled?.destroy());
      }
    }
    const server = await RawServer.listen();
    t.after(() => server.close());
    const metrics = new Metrics();
    const endpoint = new Endpoint(server.port, metrics, hasPlainSockets());
    const { client } = await proxyFixture(t, { target: () => fixedTarget([endpoint]) });
    const peer = await client();
    const post = 'POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nabc';
    peer.write(post);
    const first = await server.accept();
    await first.take('abc');
    first.write(OK);
    await peer.take('ok');
    losing = true;
    peer.write(post);
    const second = await server.accept();
    assert.equal(await second.take('abc'), post);
    second.write(OK);
    assert.equal(await peer.take('ok'), OK);
    assert.equal(first.received, '', 'the first connection saw nothing of it');
    assert.deepEqual(metrics.ended, [
      { status: 200, failure: FAILURE_NONE },
      { status: 200, failure: FAILURE_NONE },
    ]);
    assert.equal(endpoint.slot?.load.inFlight, 0);
  },
);

testBoth('a request that was written is not sent again', async (t) => {
  const { exchange, upstream, metrics } = await proxyFixture(t);
  const { client, server } = await exchange(GET);
  server.write(OK);
  await client.take('ok');
  client.write(GET);
  await server.head();
  server.socket.end();
  assert.equal(await client.rest(), refusal('502 Bad Gateway', 'connection closed before the response'));
  assert.equal(upstream.connections.length, 1);
  assert.equal(metrics.ended[1]?.failure, FAILURE_UPSTREAM_RESET);
});

testBoth('a pooled connection that the endpoint closed meanwhile is not used', async (t) => {
  const { exchange, upstream } = await proxyFixture(t);
  const { client, server } = await exchange(GET);
  server.write(OK);
  await client.take('ok');
  server.socket.end();
  await until(() => server.closed);
  client.write(GET);
  const fresh = await upstream.accept();
  assert.equal(await fresh.head(), GET);
  fresh.write(OK);
  assert.equal(await client.take('ok'), OK);
});

testBoth('bytes on an idle connection are nobody’s answer', async (t) => {
  const { exchange, upstream } = await proxyFixture(t);
  const { client, server } = await exchange(GET);
  server.write(OK);
  await client.take('ok');
  server.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong');
  await server.when(() => server.ended || server.error !== undefined);
  client.write(GET);
  const second = await upstream.accept();
  await second.head();
  second.write(`${OK}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong`);
  assert.equal(await client.take('ok'), OK);
  await second.when(() => second.ended || second.error !== undefined);
  client.write(GET);
  await (await upstream.accept()).head();
  assert.equal(client.received, '');
});

testBoth('policy: 403 keeps the connection, explained to meshed clients only', async (t) => {
  for (const [clientId, error] of [
    ['', ''],
    ['web.shop', 'client is not authorized'],
  ] as const) {
    const judge = (_method: string, path: string): number =>
      path === '/secret' ? FAILURE_POLICY : FAILURE_NONE;
    const { client, upstream } = await proxyFixture(t, { gate: { clientId, judge } });
    const peer = await client();
    const secret = 'GET /secret?x HTTP/1.1\r\nHost: a\r\n\r\n';
    peer.write(`${secret}${secret}${GET}`);
    const refused = refusal('403 Forbidden', error, false);
    assert.equal(await peer.take(`${refused}${refused}`), `${refused}${refused}`);
    const server = await upstream.accept();
    await server.head();
    server.write(OK);
    assert.equal(await peer.take('ok'), OK);
    peer.write('POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nnot all');
    assert.equal(await peer.rest(), refusal('403 Forbidden', error));
  }
});

testBoth('without endpoints: waits, then fails or is served; in fail-fast 503 at once', async (t) => {
  const waiting: ((failure: number) => void)[] = [];
  const state = { failfast: false, endpoints: [] as readonly HttpEndpoint[] };
  const target = (): HttpTarget => ({
    authority: 'svc:80',
    get endpoints() {
      return state.endpoints;
    },
    get failfast() {
      return state.failfast;
    },
    whenAvailable: (done) => void waiting.push(done),
  });
  const { client, endpoint, upstream } = await proxyFixture(t, { target });
  const late = await client();
  late.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc');
  const failing = await client();
  failing.write(GET);
  await until(() => waiting.length >= 2);
  const gone = await client();
  gone.write(GET);
  await until(() => waiting.length >= 3);
  waiting[1]?.(FAILURE_FAILFAST);
  assert.equal(await failing.rest(), refusal('504 Gateway Timeout', 'service in fail-fast'));
  state.failfast = true;
  const shed = await client();
  shed.write(GET);
  assert.equal(await shed.rest(), refusal('503 Service Unavailable', 'service unavailable'));
  state.endpoints = [endpoint];
  await gone.close();
  late.write('def');
  waiting[0]?.(FAILURE_NONE);
  const server = await upstream.accept();
  assert.equal((await server.take('abcdef')).slice(-6), 'abcdef');
  server.write(OK);
  assert.equal(await late.take('ok'), OK);
});

testBoth('a client gone while connecting leaves its connection to the next request', async (t) => {
  let connected: (() => void) | undefined;
  class SlowEndpoint extends LoopbackEndpoint {
    override connect(http2: boolean, done: Parameters<HttpEndpoint['connect']>[1]): void {
      super.connect(http2, (failure, source) => {
        connected = () => done(failure, source);
      });
    }
  }
  const server = await RawServer.listen();
  t.after(() => server.close());
  const { client, proxy, metrics } = await proxyFixture(t, {
    target: (original) => ({
      authority: 'a:80',
      endpoints: [new SlowEndpoint(server.port, original.metrics, hasPlainSockets())],
      failfast: false,
      whenAvailable: () => undefined,
    }),
  });
  const first = await client();
  first.write(GET);
  await server.accept();
  await until(() => connected !== undefined);
  await first.close();
  await until(() => proxy.sockets.size === 0);
  assert.deepEqual(metrics.ended, [{ status: 0, failure: FAILURE_CLIENT_GONE }]);
  (connected as (() => void) | undefined)?.();
  const second = await client();
  second.write(GET);
  const [connection] = server.connections;
  assert.ok(connection !== undefined);
  assert.equal(await connection.head(), GET);
  connection.write(OK);
  assert.equal(await second.take('ok'), OK);
  assert.equal(server.connections.length, 1);
});

testBoth('a client that does not end its head is cut off, however it goes on', async (t) => {
  const clock = new VirtualClock();
  const { client } = await proxyFixture(t, { server: { clock } });
  const peer = await client();
  peer.write('GET / HTTP/1.1\r\nHost: sh');
  // Read, and waited for.
  await until(() => clock.pendingTimers > 0);
  clock.advance(59_000);
  peer.write('op\r\nX: y');
  clock.advance(1_300);
  assert.match(await peer.gone(), /FIN|RST/);
});

testBoth(
  'a slow head is served when it ends in time, and what follows has all the time it needs',
  async (t) => {
    const clock = new VirtualClock();
    const { client, upstream } = await proxyFixture(t, { server: { clock } });
    const peer = await client();
    peer.write('POST / HTTP/1.1\r\nHost: sh');
    await until(() => clock.pendingTimers > 0);
    clock.advance(59_000);
    peer.write('op\r\nContent-Length: 5\r\n\r\n');
    const server = await upstream.accept();
    assert.match(await server.head(), /^POST \//);
    clock.advance(600_000);
    peer.write('hello');
    await server.take('hello');
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    assert.match(await peer.head(), /^HTTP\/1.1 200 /);
  },
);

testBoth('a slow reader: what is buffered stays bounded, and everything arrives', async (t) => {
  const { exchange, proxy } = await proxyFixture(t);
  const total = 40_000_000;
  const { client, server } = await exchange(GET);
  client.socket.pause();
  server.write(`HTTP/1.1 200 OK\r\nContent-Length: ${total}\r\n\r\n`);
  const part = Buffer.alloc(1_000_000, 'x');
  for (let sent = 0; sent < total; sent += part.length) server.socket.write(part);
  // The kernel's buffers fill up, then nothing moves any more.
  const [socket] = proxy.sockets;
  assert.ok(socket !== undefined);
  let highest = 0;
  for (let still = 0, last = -1; still < 200; still++) {
    await new Promise((resolve) => setImmediate(resolve));
    highest = Math.max(highest, socket.writableLength);
    if (server.socket.bytesWritten - server.socket.writableLength !== last) still = 0;
    last = server.socket.bytesWritten - server.socket.writableLength;
  }
  assert.ok(server.socket.writableLength > total / 4, 'the endpoint is held back');
  assert.ok(highest < 300_000, `${highest} bytes were buffered`);
  let received = 0;
  client.socket.removeAllListeners('data');
  client.socket.on('data', (chunk: Buffer) => {
    received += chunk.length;
    highest = Math.max(highest, socket.writableLength);
  });
  client.socket.resume();
  await until(() => received >= total);
  assert.ok(highest < 300_000, `${highest} bytes were buffered`);
});

testBoth('a slow endpoint holds its client back', async (t) => {
  const { exchange } = await proxyFixture(t);
  const total = 40_000_000;
  const { client, server } = await exchange(`PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: ${total}\r\n\r\n`);
  server.socket.pause();
  const part = Buffer.alloc(1_000_000, 'x');
  for (let sent = 0; sent < total; sent += part.length) client.socket.write(part);
  for (let still = 0, last = -1; still < 200; still++) {
    await new Promise((resolve) => setImmediate(resolve));
    if (client.socket.writableLength !== last) still = 0;
    last = client.socket.writableLength;
  }
  assert.ok(client.socket.writableLength > total / 4, 'the client is held back');
  let received = server.received.length;
  server.socket.removeAllListeners('data');
  server.socket.on('data', (chunk: Buffer) => {
    received += chunk.length;
  });
  server.socket.resume();
  await until(() => received >= total);
  server.write(OK);
  assert.equal(await client.take('ok'), OK);
});

testBoth('a client that pipelines without end is no longer read', async (t) => {
  const { exchange } = await proxyFixture(t);
  const { client, server } = await exchange(GET);
  const count = 400_000;
  client.socket.write(GET.repeat(count));
  for (let still = 0, last = -1; still < 200; still++) {
    await new Promise((resolve) => setImmediate(resolve));
    if (client.socket.writableLength !== last) still = 0;
    last = client.socket.writableLength;
  }
  assert.ok(client.socket.writableLength > 0, 'held back');
  for (let n = 0; n < 3000; n++) {
    server.write(OK);
    await server.head();
  }
  await client.when(() => client.received.length === OK.length * 3000);
});

testBoth('a source whose bytes nobody takes is closed', async (t) => {
  const server = await RawServer.listen();
  t.after(() => server.close());
  const endpoint = new LoopbackEndpoint(server.port, (await proxyFixture(t)).metrics);
  const socket = await new Promise<TcpSource>((resolve) => {
    endpoint.connect(false, (_, source) => source !== null && resolve(source));
  });
  const peer = await server.accept();
  socket.socket.resume();
  peer.write('x');
  await peer.when(() => peer.ended || peer.error !== undefined);
});
