// SPDX-License-Identifier: Apache-2.0
// The fields by which proxies talk to each other, and applications to theirs: heeded where they may be, never passed on.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectHttp2, constants, createServer as createHttp2Server } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { recordingLog } from '#lib/core/log.ts';
import { FAILURE_NONE } from '../failure.ts';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from './loopback.ts';
import { proxyFixture, testBoth } from './proxy-fixture.ts';
import { createHttpServer } from './server.ts';
import type { RequestGate } from './types.ts';

const GET = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n';
const TOLD =
  'HTTP/1.1 502 Bad Gateway\r\nl5d-proxy-error: refused\r\nL5d-Proxy-Connection: close\r\ncontent-length: 0\r\n\r\n';

testBoth(
  'the proxy of the only endpoint asks that the client connects anew: it is told, and sees no such field',
  async (t) => {
    const log = recordingLog();
    const { client, upstream, endpoint } = await proxyFixture(t, { server: { log } });
    for (const endsClients of [false, true]) {
      endpoint.endsClients = endsClients;
      const peer = await client();
      peer.write(GET);
      const server = await upstream.accept();
      await server.head();
      server.write(TOLD);
      const close = endsClients ? 'connection: close\r\n' : '';
      assert.equal(await peer.head(), `HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n${close}\r\n`);
      if (endsClients) assert.equal(await peer.gone(), 'FIN');
      else await peer.close();
      await server.close();
    }
    const [line] = log.lines;
    assert.equal(line?.message, 'the proxy of an endpoint answered in its place');
    assert.equal(line.fields['error'], 'refused');
  },
);

test('over HTTP/2: GOAWAY after the answer', { timeout: 20_000 }, async (t) => {
  const server = createHttp2Server((_request, response) => {
    response.writeHead(503, { 'l5d-proxy-connection': 'close', 'l5d-proxy-error': 'no', other: '1' });
    response.end('told');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const endpoint = new LoopbackEndpoint(
    (server.address() as AddressInfo).port,
    new RecordedMetrics(),
    false,
    true,
  );
  endpoint.endsClients = true;
  const proxy = await listenLoopback(createHttpServer(), fixedTarget([endpoint]), null, false, true);
  t.after(async () => {
    await proxy.close();
    server.close();
  });
  const session = connectHttp2(`http://127.0.0.1:${proxy.port}`);
  t.after(() => session.destroy());
  const goaway = once(session, 'goaway');
  const stream = session.request({ ':path': '/', ':authority': 'a' });
  const [headers] = (await once(stream, 'response')) as [Record<string, unknown>];
  assert.equal(headers[':status'], 503);
  assert.equal(headers['other'], '1');
  assert.ok(!('l5d-proxy-connection' in headers) && !('l5d-proxy-error' in headers));
  const body: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => body.push(chunk));
  await once(stream, 'end');
  assert.equal(Buffer.concat(body).toString(), 'told');
  assert.equal((await goaway)[0], 0);
  if (!session.closed) await once(session, 'close');
});

testBoth('an identity that a request requires is the endpoint’s, or the request goes nowhere', async (t) => {
  const { client, upstream, endpoint } = await proxyFixture(t);
  const asking = 'GET / HTTP/1.1\r\nHost: a\r\nL5d-Require-Id: cart.shop\r\nX: 1\r\n\r\n';
  for (const identity of ['', 'other.shop']) {
    endpoint.identity = identity;
    const peer = await client();
    peer.write(asking);
    assert.equal(
      await peer.rest(),
      'HTTP/1.1 502 Bad Gateway\r\nl5d-proxy-error: the endpoint has not the required identity\r\ncontent-length: 0\r\nconnection: close\r\n\r\n',
    );
  }
  assert.equal(endpoint.connections, 0);
  endpoint.identity = 'cart.shop';
  const peer = await client();
  peer.write(asking);
  const server = await upstream.accept();
  assert.equal(await server.head(), 'GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n');
});

testBoth(
  'another pod’s proxy is told to end its client where an answer of ours closes, nobody else is',
  async (t) => {
    for (const clientId of ['web.shop', '']) {
      const { client, upstream } = await proxyFixture(t, { gate: { judge: () => FAILURE_NONE, clientId } });
      const peer = await client();
      peer.write(GET);
      const server = await upstream.accept();
      await server.head();
      server.write('nonsense\r\n\r\n');
      const answer = await peer.head();
      assert.match(answer, /^HTTP\/1\.1 502 /);
      assert.equal(/\r\nl5d-proxy-connection: close\r\n/.test(answer), clientId !== '');
    }
  },
);

testBoth(
  'who a client is says its proxy alone: the field is taken off what an application sends',
  async (t) => {
    const { client, upstream } = await proxyFixture(t);
    const peer = await client();
    peer.write('GET / HTTP/1.1\r\nHost: a\r\nL5D-Client-Id: forged\r\n\r\n');
    const server = await upstream.accept();
    assert.equal(await server.head(), 'GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await peer.close();
    await server.close();
  },
);

test('a version that nobody knows: the request stays HTTP/2, without the field', {
  timeout: 20_000,
}, async (t) => {
  const seen: (string | string[] | undefined)[] = [];
  const server = createHttp2Server((request, response) => {
    seen.push(request.headers['l5d-orig-proto'], request.headers['l5d-client-id']);
    response.end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const endpoint = new LoopbackEndpoint(
    (server.address() as AddressInfo).port,
    new RecordedMetrics(),
    false,
    true,
  );
  const gate: RequestGate = { judge: () => FAILURE_NONE, clientId: 'web' };
  const proxy = await listenLoopback(createHttpServer(), fixedTarget([endpoint]), gate, false, true);
  t.after(async () => {
    await proxy.close();
    server.close();
  });
  const session = connectHttp2(`http://127.0.0.1:${proxy.port}`);
  t.after(() => session.destroy());
  const stream = session.request({ ':path': '/', ':authority': 'a', 'l5d-orig-proto': 'HTTP/3' });
  const [headers] = (await once(stream, 'response')) as [Record<string, unknown>];
  stream.resume();
  await once(stream, 'close');
  assert.equal(headers[':status'], 200);
  assert.deepEqual(seen, [undefined, 'web']);
});

test('HTTP/2 with another host than :authority: of a meshed client :authority holds, any other is refused', {
  timeout: 20_000,
}, async (t) => {
  const seen: (string | undefined)[][] = [];
  const server = createHttp2Server((request, response) => {
    seen.push([request.headers[':authority'], request.headers.host, request.headers['last'] as string]);
    response.end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const metrics = new RecordedMetrics();
  const ask = async (gate: RequestGate | null, fields: Record<string, string>): Promise<number> => {
    const endpoint = new LoopbackEndpoint((server.address() as AddressInfo).port, metrics, false, true);
    const proxy = await listenLoopback(createHttpServer(), fixedTarget([endpoint]), gate, false, true);
    const session = connectHttp2(`http://127.0.0.1:${proxy.port}`);
    const stream = session.request({ ':path': '/', ':authority': 'a', ...fields, last: '1' });
    stream.on('error', () => undefined).resume();
    await new Promise((resolve) => stream.on('close', resolve));
    session.destroy();
    await proxy.close();
    return stream.rstCode ?? -1;
  };
  const gateOf = (clientId: string): RequestGate => ({ judge: () => FAILURE_NONE, clientId });
  assert.equal(await ask(gateOf('web'), { host: 'b' }), 0);
  assert.equal(await ask(gateOf('web'), { host: 'A' }), 0);
  assert.deepEqual(seen.splice(0), [
    ['a', undefined, '1'],
    ['a', 'A', '1'],
  ]);
  // What is no host says nothing, whoever sends it.
  assert.equal(await ask(gateOf('web'), { host: 'b c' }), constants.NGHTTP2_PROTOCOL_ERROR);
  for (const gate of [null, gateOf('')])
    assert.equal(await ask(gate, { host: 'b' }), constants.NGHTTP2_PROTOCOL_ERROR);
  assert.deepEqual(seen, []);
});
