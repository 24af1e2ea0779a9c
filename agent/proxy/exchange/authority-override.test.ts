// SPDX-License-Identifier: Apache-2.0
// An endpoint that wants another authority: what it gets of requests in every version.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type IncomingHttpHeaders } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { authorityOverride, overriddenText } from './authority-override.ts';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from './loopback.ts';
import { proxyFixture, testBoth } from './proxy-fixture.ts';
import { rawClient } from './raw-peers.ts';
import { createHttpServer } from './server.ts';

const timeout = { timeout: 20_000 };
const FAR = `web.${'far.'.repeat(40)}svc.cluster.local:8080`;
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

/** A proxy before an endpoint that speaks HTTP/2, and the requests that come there. */
async function before(t: TestContext, clientsSpeakHttp2: boolean, override: string | null = FAR) {
  const seen: IncomingHttpHeaders[] = [];
  const server = createServer((request, response) => {
    seen.push(request.headers);
    request.resume();
    response.setHeader('content-length', 0);
    response.end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const endpoint = new LoopbackEndpoint(port, new RecordedMetrics(), false, true);
  endpoint.authorityOverride = override === null ? null : authorityOverride(override);
  const proxy = await listenLoopback(
    createHttpServer(),
    fixedTarget([endpoint]),
    null,
    false,
    clientsSpeakHttp2,
  );
  t.after(async () => {
    await proxy.close();
    server.close();
  });
  return { seen, port: proxy.port };
}

const told = ({
  ':authority': authority,
  host,
  'l5d-dst-canonical': canonical,
  other,
  'l5d-orig-proto': origin,
}: IncomingHttpHeaders) => ({
  authority,
  host,
  canonical,
  other,
  origin,
});

test('HTTP/1.1 over HTTP/2, the second time from what was learned of the lines', timeout, async (t) => {
  const { seen, port } = await before(t, false);
  const client = await rawClient(port);
  for (const request of [
    'GET / HTTP/1.1\r\nHost: near\r\nL5d-Dst-Canonical: x:80\r\nother: 1\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: near\r\nL5d-Dst-Canonical: x:80\r\nother: 1\r\n\r\n',
    'POST http://near/x HTTP/1.1\r\nHost: near\r\nother: 1\r\nContent-Length: 2\r\n\r\nok',
  ]) {
    client.write(request);
    assert.match(await client.head(), /^HTTP\/1\.1 200/);
  }
  await client.close();
  const expected = { authority: FAR, host: undefined, canonical: undefined, other: '1', origin: 'HTTP/1.1' };
  assert.deepEqual(seen.map(told), [expected, expected, { ...expected, origin: 'HTTP/1.1; absolute-form' }]);
});

test('without an override: what the request names, or what it was sent to', timeout, async (t) => {
  const { seen, port } = await before(t, false, null);
  for (const request of [
    'GET / HTTP/1.1\r\nHost: near\r\n\r\n',
    'GET / HTTP/1.1\r\n\r\n',
    'POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nok',
  ]) {
    const client = await rawClient(port);
    client.write(request);
    assert.match(await client.head(), /^HTTP\/1\.. 200/);
    await client.close();
  }
  assert.deepEqual(
    seen.map(told).map(({ authority, host, origin }) => [authority, host, origin]),
    [
      ['near', 'near', 'HTTP/1.1'],
      ['test:80', undefined, 'HTTP/1.1'],
      ['test:80', undefined, 'HTTP/1.0'],
    ],
  );
});

test('HTTP/2', timeout, async (t) => {
  const { seen, port } = await before(t, true);
  const session = connect(`http://127.0.0.1:${port}`);
  t.after(() => session.destroy());
  const stream = session.request({
    ':authority': 'near',
    host: 'near',
    'l5d-dst-canonical': 'x:80',
    other: '1',
  });
  const [headers] = (await once(stream, 'response')) as [IncomingHttpHeaders];
  assert.equal(headers[':status'], 200);
  stream.resume();
  await once(stream, 'close');
  assert.deepEqual(seen.map(told), [
    { authority: FAR, host: undefined, canonical: undefined, other: '1', origin: undefined },
  ]);
});

testBoth('HTTP/1 as it is, for what cannot travel otherwise', async (t) => {
  const { endpoint, exchange } = await proxyFixture(t);
  endpoint.authorityOverride = authorityOverride(FAR);
  for (const [request, line] of [
    [
      'GET /chat HTTP/1.1\r\nOther: host: 1\r\nHost: near\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n',
      'GET /chat HTTP/1.1',
    ],
    ['GET / HTTP/1.0\r\nOther: host: 1\r\n\r\n', 'GET / HTTP/1.0'],
    [
      'GET http://near:1/x?y HTTP/1.1\r\nHost: near:1\r\nOther: host: 1\r\n\r\n',
      `GET http://${FAR}/x?y HTTP/1.1`,
    ],
  ] as const) {
    const { client, server, head } = await exchange(request);
    const [first, ...fields] = head.trimEnd().split('\r\n');
    assert.equal(first, line);
    assert.deepEqual(
      fields.filter((field) => /^host:/i.test(field)),
      [`host: ${FAR}`],
    );
    assert.ok(fields.includes('Other: host: 1'), head);
    server.write(OK);
    assert.match(await client.head(), /^HTTP\/1\.[01] 200/);
    await client.close();
    await server.close();
  }
});

test('a body that begins with the head stays what it is, and a tunnel leads elsewhere', () => {
  assert.equal(
    overriddenText('POST / HTTP/1.1\r\nhost: near\r\n\r\nhost: a\r\n\r\nhost: b', 'far:1'),
    'POST / HTTP/1.1\r\nhost: far:1\r\n\r\nhost: a\r\n\r\nhost: b',
  );
  assert.equal(
    overriddenText('CONNECT near:80 HTTP/1.1\r\nHost: near:80\r\n\r\n', 'far:1'),
    'CONNECT far:1 HTTP/1.1\r\nhost: far:1\r\n\r\n',
  );
});
