// SPDX-License-Identifier: Apache-2.0
// Requests that are sent again where their route says so: HTTP/1 clients, on real sockets.

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import type { RequestPolicy, RetryPolicy } from '#lib/core/request-policy.ts';
import { FAILURE_ATTEMPT_TIMEOUT, FAILURE_CLIENT_GONE, FAILURE_NONE } from '../failure.ts';
import { KEPT_BODY_BYTES_MAX } from './kept-body.ts';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from './loopback.ts';
import { type ProxyFixture, proxyFixture, testBoth } from './proxy-fixture.ts';
import { RawServer, until } from './raw-peers.ts';
import { createHttpServer } from './server.ts';
import type { HttpEndpoint, HttpRoute, RetryMetrics } from './types.ts';

const GET = 'GET / HTTP/1.1\r\nHost: shop\r\n\r\n';
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const NO_CONTENT = 'HTTP/1.1 204 No Content\r\n\r\n';
const wrong = (status: number, body = ''): string =>
  `HTTP/1.1 ${status} Wrong\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

/** Counts what it is told. */
class Retries implements RetryMetrics {
  readonly counts = { retried: 0, succeeded: 0, limitExceeded: 0, overflowed: 0 };
  retried(): void {
    this.counts.retried++;
  }
  succeeded(): void {
    this.counts.succeeded++;
  }
  limitExceeded(): void {
    this.counts.limitExceeded++;
  }
  overflowed(): void {
    this.counts.overflowed++;
  }
}

const nobody = { frame() {}, ended() {}, started() {}, waits() {}, waited() {} };
const routeOf = (retries: RetryMetrics): HttpRoute => ({ metrics: nobody, backend: nobody, retries });

const fivexx: RetryPolicy = { statuses: [[500, 599]], grpcCodes: [], maxRetries: 1 };

interface Retrying extends ProxyFixture {
  readonly retries: Retries;
  readonly counted: () => Partial<Retries['counts']>;
  /** Other endpoints from now on. */
  readonly lead: (endpoints: readonly HttpEndpoint[]) => void;
}

async function retrying(t: TestContext, policy: RequestPolicy = { retry: fivexx }): Promise<Retrying> {
  const retries = new Retries();
  let endpoints: readonly HttpEndpoint[] | null = null;
  const fixture = await proxyFixture(t, {
    target: (endpoint) => ({
      authority: 'test:80',
      get endpoints() {
        return endpoints ?? [endpoint];
      },
      failfast: false,
      whenAvailable: () => undefined,
      policy,
      route: routeOf(retries),
    }),
  });
  return {
    ...fixture,
    retries,
    counted: () => Object.fromEntries(Object.entries(retries.counts).filter(([, count]) => count > 0)),
    lead: (to) => {
      endpoints = to;
    },
  };
}

testBoth('a 5xx is nobody’s while there are attempts left; each is counted', async (t) => {
  const { exchange, metrics, counted, upstream } = await retrying(t);
  const { client, server } = await exchange(GET);
  server.write(wrong(500, 'oops'));
  assert.match(
    await server.head(),
    /^GET \/ /,
    'on the same connection: nothing of the first answer is left',
  );
  server.write(NO_CONTENT);
  assert.equal(await client.head(), NO_CONTENT);
  assert.deepEqual(metrics.ended, [
    { status: 500, failure: FAILURE_NONE },
    { status: 204, failure: FAILURE_NONE },
  ]);
  assert.deepEqual([metrics.started, metrics.firstBodies], [2, [500, 204]]);
  assert.deepEqual(counted(), { retried: 1, succeeded: 1 });
  client.write(GET);
  await server.head();
  server.write(OK);
  assert.equal(await client.take('ok'), OK, 'and the next request is one of its own');
  assert.equal(upstream.connections.length, 1);
});

testBoth('what came after the last attempt is the answer, whatever it is', async (t) => {
  const { exchange, counted, upstream } = await retrying(t, { retry: { ...fivexx, maxRetries: 2 } });
  const { client, server } = await exchange(GET);
  for (const status of [500, 501]) {
    server.write(wrong(status));
    await server.head();
  }
  server.write(wrong(504, 'last'));
  assert.equal(await client.take('last'), wrong(504, 'last'));
  assert.deepEqual(counted(), { retried: 2, limitExceeded: 1 });
  assert.equal(upstream.connections.length, 1);
});

testBoth('other statuses, and a first attempt that does, are left alone', async (t) => {
  const { exchange, counted, metrics } = await retrying(t);
  const { client, server } = await exchange(GET);
  server.write(wrong(404, 'none'));
  assert.equal(await client.take('none'), wrong(404, 'none'));
  assert.deepEqual(counted(), {});
  assert.equal(metrics.started, 1);
});

testBoth('an answer with a body that is still coming costs its connection', async (t) => {
  const { exchange, upstream } = await retrying(t);
  const { client, server } = await exchange(GET);
  server.write('HTTP/1.1 500 Wrong\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwro');
  const second = await upstream.accept();
  await second.head();
  second.write(OK);
  assert.equal(await client.take('ok'), OK);
  await server.gone();
});

testBoth('bodies are sent again: by length, and in chunks with trailers', async (t) => {
  const { client: dial, upstream } = await retrying(t, { retry: { ...fivexx, maxRetries: 2 } });
  const client = await dial();
  client.write('POST /sized HTTP/1.1\r\nHost: shop\r\nContent-Length: 11\r\n\r\nhello');
  const server = await upstream.accept();
  await server.take('hello');
  client.write(' world');
  for (let attempt = 0; attempt < 2; attempt++) {
    await server.take('world');
    server.write(wrong(500));
    const again = await server.take('hello');
    assert.match(again, /^POST \/sized HTTP\/1\.1\r\nHost: shop\r\nContent-Length: 11\r\n\r\nhello$/);
  }
  await server.take(' world');
  server.write(OK);
  await client.take('ok');

  client.write(
    'POST /chunked HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n',
  );
  assert.match(await server.take('hello\r\n'), /\r\n\r\n5\r\nhello\r\n$/);
  client.write('6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\nGET /next HTTP/1.1\r\nHost: shop\r\n\r\n');
  assert.equal(await server.take('0\r\nx-sum: 1\r\n\r\n'), '6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n');
  server.write(wrong(503));
  const again = await server.take('0\r\nx-sum: 1\r\n\r\n');
  assert.match(again, /^POST \/chunked [^]*\r\n\r\nb\r\nhello world\r\n0\r\nx-sum: 1\r\n\r\n$/);
  server.write(OK);
  await client.take('ok');
  assert.match(await server.head(), /^GET \/next /, 'what was pipelined comes in its turn');
  server.write(OK);
  await client.take('ok');
});

testBoth('bodies that are too long to be kept are sent once', async (t) => {
  const { client: dial, upstream, counted } = await retrying(t);
  const body = 'x'.repeat(KEPT_BODY_BYTES_MAX + 1);
  const client = await dial();
  client.write(`POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  const server = await upstream.accept();
  await server.when(() => server.received.endsWith(body));
  server.write(wrong(500, 'once'));
  assert.equal(await client.take('once'), wrong(500, 'once'));

  server.received = '';
  client.write('POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n');
  client.write(`${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`);
  const sent = await server.take('\r\n0\r\n\r\n');
  assert.equal(sent.slice(sent.indexOf('\r\n\r\n')).replaceAll(/[^x]/g, ''), body);
  server.write(wrong(500, 'once'));
  assert.equal(await client.take('once'), wrong(500, 'once'));
  assert.equal(server.received, '');
  assert.deepEqual(counted(), {});
});

testBoth('an answer before the end of the request is the answer; upgrades are asked for once', async (t) => {
  const { exchange, metrics } = await retrying(t);
  const early = await exchange('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\nhalf');
  await early.server.take('half');
  early.server.write(wrong(500, 'early'));
  assert.match(await early.client.take('early'), /^HTTP\/1\.1 500 /);
  const upgrade = await exchange(
    'GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
  );
  upgrade.server.write(wrong(500, 'no'));
  assert.match(await upgrade.client.take('no'), /^HTTP\/1\.1 500 /);
  assert.equal(metrics.started, 2);
});

testBoth('what fails on the way counts as the status that it would be', async (t) => {
  const gateway: RequestPolicy = { retry: { ...fivexx, statuses: [[502, 502]] } };
  const { exchange, upstream, counted } = await retrying(t, gateway);
  const { client, server } = await exchange('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nab');
  await server.take('ab');
  server.socket.resetAndDestroy();
  const second = await upstream.accept();
  await second.take('ab');
  client.write('cd');
  await second.take('cd');
  second.write(OK);
  assert.equal(await client.take('ok'), OK, 'the rest of the body goes to the second attempt');
  assert.deepEqual(counted(), { retried: 1, succeeded: 1 });
});

testBoth('a refused connection is tried again, and told when it stays', async (t) => {
  const { client: dial, upstream, counted, metrics } = await retrying(t);
  await upstream.close();
  const client = await dial();
  client.write(GET);
  assert.match(await client.head(), /^HTTP\/1\.1 502 /);
  assert.equal(metrics.ended.length, 2);
  assert.deepEqual(counted(), { retried: 1, limitExceeded: 1 });
});

testBoth('each attempt picks anew, whatever the endpoint speaks', async (t) => {
  // The second endpoint is behind an agent: HTTP/2 between, HTTP/1 at the application.
  const application = await RawServer.listen();
  const far = new LoopbackEndpoint(application.port, new RecordedMetrics(), true);
  const gate = { judge: () => 0, clientId: '' };
  const wire = await listenLoopback(createHttpServer(), fixedTarget([far]), gate, true, true);
  t.after(async () => {
    await wire.close();
    await application.close();
  });
  const meshed = new LoopbackEndpoint(wire.port, new RecordedMetrics(), true, true);
  const { exchange, endpoint, client: dial, lead } = await retrying(t);
  const chunked =
    'POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n';
  const there = await exchange(chunked);
  await there.server.take('\r\n\r\n');
  lead([meshed]);
  there.server.write(wrong(500));
  const behind = await application.accept();
  assert.match(await behind.take('a: b\r\n\r\n'), /^POST \/ [^]*\r\n\r\n2\r\nhi\r\n0\r\na: b\r\n\r\n$/);
  behind.write(OK);
  assert.match(await there.client.take('ok'), /^HTTP\/1\.1 200 /);

  const back = await dial();
  back.write(chunked);
  await behind.take('a: b\r\n\r\n');
  lead([endpoint]);
  behind.write(wrong(500, 'x'));
  const plain = there.server;
  assert.match(await plain.take('a: b\r\n\r\n'), /^[^]*POST \/ [^]*\r\n\r\n2\r\nhi\r\n0\r\na: b\r\n\r\n$/);
  plain.write(OK);
  assert.match(await back.take('ok'), /^HTTP\/1\.1 200 /);
});

testBoth('without anybody for another attempt the answer stays; it is counted once', async (t) => {
  const { exchange, counted, metrics, lead } = await retrying(t);
  const { client, server } = await exchange(GET);
  lead([]);
  server.write(wrong(503, 'body'));
  assert.equal(await client.take('body'), wrong(503, 'body'));
  assert.deepEqual(counted(), { overflowed: 1 });
  assert.deepEqual(metrics.ended, [{ status: 503, failure: FAILURE_NONE }]);
});

testBoth('a client that goes during the pause is not asked for again', async (t) => {
  const clock = new VirtualClock();
  const retries = new Retries();
  const {
    exchange,
    metrics,
    server: proxy,
  } = await proxyFixture(t, {
    server: { clock },
    target: (endpoint) => ({
      ...fixedTarget([endpoint]),
      policy: { retry: fivexx },
      route: routeOf(retries),
    }),
  });
  const { client, server } = await exchange(GET);
  server.write(wrong(500));
  await until(() => metrics.ended.length === 1);
  await client.close();
  await until(() => proxy.active === 0);
  clock.advance(1000);
  assert.deepEqual([metrics.started, retries.counts.retried], [1, 0]);
  assert.equal(server.received, '');
  assert.ok(metrics.ended.every(({ failure }) => failure !== FAILURE_CLIENT_GONE));
});

test('the pause doubles, has up to as much again at random, and is a quarter of a second at most', async (t) => {
  const clock = new VirtualClock();
  const retry = { ...fivexx, maxRetries: 6 };
  const { exchange, metrics } = await proxyFixture(t, {
    server: { clock, random: () => 0.5 },
    target: (endpoint) => ({ ...fixedTarget([endpoint]), policy: { retry } }),
  });
  const { server } = await exchange(GET);
  for (const pauseMs of [37.5, 75, 150, 250, 250, 250]) {
    const started = metrics.started;
    server.write(wrong(500));
    await until(() => metrics.ended.length === started);
    clock.advance(pauseMs - 1);
    assert.equal(metrics.started, started, `before ${pauseMs} ms`);
    clock.advance(1);
    assert.equal(metrics.started, started + 1, `after ${pauseMs} ms`);
    await server.head();
  }
});

testBoth('an attempt that takes too long is followed by another; the last may take its time', async (t) => {
  const clock = new VirtualClock();
  const retry = { ...fivexx, statuses: [], timeoutMs: 400 };
  const { exchange, upstream, metrics } = await proxyFixture(t, {
    server: { clock },
    target: (endpoint) => ({ ...fixedTarget([endpoint]), policy: { retry } }),
  });
  const { client, server } = await exchange(GET);
  clock.advance(1000);
  assert.deepEqual(metrics.ended, [{ status: 504, failure: FAILURE_ATTEMPT_TIMEOUT }]);
  await server.gone();
  clock.advance(300);
  const second = await upstream.accept();
  await second.head();
  clock.advance(60_000);
  second.write(OK);
  assert.equal(await client.take('ok'), OK);
});

testBoth('the request’s own limit holds for all attempts together, and in the pause', async (t) => {
  const clock = new VirtualClock();
  const retry = { ...fivexx, maxRetries: 100, timeoutMs: 400 };
  const { exchange, metrics } = await proxyFixture(t, {
    server: { clock },
    target: (endpoint) => ({
      ...fixedTarget([endpoint]),
      policy: { retry, timeouts: { requestMs: 2000, responseMs: 1500 } },
    }),
  });
  const { client } = await exchange(GET);
  for (let step = 0; step < 30; step++) {
    await new Promise((resolve) => setImmediate(resolve));
    clock.advance(100);
  }
  assert.match(await client.head(), /^HTTP\/1\.1 504 [^]*timed out waiting for the response\r\n/);
  assert.ok(metrics.started > 2 && metrics.started < 6, String(metrics.started));
});

testBoth('a request sets limits and retries for itself where its service allows it', async (t) => {
  const own = (fields: string): string => `GET / HTTP/1.1\r\nHost: shop\r\n${fields}\r\n\r\n`;
  const allowed = await retrying(t, { allowL5dRequestHeaders: true });
  const { client, server, head } = await allowed.exchange(
    own('L5D-Retry-Http: 418, 5xx,503\r\nL5d-Retry-Limit: 2\r\nX-Kept: 1'),
  );
  assert.equal(head, 'GET / HTTP/1.1\r\nHost: shop\r\nX-Kept: 1\r\n\r\n');
  for (const status of [418, 503]) {
    server.write(wrong(status));
    assert.equal(await server.head(), head);
  }
  server.write(wrong(418, 'tea'));
  assert.match(await client.take('tea'), /^HTTP\/1\.1 418 /);
  client.write(own('l5d-retry-http: 5xx'));
  await server.head();
  server.write(wrong(503));
  assert.equal(await server.head(), GET, 'one more by default');
  server.write(OK);
  await client.take('ok');
  client.write(own('l5d-timeout: 1ms'));
  assert.equal(await server.head(), GET);
  assert.match(await client.head(), /^HTTP\/1\.1 504 /);

  const denied = await retrying(t, {});
  const refused = await denied.exchange(own('l5d-retry-http: 5xx'));
  assert.match(refused.head, /l5d-retry-http: 5xx/, 'neither heeded nor taken away');
  refused.server.write(wrong(500, 'x'));
  assert.match(await refused.client.take('x'), /^HTTP\/1\.1 500 /);
});
