// SPDX-License-Identifier: Apache-2.0
// HTTP/1 that travels over HTTP/2 between two of our servers and comes out as HTTP/1: what an application sees and
// gets must be what it would without, and an end in the middle must never look like the end of a message.

import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { type Clock, systemClock, VirtualClock } from '#lib/core/clock.ts';
import { resetSocket } from '#lib/net/reset.ts';
import {
  fixedTarget,
  LoopbackEndpoint,
  type LoopbackProxy,
  listenLoopback,
  RecordedMetrics,
} from './loopback.ts';
import { mirrorServer, postBodies } from './mirrored-bodies.ts';
import { type RawPeer, RawServer, rawClient } from './raw-peers.ts';
import { createHttpServer } from './server.ts';
import type { HttpServer, RequestGate } from './types.ts';

const timeout = { timeout: 20_000 };
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const GET = 'GET / HTTP/1.1\r\nHost: shop\r\n\r\n';
/** What the mesh knows of the client. */
const gate: RequestGate = { judge: () => 0, clientId: 'web' };

interface Chain {
  readonly near: HttpServer;
  readonly far: HttpServer;
  /** The HTTP/2 half, seen from outside. */
  readonly wire: LoopbackProxy;
  readonly link: LoopbackEndpoint;
  readonly metrics: RecordedMetrics;
  readonly farMetrics: RecordedMetrics;
  readonly client: () => Promise<RawPeer>;
  readonly exchange: (request: string) => Promise<{ client: RawPeer; server: RawPeer; head: string }>;
}

/** A client, a server at `port` or a raw one, and between them two of ours that speak HTTP/2 with each other. */
async function chain(
  t: TestContext,
  port?: number,
  clock: Clock = systemClock,
): Promise<Chain & { upstream: RawServer }> {
  const upstream = await RawServer.listen();
  const farMetrics = new RecordedMetrics();
  const far = createHttpServer();
  const application = new LoopbackEndpoint(port ?? upstream.port, farMetrics, true);
  const wire = await listenLoopback(far, fixedTarget([application]), gate, true, true);
  const metrics = new RecordedMetrics();
  const near = createHttpServer({ clock });
  const link = new LoopbackEndpoint(wire.port, metrics, true, true);
  const proxy = await listenLoopback(near, fixedTarget([link]), null, true);
  const clients: RawPeer[] = [];
  t.after(async () => {
    await Promise.all(clients.map((peer) => peer.close()));
    await proxy.close();
    await wire.close();
    await upstream.close();
  });
  const client = async (): Promise<RawPeer> => {
    const peer = await rawClient(proxy.port);
    clients.push(peer);
    return peer;
  };
  return {
    near,
    far,
    wire,
    link,
    metrics,
    farMetrics,
    upstream,
    client,
    exchange: async (request) => {
      const peer = await client();
      peer.write(request);
      const server = await upstream.accept();
      return { client: peer, server, head: await server.head() };
    },
  };
}

test(
  'a request comes out as HTTP/1.1 with its host, target and fields, and the identity of the mesh',
  timeout,
  async (t) => {
    const { exchange, link } = await chain(t);
    const { client, server, head } = await exchange(
      'GET /a?b=c HTTP/1.1\r\nHost: shop\r\nX-One: 1\r\nl5d-client-id: forged\r\nConnection: x-two\r\nX-Two: 2\r\n' +
        'Cookie: a=b\r\nTE: trailers\r\nx-one: again\r\n\r\n',
    );
    assert.equal(
      head,
      'GET /a?b=c HTTP/1.1\r\nhost: shop\r\nx-one: 1\r\nte: trailers\r\nx-one: again\r\ncookie: a=b\r\n' +
        'l5d-client-id: web\r\n\r\n',
    );
    server.write('HTTP/1.1 201 Made\r\nContent-Length: 2\r\nX-A: b\r\nl5d-proxy-error: no\r\n\r\nok');
    assert.equal(await client.take('ok'), 'HTTP/1.1 201 Created\r\ncontent-length: 2\r\nx-a: b\r\n\r\nok');
    for (let again = 0; again < 5; again++) {
      client.write(GET);
      await server.head();
      server.write(OK);
      await client.take('ok');
    }
    assert.equal(link.connections, 1);
  },
);

test('absolute form, OPTIONS *, HEAD, 204 and 304 stay what they are', timeout, async (t) => {
  const { exchange } = await chain(t);
  const { client, server, head } = await exchange('GET http://shop/x HTTP/1.1\r\nHost: other\r\n\r\n');
  assert.equal(head, 'GET http://shop/x HTTP/1.1\r\nhost: other\r\nl5d-client-id: web\r\n\r\n');
  server.write(OK);
  await client.take('ok');
  const second = await exchange('OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\n');
  assert.match(second.head, /^OPTIONS \* HTTP\/1\.1\r\n/);
  second.server.write('HTTP/1.1 204 No Content\r\n\r\n');
  assert.equal(await second.client.take('\r\n\r\n'), 'HTTP/1.1 204 No Content\r\n\r\n');
  second.client.write('HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n');
  await second.server.head();
  second.server.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n');
  assert.equal(await second.client.take('\r\n\r\n'), 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n');
  second.client.write(GET);
  await second.server.head();
  second.server.write('HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n');
  assert.equal(
    await second.client.take('\r\n\r\n'),
    'HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\netag: x\r\n\r\n',
  );
});

test('chunked stays chunked and a length a length, with trailers, both ways', timeout, async (t) => {
  const { exchange } = await chain(t);
  const { client, server, head } = await exchange(
    'POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-Sum: 3\r\nHost: evil\r\n\r\n',
  );
  assert.match(head, /transfer-encoding: chunked\r\n/);
  assert.equal(await server.take('\r\n\r\n'), '3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n');
  server.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nX-End: 1\r\n\r\n');
  assert.equal(await client.head(), 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n');
  assert.equal(await client.take('\r\n\r\n'), '2\r\nde\r\n0\r\nx-end: 1\r\n\r\n');
  client.write('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nabc');
  assert.match(await server.take('abc'), /content-length: 3\r\n/);
  server.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
  assert.equal(await client.head(), 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
});

test('a body that the application ends by closing is chunked for the client', timeout, async (t) => {
  const { exchange } = await chain(t);
  const { client, server } = await exchange(GET);
  server.write('HTTP/1.1 200 OK\r\n\r\nabc');
  await client.take('3\r\nabc\r\n');
  server.socket.end();
  assert.equal(await client.take('0\r\n\r\n'), '0\r\n\r\n');
});

test('Expect: 100-continue and early hints pass', timeout, async (t) => {
  const { exchange } = await chain(t);
  const { client, server } = await exchange(
    'POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n',
  );
  server.write('HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n');
  assert.equal(await client.head(), 'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n');
  assert.equal(await client.head(), 'HTTP/1.1 100 Continue\r\n\r\n');
  client.write('abc');
  await server.take('abc');
  server.write(OK);
  assert.match(await client.take('ok'), /^HTTP\/1\.1 200 OK/);
});

test('an early response is given in full, and the upload ends', timeout, async (t) => {
  const { exchange } = await chain(t);
  const { client, server } = await exchange('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nabc');
  await server.take('abc');
  server.write(OK);
  assert.match(await client.take('ok'), /connection: close/);
  await server.when(() => server.ended || server.closed);
});

test('a client that goes takes its request along, and nobody else’s', timeout, async (t) => {
  const { exchange, link } = await chain(t);
  const first = await exchange(GET);
  const second = await exchange(GET);
  first.client.socket.destroy();
  await first.server.when(() => first.server.ended || first.server.closed);
  second.server.write(OK);
  await second.client.take('ok');
  assert.equal(link.connections, 1);
});

test(
  'an application that dies before its response: 502; in it: an error, never an end',
  timeout,
  async (t) => {
    const { exchange, metrics } = await chain(t);
    const before = await exchange(GET);
    before.server.socket.resetAndDestroy();
    assert.match(await before.client.head(), /^HTTP\/1\.1 502 Bad Gateway\r\n/);
    const within = await exchange(GET);
    within.server.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc');
    await within.client.take('abc');
    within.server.socket.resetAndDestroy();
    assert.equal(await within.client.gone(), 'RST');
    const chunked = await exchange(GET);
    chunked.server.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n');
    await chunked.client.take('abc\r\n');
    chunked.server.socket.end();
    assert.equal(await chunked.client.gone(), 'RST');
    assert.equal(metrics.ended.length, 3);
  },
);

test(
  'the connection between the two dies: 502 before the response, an error in it, then a new one',
  timeout,
  async (t) => {
    const { exchange, wire, link } = await chain(t);
    const waiting = await exchange(GET);
    const within = await exchange(GET);
    within.server.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc');
    await within.client.take('abc');
    for (const socket of wire.sockets) resetSocket(socket);
    assert.match(await waiting.client.head(), /^HTTP\/1\.1 502 /);
    assert.equal(await within.client.gone(), 'RST');
    const next = await exchange(GET);
    next.server.write(OK);
    await next.client.take('ok');
    assert.equal(link.connections, 2);
  },
);

test('drain: requests in flight end well, later ones go over another connection', timeout, async (t) => {
  const { exchange, far, link } = await chain(t);
  const first = await exchange(GET);
  far.drain(60_000);
  far.dismiss();
  const second = await exchange(GET);
  first.server.write(OK);
  await first.client.take('ok');
  second.server.write(OK);
  await second.client.take('ok');
  assert.equal(link.connections, 2);
});

test('bodies of every size, many at once, through one connection', timeout, async (t) => {
  const server = await mirrorServer();
  const agent = new Agent({ keepAlive: true, maxSockets: 16 });
  const { client, link } = await chain(t, (server.address() as AddressInfo).port);
  const port = (await client()).socket.remotePort as number;
  t.after(() => {
    agent.destroy();
    server.closeAllConnections();
    server.close();
  });
  await postBodies(agent, port);
  assert.equal(link.connections, 1);
});

test(
  'the connection between the two ends when nobody has used it for a minute, not before',
  timeout,
  async (t) => {
    const clock = new VirtualClock();
    const { exchange, link } = await chain(t, undefined, clock);
    const { client, server } = await exchange(GET);
    server.write(OK);
    await client.take('ok');
    const again = async (idleMs: number): Promise<number> => {
      clock.advance(idleMs);
      client.write(GET);
      await server.head();
      server.write(OK);
      await client.take('ok');
      return link.connections;
    };
    assert.equal(await again(50_000), 1);
    assert.equal(await again(50_000), 1, 'a minute since it was last used, not since it began');
    assert.equal(await again(80_000), 2);
  },
);

test('a slow reader holds back its own endpoint only', timeout, async (t) => {
  const { exchange, client, upstream } = await chain(t);
  const slow = await exchange(GET);
  slow.client.socket.pause();
  const total = 64 * 1_048_576;
  slow.server.write(`HTTP/1.1 200 OK\r\nContent-Length: ${total}\r\n\r\n`);
  const piece = Buffer.alloc(262_144, 'x');
  let sent = 0;
  // Until the server's own socket takes nothing for a while: everything on the way is full.
  for (let quiet = 0; quiet < 20; ) {
    if (slow.server.socket.writableLength === 0 && sent < total) {
      slow.server.socket.write(piece);
      sent += piece.length;
      quiet = 0;
    } else {
      quiet++;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(sent < total / 2, `${sent} bytes were taken`);
  const other = await client();
  other.write(GET);
  const server = await upstream.accept();
  await server.head();
  server.write(OK);
  await other.take('ok');
});
