// SPDX-License-Identifier: Apache-2.0
// The metrics of Linkerd's proxy, as a scraper sees them: what is counted, when, under which labels.

import { strict as assert } from 'node:assert';
import { after, before, beforeEach, describe } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { RawPeer } from '../../agent/proxy/exchange/raw-peers.ts';
import { endpoint, identityOf, pause } from '../proxy/harness.ts';
import { dialAt, PEER, SERVER } from '../proxy/scene.ts';
import { type Labels, parseMetrics, type Series, sumOf } from './metrics.ts';
import { openMetricsFaults } from './open-metrics.ts';
import { APP_PORT, createStage, OPAQUE_PORT, type Stage, test, type Way } from './stage.ts';

const PORT = String(APP_PORT);
const OPAQUE = String(OPAQUE_PORT);

describe('telemetry', () => {
  let stage: Stage;
  before(async () => {
    stage = await createStage();
  });
  beforeEach(() => stage.fresh());
  after(async () => stage.close());

  const read = async (side: 'client' | 'server'): Promise<readonly Series[]> =>
    parseMetrics(await stage.scene[side].metrics());
  /** Until the sum over the series with these labels is `wanted`; connections end and bytes are counted a while later. */
  const settles = async (
    side: 'client' | 'server',
    family: string,
    labels: Labels,
    wanted: number | ((sum: number) => boolean),
  ): Promise<void> => {
    const deadline = performance.now() + 40_000;
    for (;;) {
      const sum = sumOf(await read(side), family, labels);
      if (typeof wanted === 'number' ? sum === wanted : wanted(sum)) return;
      assert.ok(
        performance.now() < deadline,
        `${family}${JSON.stringify(labels)} is ${sum}, not ${String(wanted)}`,
      );
      await pause(20);
    }
  };
  const now = async (side: 'client' | 'server', family: string, labels: Labels): Promise<number> =>
    sumOf(await read(side), family, labels);
  const ask = async (way: Way, answer = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'): Promise<void> => {
    const { client, server } = await stage.exchange(way, 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
    server.write(answer);
    await client.take('\r\n\r\n');
    await client.close();
  };
  const scrape = async (fields = ''): Promise<RawPeer> => {
    const client = new RawPeer(await dialAt(SERVER, 4191));
    client.write(`GET /metrics HTTP/1.1\r\nHost: pod\r\n${fields}\r\n`);
    return client;
  };
  const inbound = { direction: 'inbound', target_port: PORT };
  const outbound = { direction: 'outbound', authority: 'out.shop.svc.cluster.local:80' };

  test('C-120 requests to the admin port are counted', async () => {
    const admin = { direction: 'inbound', target_port: '4191' };
    const before = await now('server', 'request_total', admin);
    await (await scrape()).rest();
    await settles('server', 'request_total', admin, before + 1);
    await settles(
      'server',
      'response_total',
      { ...admin, status_code: '200', classification: 'success' },
      before + 1,
    );
  });
  test('C-121 connections to the admin port are counted', async () => {
    const admin = { direction: 'inbound', peer: 'src', target_port: '4191' };
    const before = await now('server', 'tcp_open_total', admin);
    await (await scrape()).rest();
    await settles('server', 'tcp_open_total', admin, before + 1);
    await settles('server', 'tcp_open_connections', admin, 0);
    assert.equal(
      (await read('server')).some(({ labels }) => labels['target_port'] === '4191' && 'authority' in labels),
      false,
    );
  });

  for (const [request, response, way, side, labels] of [
    ['C-122', 'C-124', 'in', 'server', inbound],
    ['C-123', 'C-125', 'out', 'client', outbound],
  ] as const) {
    test(`${request} and ${response} one request is counted once, its response once with its status (${way})`, async () => {
      const requests = await now(side, 'request_total', labels);
      const responses = await now(side, 'response_total', { ...labels, status_code: '200' });
      await ask(way);
      await settles(side, 'request_total', labels, requests + 1);
      await settles(side, 'response_total', { ...labels, status_code: '200' }, responses + 1);
    });
  }
  for (const [id, way, side, labels] of [
    ['C-126', 'in', 'server', inbound],
    ['C-127', 'out', 'client', outbound],
  ] as const) {
    test(`${id} 5xx are failures, everything else is success (${way})`, async () => {
      for (const [status, classification] of [
        [200, 'success'],
        [304, 'success'],
        [400, 'success'],
        [418, 'success'],
        [500, 'failure'],
        [504, 'failure'],
      ] as const) {
        const own = { ...labels, status_code: String(status), classification };
        const before = await now(side, 'response_total', own);
        await ask(way, `HTTP/1.1 ${status} Word\r\n${status === 304 ? '' : 'Content-Length: 0\r\n'}\r\n`);
        await settles(side, 'response_total', own, before + 1);
      }
    });
  }
  for (const [id, way, side, labels] of [
    ['C-128', 'in', 'server', inbound],
    ['C-129', 'out', 'client', outbound],
  ] as const) {
    test(`${id} the latency of a response falls into its bucket (${way})`, async () => {
      const ok = { ...labels, status_code: '200' };
      const count = await now(side, 'response_latency_ms_count', ok);
      const below = await now(side, 'response_latency_ms_bucket', { ...ok, le: '100' });
      const sum = await now(side, 'response_latency_ms_sum', ok);
      const { client, server } = await stage.exchange(way, 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
      await pause(120);
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      await client.take('ok');
      await settles(side, 'response_latency_ms_count', ok, count + 1);
      await settles(side, 'response_latency_ms_bucket', { ...ok, le: '+Inf' }, count + 1);
      assert.equal(
        await now(side, 'response_latency_ms_bucket', { ...ok, le: '100' }),
        below,
        'not below 100 ms',
      );
      assert.ok((await now(side, 'response_latency_ms_sum', ok)) - sum >= 119);
      const bounds = [1, 10, 100, 1000, 10_000].flatMap((decade) =>
        [1, 2, 3, 4, 5].map((step) => decade * step),
      );
      const seen = (await read(side)).filter(
        (series) => series.name === 'response_latency_ms_bucket' && series.labels['status_code'] === '200',
      );
      assert.deepEqual(
        [...new Set(seen.map(({ labels: own }) => own['le']))],
        [...bounds.map(String), '+Inf'],
      );
    });
  }

  test('C-130, C-131 and C-132 labels of endpoints and of their service are labels of the series, as dst_…', async () => {
    // What a service says of all its endpoints is merged into each of them where answers of discovery are read.
    const labels = { service: 'other', deployment: 'other', zone: 'a-1', 'odd-name': 'x' };
    stage.lead('other', stage.service('labels', [endpoint(PEER, APP_PORT, { labels })]));
    const client = await stage.dial('other');
    client.write('GET / HTTP/1.1\r\nHost: labels\r\n\r\n');
    const server = await stage.peer.accept();
    await server.head();
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    await client.take('ok');
    const wanted = { dst_service: 'other', dst_deployment: 'other', dst_zone: 'a-1', dst_odd_name: 'x' };
    await settles('client', 'request_total', wanted, 1);
    await settles('client', 'tcp_open_total', { ...wanted, peer: 'dst' }, 1);
    const text = await stage.scene.client.metrics();
    assert.match(
      text,
      /dst_deployment="other",dst_odd_name="x",dst_service="other",dst_zone="a-1"/,
      'in order',
    );
  });
  test('C-133 and C-134 labels that change make new series', async () => {
    for (const [version, count] of [
      ['1', 1],
      ['2', 2],
    ] as const) {
      stage.lead('other', stage.service('changing', [endpoint(PEER, APP_PORT, { labels: { version } })]));
      for (let request = 0; request < count; request++) {
        const client = await stage.dial('other');
        client.write(`GET / HTTP/1.1\r\nHost: changing-${version}-${request}\r\n\r\n`);
        const server = await stage.peer.accept();
        await server.head();
        server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
        await client.take('ok');
      }
      await settles('client', 'request_total', { dst_version: version }, count);
    }
    await settles('client', 'request_total', { dst_version: '1' }, 1);
  });
  test('C-135 no two commas follow each other, and none stands at an end', async () => {
    for (const side of ['client', 'server'] as const) {
      const text = await stage.scene[side].metrics();
      assert.doesNotMatch(text, /,,|\{,|,\}/);
      assert.ok((await read(side)).length > 100);
    }
  });
  test('C-136 the start time is there', async () => {
    assert.ok((await now('server', 'process_start_time_seconds', {})) > 1_600_000_000);
  });

  for (const [ids, way, side, src, dst] of [
    [
      'C-137, C-138, C-151',
      'in',
      'server',
      { direction: 'inbound', peer: 'src', target_port: PORT },
      { direction: 'inbound', peer: 'dst', tls: 'no_identity', no_tls_reason: 'loopback' },
    ],
    [
      'C-139, C-140, C-152',
      'out',
      'client',
      { direction: 'outbound', peer: 'src', target_ip: '10.96.1.1' },
      { direction: 'outbound', peer: 'dst', authority: 'out.shop.svc.cluster.local:80' },
    ],
  ] as const) {
    test(`${ids} HTTP: opened, open, closed; a second request counts none (${way})`, async () => {
      const opened = [
        await now(side, 'tcp_open_total', src),
        await now(side, 'tcp_open_total', dst),
      ] as const;
      const closed = await now(side, 'tcp_close_total', { ...src, errno: '' });
      const { client, server, host } = await stage.exchange(way, 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      await client.take('ok');
      client.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
      await server.head();
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      await client.take('ok');
      await settles(side, 'tcp_open_total', src, opened[0] + 1);
      await settles(side, 'tcp_open_total', dst, opened[1] + 1);
      const open = await now(side, 'tcp_open_connections', src);
      assert.ok(open > 0);
      client.socket.end();
      await client.gone();
      await settles(side, 'tcp_close_total', { ...src, errno: '' }, closed + 1);
      await settles(side, 'tcp_open_connections', src, open - 1);
      const idle = await now(side, 'tcp_open_connections', dst);
      server.socket.destroy();
      await settles(side, 'tcp_open_connections', dst, idle - 1);
    });
  }
  for (const [ids, side, dial, accept, src, dst] of [
    [
      'C-141, C-142, C-145, C-146, C-149',
      'server',
      () => stage.opaqueClient(),
      () => stage.opaqueApp.accept(),
      { direction: 'inbound', peer: 'src', target_port: OPAQUE },
      { direction: 'inbound', peer: 'dst', no_tls_reason: 'loopback' },
    ],
    [
      'C-143, C-144, C-147, C-148, C-150',
      'client',
      () => stage.dial('outOpaque'),
      () => stage.opaquePeer.accept(),
      { direction: 'outbound', peer: 'src', target_ip: '10.96.1.4' },
      { direction: 'outbound', peer: 'dst', authority: 'out-opaque.shop.svc.cluster.local:80' },
    ],
  ] as const) {
    test(`${ids} TCP: opened, open, bytes of both sides exactly, closed (${side})`, async () => {
      const families = [
        'tcp_open_total',
        'tcp_read_bytes_total',
        'tcp_write_bytes_total',
        'tcp_open_connections',
      ] as const;
      // Idle connections of earlier scenarios end by themselves.
      await settles(side, 'tcp_open_connections', dst, 0);
      const counts = async (): Promise<ReadonlyMap<string, number>> => {
        const all = new Map<string, number>();
        for (const family of families) {
          all.set(`${family} src`, await now(side, family, src));
          all.set(`${family} dst`, await now(side, family, dst));
        }
        return all;
      };
      // Bytes are counted once a second: those of the tests before must not come into this one's.
      let before = await counts();
      for (let seen: typeof before | undefined; !isDeepStrictEqual(seen, before); before = await counts()) {
        seen = before;
        await pause(1_100);
      }
      const client = await dial();
      client.write('x'.repeat(1234));
      const server = await accept();
      await server.when(() => server.received.length === 1234);
      server.write('y'.repeat(567));
      await client.when(() => client.received.length === 567);
      const grown = async (family: string, peer: 'src' | 'dst', by: number): Promise<void> =>
        settles(side, family, peer === 'src' ? src : dst, (before.get(`${family} ${peer}`) ?? 0) + by);
      for (const peer of ['src', 'dst'] as const) {
        await grown('tcp_open_total', peer, 1);
        await grown('tcp_open_connections', peer, 1);
      }
      await grown('tcp_read_bytes_total', 'src', 1234);
      await grown('tcp_write_bytes_total', 'dst', 1234);
      await grown('tcp_read_bytes_total', 'dst', 567);
      await grown('tcp_write_bytes_total', 'src', 567);
      const closed = await now(side, 'tcp_close_total', { ...src, errno: '' });
      client.socket.end();
      server.socket.end();
      await client.gone();
      await grown('tcp_open_connections', 'src', 0);
      await grown('tcp_open_connections', 'dst', 0);
      await settles(side, 'tcp_close_total', { ...src, errno: '' }, closed + 1);
    });
  }

  test('C-153 metrics are compressed if the client takes that', async () => {
    for (const [accepted, compressed] of [
      ['gzip', true],
      ['deflate, gzip;q=0.5', true],
      ['deflate', false],
      ['gzip;q=0', false],
    ] as const) {
      const client = await scrape(`Accept-Encoding: ${accepted}\r\n`);
      const answer = await client.rest();
      const bodyAt = answer.indexOf('\r\n\r\n') + 4;
      const body = Buffer.from(answer.slice(bodyAt), 'latin1');
      assert.equal(/content-encoding: gzip/i.test(answer.slice(0, bodyAt)), compressed, accepted);
      assert.match((compressed ? gunzipSync(body) : body).toString(), /^# HELP request_total /);
    }
  });
  test('OpenMetrics for who asks for it', async () => {
    const client = await scrape('Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n');
    const [head = '', text = ''] = (await client.rest()).split('\r\n\r\n');
    assert.match(head, /content-type: application\/openmetrics-text; version=1\.0\.0/i);
    assert.match(
      text,
      /^# HELP request Total count of HTTP requests\.\n# TYPE request counter\nrequest_total\{/,
    );
    assert.deepEqual(openMetricsFaults(text), []);
    const plain = await (await scrape('Accept: text/plain\r\n')).rest();
    assert.match(plain, /content-type: text\/plain; version=0\.0\.4/i);
    assert.doesNotMatch(plain, /# EOF/);
  });

  test('C-163 what succeeds counts no error', async () => {
    const before = await now('server', 'inbound_tcp_errors_total', {});
    await ask('in');
    assert.equal(await now('server', 'inbound_tcp_errors_total', {}), before);
  });
  test('C-164 plain text on the mesh port, and silence there: closed, a series each', async () => {
    const labels = { target_port: '4143', error: 'unexpected' };
    const late = { target_port: '4143', error: 'tls detection timeout' };
    const before = await now('server', 'inbound_tcp_errors_total', labels);
    const lateBefore = await now('server', 'inbound_tcp_errors_total', late);
    const silent = new RawPeer(await dialAt(SERVER, 4143));
    const client = new RawPeer(await dialAt(SERVER, 4143));
    client.write('GET / HTTP/1.1\r\nHost: plain\r\n\r\n');
    await client.gone();
    assert.equal(client.received, '');
    await settles('server', 'inbound_tcp_errors_total', labels, before + 1);
    await silent.gone();
    assert.equal(silent.received, '');
    await settles('server', 'inbound_tcp_errors_total', late, lateBefore + 1);
  });
  test('C-165 TLS and header on the mesh port: no error', async () => {
    const before = await now('server', 'inbound_tcp_errors_total', {});
    const client = await stage.meshed(APP_PORT, 'http1');
    client.write('GET / HTTP/1.1\r\nHost: no-error\r\n\r\n');
    const server = await stage.app.accept();
    await server.head();
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    await client.take('ok');
    assert.equal(await now('server', 'inbound_tcp_errors_total', {}), before);
  });
  test('C-277 connections are counted by what they speak', async () => {
    const parent = {
      parent_group: 'core',
      parent_kind: 'Service',
      parent_namespace: 'shop',
      parent_name: 'out',
      parent_port: '80',
    };
    const count = async (protocol: string, labels: Labels): Promise<number> =>
      now('client', 'outbound_tcp_protocol_connections_total', { protocol, ...labels });
    const opaque = { ...parent, parent_name: 'out-opaque' };
    const before = [
      await count('http/1', parent),
      await count('http/2', parent),
      await count('opaq', parent),
    ];
    const beforeOpaque = await count('opaq', opaque);
    await ask('out');
    const http2 = await stage.client('out');
    http2.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    const bytes = await stage.client('out');
    bytes.write('\x00');
    const other = await stage.peer.accept();
    const plain = await stage.dial('outOpaque');
    plain.write('x');
    const far = await stage.opaquePeer.accept();
    await far.take('x');
    for (const [index, protocol] of ['http/1', 'http/2', 'opaq'].entries()) {
      const labels = { protocol, ...parent };
      await settles('client', 'outbound_tcp_protocol_connections_total', labels, (before[index] ?? 0) + 1);
    }
    await settles(
      'client',
      'outbound_tcp_protocol_connections_total',
      { protocol: 'opaq', ...opaque },
      beforeOpaque + 1,
    );
    for (const peer of [http2, bytes, plain, other, far]) await peer.close();
  });
  test('endpoints of a service by state', async () => {
    const labels = { parent_name: 'out', parent_kind: 'Service' };
    await ask('out');
    assert.equal(await now('client', 'outbound_http_balancer_endpoints', { ...labels, state: 'ready' }), 1);
    assert.equal(await now('client', 'outbound_http_balancer_endpoints', { ...labels, state: 'pending' }), 0);
  });
  for (const [id, port, protocol, label] of [
    ['C-179', APP_PORT, 'http1', 'http/1'],
    ['C-181', APP_PORT, 'http2', 'http/2'],
    ['C-183', OPAQUE_PORT, undefined, ''],
  ] as const) {
    test(`${id} connections on the mesh port by protocol, port, name and client: "${label}"`, async () => {
      const labels = {
        session_protocol: label,
        target_port: String(port),
        target_name: '',
        client_id: identityOf('counted'),
      };
      await stage.meshed(port, protocol, identityOf('counted'));
      await settles('server', 'inbound_tcp_transport_header_connections_total', labels, 1);
    });
  }
  test('C-198 the host that a client names is no label inbound', async () => {
    await ask('in');
    const series = (await read('server')).filter(
      ({ name, labels }) => name === 'request_total' && labels['direction'] === 'inbound',
    );
    assert.ok(series.length > 0);
    assert.equal(
      series.some(({ labels }) => 'authority' in labels),
      false,
    );
  });
});
