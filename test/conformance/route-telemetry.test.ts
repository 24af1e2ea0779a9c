// SPDX-License-Identifier: Apache-2.0
// What is counted by route, backend and balancer, for what has the default routes; and what else a client's agent counts
// of its requests and connections as such.

import { strict as assert } from 'node:assert';
import type { ClientHttp2Session, ServerHttp2Stream } from 'node:http2';
import { after, before, beforeEach, describe } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { RawPeer } from '../../agent/proxy/exchange/raw-peers.ts';
import { endpoint } from '../proxy/harness.ts';
import { answerOf, type Http2Application, http2At, serveHttp2 } from '../proxy/http2-peers.ts';
import { HTTP2_PORT, PEER, SERVER } from '../proxy/scene.ts';
import { type Labels, parseMetrics, type Series, sumOf } from './metrics.ts';
import { APP_PORT, createStage, meshedEndpoint, OPAQUE_PORT, type Stage, test } from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const ROUTE = { route_group: '', route_kind: 'default', route_namespace: '', route_name: 'http' };
const GRPC = {
  ':method': 'POST',
  ':path': '/pkg.Service/Call',
  'content-type': 'application/grpc',
  te: 'trailers',
};

const named = (scope: 'parent' | 'backend', name: string): Labels => ({
  [`${scope}_group`]: 'core',
  [`${scope}_kind`]: 'Service',
  [`${scope}_namespace`]: 'shop',
  [`${scope}_name`]: name,
  [`${scope}_port`]: '80',
  [`${scope}_section_name`]: '',
});

describe('telemetry of routes', () => {
  let stage: Stage;
  let application: Http2Application;
  let onStream: (stream: ServerHttp2Stream) => void;
  let services = 0;
  before(async () => {
    stage = await createStage();
    application = await serveHttp2(stage.scene.serverNs, SERVER, HTTP2_PORT, (stream) => onStream(stream));
  });
  beforeEach(() => stage.fresh());
  after(async () => {
    application.close();
    await stage.close();
  });

  const read = async (side: 'client' | 'server' = 'client'): Promise<readonly Series[]> =>
    parseMetrics(await stage.scene[side].metrics());
  const settles = async (
    family: string,
    labels: Labels,
    wanted: number | ((sum: number) => boolean),
    side: 'client' | 'server' = 'client',
  ): Promise<void> => {
    const deadline = performance.now() + 40_000;
    for (;;) {
      const sum = sumOf(await read(side), family, labels);
      if (typeof wanted === 'number' ? sum === wanted : wanted(sum)) return;
      assert.ok(performance.now() < deadline, `${family}${JSON.stringify(labels)} is ${sum}`);
      await pause(20);
    }
  };
  /** Leads `other` to a service of its own; its labels as parent. */
  const lead = (to = endpoint(PEER, APP_PORT)): { name: string; parent: Labels; backend: Labels } => {
    const name = `route-${services++}`;
    stage.lead('other', stage.service(name, [to]));
    return { name, parent: named('parent', name), backend: named('backend', name) };
  };
  const http2 = (): ClientHttp2Session => {
    const { host, port } = stage.address('other');
    return http2At(host, port);
  };

  test('C-247 requests by route: how they ended, how long they took, what was sent', async () => {
    const { parent } = lead();
    const route = { ...parent, ...ROUTE, hostname: '' };
    const client = await stage.dial('other');
    let server: RawPeer | undefined;
    for (const status of [200, 404, 503]) {
      client.write(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n${'x'.repeat(2000)}`);
      server ??= await stage.peer.accept();
      await server.take('x'.repeat(2000));
      server.write(`HTTP/1.1 ${status} Word\r\nContent-Length: 2\r\n\r\nok`);
      await client.take('ok');
    }
    const name = 'outbound_http_route_request';
    for (const status of ['200', '404', '503']) {
      await settles(`${name}_statuses_total`, { ...route, http_status: status, error: '' }, 1);
    }
    await settles(`${name}_duration_seconds_count`, route, 3);
    await settles(`${name}_duration_seconds_bucket`, { ...route, le: '10' }, 3);
    await settles(`${name}_frame_size_bytes_sum`, route, 6000);
    await settles(`${name}_frame_size_bytes_bucket`, { ...route, le: '10240' }, (sum) => sum >= 3);
    const host = (await read()).filter(
      ({ name: one, labels }) => one.startsWith(name) && labels['hostname'] !== '',
    );
    assert.deepEqual(host, [], 'what clients call a host is no label');
  });
  test('C-247 a client that leaves in the middle of the answer ends the request; one that leaves before is not counted', async () => {
    const { parent } = lead();
    const route = { ...parent, ...ROUTE };
    const gone = await stage.dial('other');
    gone.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await (await stage.peer.accept()).head();
    await gone.close();
    const leaving = await stage.dial('other');
    leaving.write('GET / HTTP/1.1\r\nHost: b\r\n\r\n');
    const server = await stage.peer.accept();
    await server.head();
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart');
    await leaving.take('part');
    await leaving.close();
    const name = 'outbound_http_route_request';
    await settles(`${name}_statuses_total`, { ...route, http_status: '200', error: 'UNKNOWN' }, 1);
    await settles(`${name}_duration_seconds_count`, route, 1);
    await settles(`${name}_statuses_total`, route, 1);
  });

  test('C-246 attempts by route and backend: how many, how they ended, what came back', async () => {
    const { parent, backend } = lead();
    const labels = { ...parent, ...ROUTE, ...backend };
    const client = await stage.dial('other');
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    const server = await stage.peer.accept();
    await server.head();
    server.write(`HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n${'y'.repeat(20_000)}`);
    await client.take('y'.repeat(20_000));
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await server.head();
    server.write('HTTP/1.1 500 Word\r\nContent-Length: 0\r\n\r\n');
    await client.head();
    const name = 'outbound_http_route_backend';
    await settles(`${name}_requests_total`, labels, 2);
    for (const status of ['200', '500']) {
      await settles(`${name}_response_statuses_total`, { ...labels, http_status: status, error: '' }, 1);
    }
    await settles(`${name}_response_duration_seconds_count`, labels, 2);
    await settles(`${name}_response_frame_size_bytes_sum`, labels, 20_000);
  });

  test('C-246 and C-247 gRPC on a default route is HTTP; resets and what took too long have their names', async () => {
    const { name, parent, backend } = lead(meshedEndpoint(HTTP2_PORT));
    const session = http2();
    try {
      onStream = (stream) => {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '5' }));
        stream.end('message');
      };
      await answerOf(session.request(GRPC, { endStream: true }));
      onStream = (stream) => stream.close(11);
      await answerOf(session.request(GRPC, { endStream: true }));
      onStream = () => undefined;
      const limited = stage.service(name, [meshedEndpoint(HTTP2_PORT)]);
      assert.ok(limited.kind === 'service');
      stage.lead('other', { ...limited, timeouts: { requestMs: 300 } });
      const late = await answerOf(session.request(GRPC, { endStream: true }));
      assert.equal(late.headers['grpc-status'], '4');
    } finally {
      session.destroy();
    }
    for (const [family, labels] of [
      ['outbound_http_route_request_statuses_total', { ...parent, ...ROUTE }],
      ['outbound_http_route_backend_response_statuses_total', { ...parent, ...ROUTE, ...backend }],
    ] as const) {
      await settles(family, { ...labels, http_status: '200', error: '' }, 1);
      await settles(family, { ...labels, http_status: '', error: 'ENHANCE_YOUR_CALM' }, 1);
      await settles(family, { ...labels, http_status: '', error: 'REQUEST_TIMEOUT' }, 1);
    }
    await settles('outbound_http_errors_total', { error: 'response timeout' }, 1);
  });

  test('inbound by server and route', async () => {
    const labels = {
      parent_kind: 'default',
      parent_port: String(APP_PORT),
      route_group: '',
      route_kind: 'default',
      route_name: 'default',
    };
    const before = sumOf(await read('server'), 'inbound_http_requests_total', labels);
    const { client, server } = await stage.exchange(
      'both',
      'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 3\r\n\r\nabc',
    );
    await server.take('abc');
    server.write('HTTP/1.1 418 Word\r\nContent-Length: 2\r\n\r\nok');
    await client.take('ok');
    await settles('inbound_http_requests_total', labels, before + 1, 'server');
    await settles('inbound_http_statuses_total', { ...labels, status: '418' }, 1, 'server');
    for (const family of ['request_duration', 'response_duration'] as const) {
      await settles(`inbound_http_${family}_seconds_count`, labels, before + 1, 'server');
    }
    await settles('inbound_http_request_frame_size_bytes_sum', labels, (sum) => sum >= 3, 'server');
    await settles('inbound_http_response_frame_size_bytes_sum', labels, (sum) => sum >= 2, 'server');
  });

  test('a balancer: its endpoints and their changes, who waits for them, and for how long in vain', async () => {
    const { name, parent, backend } = lead();
    const labels = { ...parent, ...backend };
    const prefix = 'outbound_http_balancer';
    const client = await stage.dial('other');
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    const server = await stage.peer.accept();
    await server.head();
    server.write(OK);
    await client.take('ok');
    await settles(`${prefix}_p2c_endpoints`, labels, 1);
    await settles(`${prefix}_queue_requests_total`, labels, 1);
    await settles(`${prefix}_queue_latency_seconds_count`, labels, 1);
    await settles(`${prefix}_queue_gate_timeout_seconds`, labels, 0.3);
    stage.lead('other', stage.service(name, []));
    await settles(`${prefix}_p2c_updates_total`, { ...labels, op: 'Remove' }, 1);
    await settles(`${prefix}_endpoints`, { ...labels, state: 'ready' }, 0);
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await settles(`${prefix}_queue_length`, labels, 1);
    assert.match(await client.head(), /^HTTP\/1\.1 504 /);
    await settles(`${prefix}_queue_length`, labels, 0);
    await settles(`${prefix}_queue_gate_shut_total`, labels, 1);
    await settles(`${prefix}_queue_latency_seconds_sum`, labels, (sum) => sum >= 0.25 && sum < 5);
    await settles(
      'outbound_http_route_request_statuses_total',
      { ...parent, http_status: '', error: 'FAIL_FAST' },
      1,
    );
    stage.lead('other', stage.service(name, [endpoint(PEER, APP_PORT)]));
    await settles(`${prefix}_queue_gate_open_total`, labels, 1);
    await settles(`${prefix}_p2c_updates_total`, { ...labels, op: 'Add' }, 1);
    await settles(`${prefix}_queue_gate_open_time_seconds`, labels, (time) => time > 1_000_000);
  });

  test('opaque connections by route, their balancer, and where their bytes went', async () => {
    const zone = { labels: { zone_locality: 'remote' } };
    stage.lead('outOpaque', stage.service('zoned', [endpoint(PEER, OPAQUE_PORT, zone)], true));
    const parent = named('parent', 'zoned');
    const route = { ...parent, ...ROUTE, route_name: 'opaq', target_ip: '', target_port: '80' };
    const client = await stage.dial('outOpaque');
    client.write('12345');
    const server = await stage.opaquePeer.accept();
    await server.take('12345');
    server.write('1234567');
    await client.take('1234567');
    await settles('outbound_tcp_route_open_total', route, 1);
    await settles('outbound_tcp_route_close_total', route, 0);
    await settles('outbound_tcp_balancer_p2c_endpoints', parent, 1);
    await settles(
      'outbound_tcp_balancer_queue_requests_total',
      { ...parent, logical: 'zoned.shop.svc.cluster.local:80' },
      1,
    );
    await server.close();
    await client.gone();
    await settles('outbound_tcp_route_close_total', { ...route, error: '' }, 1);
    await settles('outbound_tcp_transfer_cost_bytes_total', { op: 'Send', zone_locality: 'Remote' }, 5);
    await settles('outbound_tcp_transfer_cost_bytes_total', { op: 'Recv', zone_locality: 'Remote' }, 7);

    stage.lead('outOpaque', stage.service('nowhere', [], true));
    const failing = await stage.dial('outOpaque');
    failing.write('x');
    assert.equal(await failing.gone(), 'RST');
    const lost = { ...named('parent', 'nowhere'), route_name: 'opaq', error: 'unexpected' };
    await settles('outbound_tcp_route_close_total', lost, 1);
    await settles('outbound_tcp_errors_total', { error: 'failfast' }, 1);
  });

  test('errors of requests are counted once, and what clients do wrong is none', async () => {
    const http = async (error: string): Promise<number> =>
      sumOf(await read(), 'outbound_http_errors_total', { error });
    const before = { io: await http('i/o'), all: sumOf(await read(), 'outbound_http_errors_total', {}) };
    lead(endpoint(PEER, 1));
    const refused = await stage.dial('other');
    refused.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    assert.match(await refused.rest(), /^HTTP\/1\.1 502 /);
    await settles('outbound_http_errors_total', { error: 'i/o' }, before.io + 1);
    const wrong = await stage.dial('other');
    wrong.write('GET nonsense HTTP/1.1\r\n\r\n');
    assert.match(await wrong.rest(), /^HTTP\/1\.1 400 /);
    await settles('outbound_http_errors_total', {}, before.all + 1);
  });
});
