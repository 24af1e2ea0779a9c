// SPDX-License-Identifier: Apache-2.0
// What passes through the HTTP/1 server, on real sockets, byte for byte.

import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import type { AddressInfo } from 'node:net';
import { FAILURE_NONE } from '../failure.ts';
import { LoopbackEndpoint, fixedTarget, listenLoopback, RecordedMetrics } from './loopback.ts';
import { mirrorServer, postBodies } from './mirrored-bodies.ts';
import { proxyFixture, hasPlainSockets, testBoth } from './proxy-fixture.ts';
import { createHttpServer } from './server.ts';

const GET = 'GET /a?b HTTP/1.1\r\nHost: shop\r\n\r\n';
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

testBoth('requests of a connection reuse the endpoint connection', async (t) => {
  const { upstream, exchange, metrics, endpoint } = await proxyFixture(t);
  const { client, server, head } = await exchange(GET);
  assert.equal(head, GET);
  server.write(OK);
  assert.equal(await client.take('ok'), OK);
  for (let n = 0; n < 3; n++) {
    client.write(GET);
    assert.equal(await server.head(), GET);
    server.write(OK);
    assert.equal(await client.take('ok'), OK);
  }
  assert.equal(upstream.connections.length, 1);
  assert.equal(metrics.started, 4);
  assert.deepEqual(metrics.firstBodies, [200, 200, 200, 200]);
  assert.deepEqual(
    metrics.ended,
    Array.from({ length: 4 }, () => ({ status: 200, failure: FAILURE_NONE })),
  );
  assert.equal(endpoint.slot?.load.inFlight, 0);
});

testBoth('connections are kept per host, and per form of the target', async (t) => {
  const { upstream, client } = await proxyFixture(t);
  const peer = await client();
  const ask = async (request: string): Promise<void> => {
    peer.write(request);
    // Whichever connection it came by answers.
    for (;;) {
      const busy = upstream.connections.find((connection) => connection.received.includes('\r\n\r\n'));
      if (busy !== undefined) {
        await busy.head();
        busy.write(OK);
        break;
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    await peer.take('ok');
  };
  await ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  await ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.equal(upstream.connections.length, 1);
  await ask('GET / HTTP/1.1\r\nHost: b\r\n\r\n');
  assert.equal(upstream.connections.length, 2);
  await ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.equal(upstream.connections.length, 2);
  await ask('GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.equal(upstream.connections.length, 3);
  await ask('GET / HTTP/1.1\r\n\r\n');
  await ask('GET / HTTP/1.1\r\nHost:\r\n\r\n');
  assert.equal(upstream.connections.length, 5, 'without a host: a connection of its own each');
});

testBoth('hop-by-hop fields stop here in both directions', async (t) => {
  const { exchange } = await proxyFixture(t);
  const { client, server, head } = await exchange(
    'GET / HTTP/1.1\r\nHost: a\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 3\r\nX-Stay: 1\r\n\r\n',
  );
  assert.equal(head, 'GET / HTTP/1.1\r\nHost: a\r\nX-Stay: 1\r\n\r\n');
  server.write(
    'HTTP/1.1 200 Fine\r\nConnection: keep-alive, x-r\r\nX-R: 1\r\nl5d-proxy-error: x\r\nContent-Length: 0\r\n\r\n',
  );
  assert.equal(await client.head(), 'HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n');
});

testBoth('the client identity of the mesh replaces what the client claims', async (t) => {
  const seen: string[] = [];
  const { exchange, upstream } = await proxyFixture(t, {
    gate: {
      clientId: 'web.shop.id',
      judge: (method, path) => (seen.push(`${method} ${path}`), FAILURE_NONE),
    },
  });
  const { client, server, head } = await exchange(
    'POST /p/q?r HTTP/1.1\r\nl5d-client-id: root\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc',
  );
  assert.equal(
    head,
    'POST /p/q?r HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nl5d-client-id: web.shop.id\r\n\r\n',
  );
  assert.equal(await server.take('abc'), 'abc');
  server.write(OK);
  await client.take('ok');
  client.write('BREW http://x?y HTTP/1.1\r\nHost: a\r\n\r\n');
  await (await upstream.accept()).head();
  assert.deepEqual(seen, ['POST /p/q', 'BREW /']);
});

testBoth('pipelined requests are answered in order, also when the bytes come one by one', async (t) => {
  const { exchange } = await proxyFixture(t);
  const requests = Array.from(
    { length: 5 },
    (_, n) => `POST /${n} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbod${n}`,
  );
  const { client, server, head } = await exchange(requests.join(''));
  assert.match(head, /^POST \/0 /);
  for (let n = 0; n < 5; n++) {
    if (n > 0) assert.match(await server.head(), new RegExp(`^POST /${n} `));
    assert.equal(await server.take(`bod${n}`), `bod${n}`);
    assert.equal(server.received, '', 'one request at a time');
    server.write(`HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nr${n}`);
    assert.match(await client.take(`r${n}`), /^HTTP\/1.1 200 OK\r\n/);
  }
  for (const byte of requests.slice(0, 2).join('')) {
    client.write(byte);
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (let n = 0; n < 2; n++) {
    assert.equal(await server.take(`bod${n}`), requests[n]);
    server.write(OK);
    await client.take('ok');
  }
});

testBoth('chunked bodies pass both ways with trailers, without extensions', async (t) => {
  const { exchange } = await proxyFixture(t);
  const { client, server } = await exchange(
    'POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n',
  );
  assert.equal(await server.take('abc\r\n'), '3\r\nabc\r\n');
  client.write('0\r\nX-Sum: 1\r\nHost: b\r\n\r\n');
  assert.equal(await server.head(), '0\r\nX-Sum: 1\r\n\r\n');
  server.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n1\r\na\r\n');
  assert.match(await client.take('1\r\na\r\n'), /chunked\r\nTrailer: X-T\r\n\r\n1\r\na\r\n$/);
  server.write('0\r\nX-T: 2\r\n\r\n');
  assert.equal(await client.head(), '0\r\nX-T: 2\r\n\r\n');
  client.write(GET);
  assert.equal(await server.head(), GET, 'both connections go on');
});

testBoth('responses without a body: HEAD, 204, 304', async (t) => {
  const { exchange } = await proxyFixture(t);
  const { client, server } = await exchange('HEAD / HTTP/1.1\r\nHost: a\r\n\r\n');
  const table = [
    ['HEAD', '200 OK\r\nContent-Length: 55', '200 OK\r\nContent-Length: 55'],
    ['HEAD', '200 OK\r\nTransfer-Encoding: chunked', '200 OK'],
    ['HEAD', '200 OK', '200 OK'],
    ['GET', '204 No Content', '204 No Content'],
    ['GET', '204 No Content\r\nContent-Length: 5\r\nX: y', '204 No Content\r\nX: y'],
    ['GET', '304 Not Modified\r\nContent-Length: 7', '304 Not Modified\r\nContent-Length: 7'],
    ['GET', '200 OK\r\nContent-Length: 0', '200 OK\r\nContent-Length: 0'],
  ] as const;
  let first = true;
  for (const [method, came, goes] of table) {
    if (!first) {
      client.write(`${method} / HTTP/1.1\r\nHost: a\r\n\r\n`);
      await server.head();
    }
    first = false;
    server.write(`HTTP/1.1 ${came}\r\n\r\n`);
    assert.equal(await client.head(), `HTTP/1.1 ${goes}\r\n\r\n`);
  }
});

testBoth('Expect: 100-continue and interim responses pass from end to end', async (t) => {
  const { exchange } = await proxyFixture(t);
  const { client, server, head } = await exchange(
    'PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n',
  );
  assert.match(head, /Expect: 100-continue/);
  server.write('HTTP/1.1 100 Continue\r\n\r\n');
  assert.equal(await client.head(), 'HTTP/1.1 100 Continue\r\n\r\n');
  client.write('body');
  await server.take('body');
  server.write(`HTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: x\r\n\r\n${OK}`);
  assert.equal(await client.head(), 'HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n');
  assert.equal(await client.take('ok'), OK);
});

testBoth(
  'HTTP/1.0: version kept both ways, one connection each, keep-alive only when asked for',
  async (t) => {
    const { exchange, upstream } = await proxyFixture(t);
    const request = 'GET / HTTP/1.0\r\nHost: a\r\n';
    const { client, server, head } = await exchange(`${request}Connection: keep-alive\r\n\r\n`);
    assert.equal(head, `${request}\r\n`);
    server.write(OK);
    assert.equal(
      await client.take('ok'),
      'HTTP/1.0 200 OK\r\nContent-Length: 2\r\nconnection: keep-alive\r\n\r\nok',
    );
    assert.equal(await server.gone(), 'FIN');
    client.write(`${request}\r\n`);
    const second = await upstream.accept();
    await second.head();
    second.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n');
    assert.equal(await client.rest(), 'HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nok');
    assert.equal(await client.gone(), 'FIN');
  },
);

testBoth('a body that ends with the connection: chunks for HTTP/1.1, the same for HTTP/1.0', async (t) => {
  const { exchange, upstream } = await proxyFixture(t);
  const { client, server } = await exchange(GET);
  server.write('HTTP/1.0 200 OK\r\n\r\nfirst');
  assert.equal(
    await client.take('first\r\n'),
    'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n',
  );
  server.write('2nd');
  server.socket.end();
  assert.equal(await client.head(), '3\r\n2nd\r\n0\r\n\r\n');
  client.write('GET / HTTP/1.0\r\n\r\n');
  const second = await upstream.accept();
  await second.head();
  second.write('HTTP/1.1 200 OK\r\n\r\nall');
  second.socket.end();
  assert.equal(await client.rest(), 'HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nall');
});

testBoth('Connection: close is answered and obeyed, and the endpoint connection kept', async (t) => {
  const { exchange, client, upstream } = await proxyFixture(t);
  const { client: first, server } = await exchange(
    'GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n',
  );
  server.write(OK);
  assert.equal(await first.rest(), 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nok');
  assert.equal(await first.gone(), 'FIN');
  const second = await client();
  second.write(GET);
  assert.equal(await server.head(), GET);
  assert.equal(upstream.connections.length, 1);
});

testBoth('an endpoint that says close is not used again', async (t) => {
  const { exchange, upstream } = await proxyFixture(t);
  const { client, server } = await exchange(GET);
  server.write('HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok');
  assert.equal(await client.take('ok'), OK);
  assert.equal(await server.gone(), 'FIN');
  client.write(GET);
  await (await upstream.accept()).head();
});

testBoth('absolute-form stays, Host is only added when missing', async (t) => {
  const { exchange } = await proxyFixture(t);
  const differing = 'GET http://x:81/p HTTP/1.1\r\nHost: other\r\n\r\n';
  const { client, server, head } = await exchange(differing);
  assert.equal(head, differing);
  server.write(OK);
  await client.take('ok');
  client.write('GET http://x:81/p HTTP/1.1\r\n\r\n');
  assert.equal(await server.head(), 'GET http://x:81/p HTTP/1.1\r\nhost: x:81\r\n\r\n');
});

testBoth('an upgrade becomes a tunnel with half-close', async (t) => {
  const { exchange, metrics } = await proxyFixture(t);
  const request = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n';
  const { client, server, head } = await exchange(`${request}early`);
  assert.equal(head, request);
  assert.equal(server.received, '', 'nothing of the new protocol before it is agreed');
  const answer = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n';
  server.write(`${answer}hello`);
  assert.equal(await client.take('hello'), `${answer}hello`);
  assert.equal(await server.take('early'), 'early');
  client.write('GET \0\n\n');
  assert.equal(await server.take('\n\n'), 'GET \0\n\n');
  client.socket.end();
  await server.when(() => server.ended);
  server.write('last');
  assert.equal(await client.take('last'), 'last');
  server.socket.end();
  assert.equal(await client.gone(), 'FIN');
  assert.deepEqual(metrics.ended, [{ status: 101, failure: FAILURE_NONE }]);
});

testBoth('a refused upgrade is an ordinary response', async (t) => {
  const { exchange } = await proxyFixture(t);
  const { client, server } = await exchange(
    'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n',
  );
  server.write(OK);
  assert.equal(await client.take('ok'), OK);
  assert.equal(await server.gone(), 'FIN', 'its connection is never pooled');
});

testBoth('CONNECT becomes a tunnel; its answer carries no framing', async (t) => {
  const { exchange } = await proxyFixture(t);
  const { client, server, head } = await exchange('CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n');
  assert.match(head, /^CONNECT db:5432 /);
  server.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX: y\r\n\r\n');
  assert.equal(await client.head(), 'HTTP/1.1 200 OK\r\nX: y\r\n\r\n');
  client.write('ping');
  assert.equal(await server.take('ping'), 'ping');
  server.write('pong');
  assert.equal(await client.take('pong'), 'pong');
});

testBoth(
  'drain: idle connections close, requests in flight are finished and announced as last',
  async (t) => {
    const { exchange, client, server: proxy } = await proxyFixture(t);
    const idle = await client();
    const { client: busy, server } = await exchange(GET);
    assert.equal(proxy.active, 2);
    proxy.drain(60_000);
    proxy.dismiss();
    assert.equal(await idle.gone(), 'FIN');
    server.write(OK);
    assert.equal(await busy.rest(), 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nok');
    assert.equal(await busy.gone(), 'FIN');
  },
);

testBoth('an early response ends the connection after it, without losing it', async (t) => {
  const { exchange } = await proxyFixture(t);
  const { client, server } = await exchange(
    'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nstart',
  );
  server.write('HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno');
  server.socket.end();
  for (let n = 0; n < 10; n++) client.write('x'.repeat(10_000));
  assert.equal(
    await client.take('no'),
    'HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nconnection: close\r\n\r\nno',
  );
  assert.equal(await client.gone(), 'FIN');
});

testBoth('idle endpoint connections close after the timeout', async (t) => {
  const { exchange } = await proxyFixture(t, { server: { poolIdleTimeoutMs: 50 } });
  const { client, server } = await exchange(GET);
  server.write(OK);
  await client.take('ok');
  // Waits for the timeout itself, not for a guess.
  await server.when(() => server.ended);
});

testBoth('no more idle endpoint connections than the limit are kept', async (t) => {
  const { exchange } = await proxyFixture(t, { server: { poolIdleMax: 1 } });
  const pairs = [await exchange(GET), await exchange(GET)];
  for (const { client, server } of pairs) {
    server.write(OK);
    await client.take('ok');
  }
  const [first, second] = pairs;
  assert.equal(await second?.server.gone(), 'FIN');
  first?.client.write(GET);
  await first?.server.head();
});

testBoth('node:http clients and servers, many at once, any sizes', async (t) => {
  const server = await mirrorServer();
  const endpoint = new LoopbackEndpoint(
    (server.address() as AddressInfo).port,
    new RecordedMetrics(),
    hasPlainSockets(),
  );
  const proxy = await listenLoopback(createHttpServer(), fixedTarget([endpoint]), null, hasPlainSockets());
  const agent = new Agent({ keepAlive: true, maxSockets: 8 });
  t.after(async () => {
    agent.destroy();
    await proxy.close();
    server.closeAllConnections();
    server.close();
  });
  await postBodies(agent, proxy.port);
});
