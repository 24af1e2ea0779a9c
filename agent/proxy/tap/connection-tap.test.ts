// SPDX-License-Identifier: Apache-2.0
// What listeners hear of exchanges, over real connections of both HTTP versions, and the traces that pass.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
  connect as connectHttp2,
  createServer as createHttp2Server,
  type OutgoingHttpHeaders,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { seededRandom, systemClock } from '#lib/core/clock.ts';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from '../exchange/loopback.ts';
import { RawServer, rawClient } from '../exchange/raw-peers.ts';
import { createHttpServer } from '../exchange/server.ts';
import type { RequestGate } from '../exchange/types.ts';
import { FAILURE_NONE, FAILURE_POLICY } from '../failure.ts';
import { ConnectionTap } from './connection-tap.ts';
import type { TapEvent } from './events.ts';
import { PodTaps } from './pod-taps.ts';

const timeout = { timeout: 20_000 };
const TRACE = '0af7651916cd43dd8448eb211c80319c';
const PARENT = 'b7ad6b7169203331';

interface Setting {
  readonly port: number;
  readonly http2?: boolean;
  readonly multiplexed?: boolean;
}

async function watched(t: TestContext, { port, http2 = false, multiplexed = false }: Setting) {
  const taps = new PodTaps();
  let ids = 0;
  const observer = new ConnectionTap({
    direction: 'inbound',
    taps,
    source: () => ({ ip: '10.1.0.7', port: 40_312, tls: 'mtls', identity: 'web.shop' }),
    target: { ip: '10.1.0.8', port: 80 },
    clock: systemClock,
    random: seededRandom(1),
    nextId: () => ++ids,
  });
  const gate: RequestGate = {
    judge: (_method, path) => (path === '/secret' ? FAILURE_POLICY : FAILURE_NONE),
    clientId: '',
  };
  const target = fixedTarget([new LoopbackEndpoint(port, new RecordedMetrics(), false, multiplexed)]);
  const proxy = await listenLoopback(createHttpServer(), target, gate, false, http2, { observer });
  t.after(() => proxy.close());
  const heard: TapEvent[] = [];
  return { proxy, taps, heard, hear: (event: TapEvent): void => void heard.push(event) };
}

/** The event without what differs from run to run; times are numbers. */
function known(event: TapEvent | undefined): Record<string, unknown> {
  const { wallMs, sinceRequestMs, sinceResponseMs, ...rest } = { ...event } as Record<string, unknown>;
  for (const time of [wallMs, sinceRequestMs, sinceResponseMs]) {
    if (time !== undefined) assert.ok(typeof time === 'number' && time >= 0);
  }
  return rest;
}

test('HTTP/1: a request, its response and its end, with fields for who wants them', timeout, async (t) => {
  const upstream = await RawServer.listen();
  t.after(() => upstream.close());
  const { proxy, taps, heard, hear } = await watched(t, upstream);
  const client = await rawClient(proxy.port);
  t.after(() => client.close());
  taps.add(1, { requestsMax: 10, headers: true }, hear);
  const plain: TapEvent[] = [];
  taps.add(2, { requestsMax: 1, headers: false }, (event) => plain.push(event));

  client.write('POST /cart?item=1 HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nabc');
  const server = await upstream.accept();
  await server.take('abc');
  server.write('HTTP/1.1 201 Created\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello');
  await client.take('hello');
  assert.deepEqual(heard.map(known), [
    {
      type: 'request',
      id: 1,
      direction: 'inbound',
      source: { ip: '10.1.0.7', port: 40_312, tls: 'mtls', identity: 'web.shop' },
      destination: { ip: '10.1.0.8', port: 80, tls: 'plain' },
      attempt: 1,
      version: 'HTTP/1.1',
      method: 'POST',
      authority: 'shop',
      path: '/cart?item=1',
      headers: [
        ['Host', 'shop'],
        ['Content-Length', '3'],
      ],
    },
    {
      type: 'response',
      id: 1,
      status: 201,
      headers: [
        ['X-A', '1'],
        ['Content-Length', '5'],
      ],
    },
    { type: 'end', id: 1, status: 201, responseBytes: 5 },
  ]);
  assert.deepEqual(
    plain.map(({ type }) => type),
    ['request', 'response', 'end'],
  );
  assert.ok(plain.every((event) => !('headers' in event)));

  client.write('GET /secret HTTP/1.1\r\nHost: shop\r\n\r\n');
  assert.match(await client.head(), / 403 /);
  assert.equal(heard.length, 3, 'what goes to no endpoint is not told');

  client.write('GET /next HTTP/1.1\r\nHost: shop\r\n\r\n');
  await server.head();
  server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  await client.take('ok');
  assert.equal(heard.length, 6);
  assert.equal(plain.length, 3, 'no more requests than asked for');

  taps.remove(1);
  taps.remove(2);
  client.write('GET /unheard HTTP/1.1\r\nHost: shop\r\n\r\n');
  await server.head();
  server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  await client.take('ok');
  assert.equal(heard.length, 6);
});

test(
  'an endpoint that is not there, and one that dies in mid-response: the end says what failed',
  timeout,
  async (t) => {
    const upstream = await RawServer.listen();
    const { proxy, taps, heard, hear } = await watched(t, upstream);
    taps.add(1, { requestsMax: 10, headers: false }, hear);
    const first = await rawClient(proxy.port);
    first.write('GET /half HTTP/1.1\r\nHost: shop\r\n\r\n');
    const server = await upstream.accept();
    await server.head();
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal');
    await first.take('hal');
    await server.close();
    assert.equal(await first.gone(), 'RST');
    const [, , half] = heard.map(known);
    assert.deepEqual(half, { type: 'end', id: 1, status: 200, responseBytes: 3, error: 'upstream_reset' });
    await upstream.close();
    const second = await rawClient(proxy.port);
    t.after(() => second.close());
    second.write('GET / HTTP/1.1\r\nHost: shop\r\n\r\n');
    assert.match(await second.head(), / 502 /);
    const [, , , begun, end] = heard.map(known);
    assert.equal(begun?.['type'], 'request');
    assert.deepEqual(end, { type: 'end', id: 2, status: 502, responseBytes: 0, error: 'connect_refused' });
  },
);

async function grpcServer(t: TestContext): Promise<{ readonly port: number; readonly traces: string[] }> {
  const server = createHttp2Server();
  const traces: string[] = [];
  const sessions = new Set<ServerHttp2Session>();
  server.on('session', (session) => sessions.add(session));
  server.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    traces.push(String(headers['traceparent'] ?? headers['x-b3-spanid'] ?? ''));
    if (headers[':path'] === '/reset') {
      stream.close(8);
      return;
    }
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '5', 'x-more': 'm' }));
    stream.end('12345678');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.close();
    for (const session of sessions) session.destroy();
  });
  return { port: (server.address() as AddressInfo).port, traces };
}

const ask = async (port: number, headers: OutgoingHttpHeaders): Promise<void> => {
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  const stream = session.request(headers);
  stream.on('error', () => undefined);
  stream.resume();
  await once(stream, 'close').catch(() => undefined);
  session.destroy();
};

test('HTTP/2: gRPC ends with its status and trailers, a reset with its code', timeout, async (t) => {
  const server = await grpcServer(t);
  const { proxy, taps, heard, hear } = await watched(t, { port: server.port, http2: true });
  taps.add(1, { requestsMax: 10, headers: true }, hear);
  const grpc = { ':method': 'POST', ':authority': 'api:80', 'content-type': 'application/grpc' };
  await ask(proxy.port, { ...grpc, ':path': '/api.Shop/Get' });
  const [request, response, end] = heard.splice(0).map(known);
  assert.equal(request?.['authority'], 'api:80');
  assert.equal(request?.['path'], '/api.Shop/Get');
  assert.equal(request?.['version'], 'HTTP/2.0');
  assert.match(JSON.stringify(request?.['headers']), /^\[\[":method","POST"\]/);
  assert.equal(response?.['status'], 200);
  assert.deepEqual(end, {
    type: 'end',
    id: 1,
    status: 200,
    responseBytes: 8,
    grpcStatus: 5,
    trailers: [
      ['grpc-status', '5'],
      ['x-more', 'm'],
    ],
  });
  await ask(proxy.port, { ...grpc, ':path': '/reset' });
  const last = known(heard.at(-1));
  assert.equal(last['type'], 'end');
  assert.equal(last['reset'], 8);
});

test(
  'a trace passes as it is, until a listener makes spans: then a new span stands for its parent',
  timeout,
  async (t) => {
    const upstream = await RawServer.listen();
    t.after(() => upstream.close());
    const { proxy, taps, heard, hear } = await watched(t, upstream);
    const client = await rawClient(proxy.port);
    t.after(() => client.close());
    const pass = async (fields: string): Promise<string> => {
      client.write(`GET / HTTP/1.1\r\nHost: shop\r\n${fields}\r\n`);
      const server = await serverEnd;
      const head = await server.head();
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      await client.take('ok');
      return head;
    };
    const serverEnd = upstream.accept();
    const w3c = `traceparent: 00-${TRACE}-${PARENT}-01\r\ntracestate: a=b\r\n`;
    const b3 = `X-B3-TraceId: ${TRACE}\r\nX-B3-SpanId: ${PARENT}\r\nX-B3-Sampled: 1\r\n`;
    taps.add(1, { requestsMax: 10, headers: false }, hear);
    assert.ok((await pass(w3c)).includes(w3c));
    const [seen] = heard.splice(0).map(known);
    assert.deepEqual(seen?.['trace'], { traceId: TRACE, parentId: PARENT, sampled: true });

    taps.install(2, { headers: false, traces: true, takes: () => true, heard: () => undefined });
    for (const [fields, written] of [
      [w3c, (span: string) => `traceparent: 00-${TRACE}-${span}-01\r\ntracestate: a=b\r\n`],
      [b3, (span: string) => `X-B3-TraceId: ${TRACE}\r\nX-B3-SpanId: ${span}\r\nX-B3-Sampled: 1\r\n`],
    ] as const) {
      const head = await pass(fields);
      const trace = known(heard.splice(0)[0])['trace'] as Record<string, string>;
      assert.match(trace['spanId'] ?? '', /^[0-9a-f]{16}$/);
      assert.notEqual(trace['spanId'], PARENT);
      assert.ok(head.includes(written(trace['spanId'] ?? '')), head);
    }
    const untraced = await pass('X-Other: 1\r\n');
    assert.doesNotMatch(untraced, /traceparent|b3/i, 'no trace is begun');
  },
);

test('a trace over HTTP/2 is written too', timeout, async (t) => {
  const server = await grpcServer(t);
  const { proxy, taps, heard, hear } = await watched(t, { port: server.port, http2: true });
  taps.install(1, { headers: false, traces: true, takes: () => true, heard: hear });
  const base = { ':method': 'POST', ':path': '/', 'content-type': 'application/grpc' };
  await ask(proxy.port, { ...base, traceparent: `00-${TRACE}-${PARENT}-00` });
  const { spanId } = known(heard[0])['trace'] as Record<string, string>;
  assert.deepEqual(server.traces, [`00-${TRACE}-${spanId}-00`]);
  await ask(proxy.port, { ...base, 'x-b3-traceid': TRACE, 'x-b3-spanid': PARENT });
  assert.notEqual(server.traces[1], PARENT);
  assert.match(server.traces[1] ?? '', /^[0-9a-f]{16}$/);
});
