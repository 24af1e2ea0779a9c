// SPDX-License-Identifier: Apache-2.0
// Which requests get a line, and what it says, over real connections of both HTTP versions.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2';
import { type TestContext, test } from 'node:test';
import { systemClock } from '#lib/core/clock.ts';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from '../exchange/loopback.ts';
import { RawServer, rawClient } from '../exchange/raw-peers.ts';
import { createHttpServer } from '../exchange/server.ts';
import type { RequestGate } from '../exchange/types.ts';
import { FAILURE_NONE, FAILURE_POLICY } from '../failure.ts';
import { ConnectionLog } from './connection-log.ts';
import { AccessLog } from './lines.ts';
import type { AccessLogFormat } from './request-line.ts';

const timeout = { timeout: 20_000 };
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const TIMESTAMP = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`;

async function logged(t: TestContext, http2: boolean, clientId: string) {
  const upstream = await RawServer.listen();
  const lines: string[] = [];
  let format: AccessLogFormat | '' = 'apache';
  const accessLog = new AccessLog({
    send: (pieces) => {
      lines.push(...pieces.join('').split('\n').slice(0, -1));
      accessLog.written();
    },
    clock: systemClock,
  });
  const log = new ConnectionLog({
    log: accessLog,
    pod: { namespace: 'shop', name: 'web-1' },
    format: () => format,
    client: { ip: '10.1.0.7', port: 40_312 },
    clientId,
    dropped: () => assert.fail('there is room'),
  });
  const gate: RequestGate = {
    judge: (_method, path) => (path === '/secret' ? FAILURE_POLICY : FAILURE_NONE),
    clientId,
  };
  const target = fixedTarget([new LoopbackEndpoint(upstream.port, new RecordedMetrics())]);
  const proxy = await listenLoopback(createHttpServer(), target, gate, false, http2, { log });
  t.after(async () => {
    await proxy.close();
    await upstream.close();
  });
  return {
    upstream,
    proxy,
    wants: (next: AccessLogFormat | '') => {
      format = next;
    },
    lines: (): string[] => {
      accessLog.flush();
      return lines.splice(0);
    },
  };
}

test('HTTP/1: Apache, JSON and none, as the pod says at that moment', timeout, async (t) => {
  const { upstream, proxy, wants, lines } = await logged(t, false, '');
  const client = await rawClient(proxy.port);
  t.after(() => client.close());

  client.write('GET /cart?item="1" HTTP/1.1\r\nHost: shop\r\n\r\n');
  const server = await upstream.accept();
  await server.head();
  assert.deepEqual(lines(), [], 'nothing before there is an answer');
  server.write(OK);
  await client.take('ok');
  const [apache = '', ...others] = lines();
  assert.match(
    apache,
    new RegExp(
      String.raw`^shop/web-1 10\.1\.0\.7:40312 - - \[${TIMESTAMP}\] "GET /cart\?item=\\x221\\x22 HTTP/1\.1" 200$`,
    ),
  );
  assert.deepEqual(others, []);

  wants('json');
  client.write(
    'POST / HTTP/1.1\r\nHost: shop\r\nX-Request-Id: r7\r\nUser-Agent: "curl"\r\nContent-Length: 3\r\n\r\nabc',
  );
  await server.take('abc');
  server.write(OK);
  await client.take('ok');
  const [json = '{}'] = lines();
  const { timestamp, total_ns, processing_ns, ...rest } = JSON.parse(json) as Record<string, string>;
  assert.deepEqual(rest, {
    component: 'access',
    namespace: 'shop',
    pod: 'web-1',
    'client.addr': '10.1.0.7:40312',
    'client.id': '-',
    method: 'POST',
    uri: '/',
    version: 'HTTP/1.1',
    trace_id: 'r7',
    request_bytes: '3',
    status: 200,
    response_bytes: '2',
    user_agent: '"curl"',
    host: 'shop',
  });
  assert.match(timestamp ?? '', new RegExp(`^${TIMESTAMP}$`));
  assert.ok(Number(processing_ns) > 0 && Number(processing_ns) < Number(total_ns), json);

  wants('');
  client.write('GET / HTTP/1.1\r\nHost: shop\r\n\r\n');
  await server.head();
  server.write(OK);
  await client.take('ok');
  assert.deepEqual(lines(), []);
});

test(
  'what the proxy answers itself is logged with its status, a request that is none is not',
  timeout,
  async (t) => {
    const { proxy, lines } = await logged(t, false, 'web');
    const client = await rawClient(proxy.port);
    t.after(() => client.close());
    client.write('GET /secret HTTP/1.1\r\nHost: shop\r\n\r\n');
    await client.head();
    const [line = ''] = lines();
    assert.match(line, / web - \[.*\] "GET \/secret HTTP\/1\.1" 403$/);
    client.write('CONNECT / HTTP/1.1\r\nHost: shop\r\n\r\n');
    assert.match(await client.head(), /^HTTP\/1.1 400 /);
    assert.deepEqual(lines(), []);
  },
);

test(
  'HTTP/2: the whole address, and HTTP/1.1 that travelled over it is what it was on the wire',
  timeout,
  async (t) => {
    const { upstream, proxy, wants, lines } = await logged(t, true, 'web.shop');
    const session = connectHttp2(`http://127.0.0.1:${proxy.port}`);
    t.after(() => session.destroy());
    const ask = async (headers: IncomingHttpHeaders): Promise<void> => {
      const stream = session.request(headers);
      stream.resume();
      await once(stream, 'close');
    };
    const travelled = ask({ ':authority': 'cart:80', ':path': '/a', 'l5d-orig-proto': 'HTTP/1.1' });
    const server = await upstream.accept();
    await server.head();
    server.write(OK);
    await travelled;
    assert.match(lines()[0] ?? '', / web\.shop - \[.*\] "GET http:\/\/cart:80\/a HTTP\/2\.0" 200$/);
    wants('json');
    await ask({ ':authority': 'cart:80', ':path': '/secret', 'content-type': 'application/grpc' });
    const refused = JSON.parse(lines()[0] ?? '{}') as Record<string, unknown>;
    assert.equal(refused['status'], 200, 'gRPC tells errors in an answer that is well');
    assert.equal(refused['host'], 'cart:80');
    assert.equal(refused['client.id'], 'web.shop');
  },
);
