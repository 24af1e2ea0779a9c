// SPDX-License-Identifier: Apache-2.0
// What a connection is taken for, inbound and outbound, whatever its first bytes are and however they are cut.

import { strict as assert } from 'node:assert';
import { after, before, beforeEach, describe } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { Duplex } from 'node:stream';
import { connect as dialTls } from 'node:tls';
import type { RawPeer } from '../../agent/proxy/exchange/raw-peers.ts';
import { identityOf, until, untilMetric } from '../proxy/harness.ts';
import { dialAsPeer, HTTP_HEADER } from '../proxy/peers.ts';
import { dialAt, readAll, SERVER } from '../proxy/scene.ts';
import { APP_PORT, createStage, type Stage, statusOf, test, type Way } from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';

describe('detection', () => {
  let stage: Stage;
  before(async () => {
    stage = await createStage();
  });
  beforeEach(() => {
    stage.fresh();
    stage.setPod({});
    stage.setClient({ detectTimeoutOutboundMs: 10_000 });
  });
  after(async () => stage.close());

  /** Sends the pieces one by one, a read of the agent each. */
  const send = async (client: RawPeer, pieces: readonly string[]): Promise<void> => {
    for (const piece of pieces) {
      client.write(piece);
      await pause(5);
    }
  };
  const cut = (text: string, at: number): string[] => [text.slice(0, at), text.slice(at)];
  /** Served as HTTP: the agent's own field is taken out, which no relay of bytes does. */
  const servedAsHttp = async (way: Way, pieces: readonly string[], what: string): Promise<void> => {
    const client = await stage.client(way);
    await send(client, pieces);
    const server = await stage.appOf(way).accept();
    assert.equal(/keep-alive/i.test(await server.head()), false, `${what} is HTTP`);
    server.write(OK);
    await client.take('ok');
    await client.close();
    server.socket.destroy();
  };
  const request = (host: string): string => `GET / HTTP/1.1\r\nKeep-Alive: 1\r\nHost: ${host}\r\n\r\n`;
  const passedOn = async (way: Way, pieces: readonly string[]): Promise<void> => {
    const client = await stage.client(way);
    await send(client, pieces);
    const server = await stage.appOf(way).accept();
    const text = pieces.join('');
    assert.equal(await server.take(text), text);
    server.write('reply\n');
    assert.equal(await client.take('\n'), 'reply\n');
    await client.close();
  };

  test('C-430 the first thirteen bytes of a request, then the rest: HTTP all the same', async () => {
    for (const way of ['out', 'in'] as const) {
      await servedAsHttp(way, cut(request(`thirteen-${way}`), 13), 'a request cut after 13 bytes');
    }
  });
  test('C-431 a request cut after fourteen bytes is HTTP', async () => {
    for (const way of ['out', 'in'] as const) {
      await servedAsHttp(way, cut(request(`fourteen-${way}`), 14), 'a request cut after 14 bytes');
    }
  });
  test('a request cut anywhere is HTTP', async () => {
    const whole = request('anywhere-00');
    for (let at = 1; at < whole.length; at++) {
      for (const way of ['out', 'in'] as const) {
        await servedAsHttp(way, cut(request(`anywhere-${at}`), at), `a request cut after ${at} bytes`);
      }
    }
  });
  test('C-432 a banner that looks nearly like a request line passes as it is, at once', async () => {
    for (const way of ['out', 'in'] as const) {
      await passedOn(way, ['SSH-2.0-OpenSSH_9.6']);
      await passedOn(way, cut('SSH-2.0-OpenSSH_9.6\r\n', 7));
    }
  });
  test('C-289 silence is waited out, prefaces and request lines are recognised, an end ends it', async () => {
    stage.setClient({ detectTimeoutOutboundMs: 200 });
    const silent = await stage.client('out');
    const server = await stage.peer.accept();
    server.write('at last\n');
    assert.equal(await silent.take('\n'), 'at last\n');
    await untilMetric(stage.scene.client, /outbound_tcp_detect_http_results_total\{result="read_timeout"/);
    await servedAsHttp('out', ['PUT /a HTTP/1.0\r\nContent-Length: 0\r\nHost: put\r\n\r\n'], 'PUT');
    await passedOn('out', ['\x16\x03']);
    // A client that has nothing to say may still want to hear.
    const ended = await stage.client('out');
    ended.socket.end();
    const teller = await stage.peer.accept();
    await until(() => teller.ended, 'the end');
    teller.socket.end('12:00\n');
    assert.equal(await ended.rest(), '12:00\n');
    const gone = await stage.client('out');
    gone.socket.resetAndDestroy();
    await untilMetric(stage.scene.client, /outbound_tcp_detect_http_results_total\{result="error"/);
  });
  test('C-291 bytes that were read to detect arrive once, in order', async () => {
    for (const way of ['out', 'in', 'both1'] as const) await passedOn(way, ['\x00first', ' second\n']);
  });
  test('C-438 a server that speaks first without an opaque port: outbound it waits out the detection, inbound it is cut', async () => {
    stage.setClient({ detectTimeoutOutboundMs: 300 });
    const outbound = await stage.client('out');
    const began = performance.now();
    const server = await stage.peer.accept();
    assert.ok(performance.now() - began > 200, 'not before the time is over');
    server.write('220 ready\r\n');
    assert.equal(await outbound.take('\n'), '220 ready\r\n');
    stage.setPod({}, { detectTimeoutMs: 300 });
    const inbound = await stage.client('in');
    assert.equal(await inbound.gone(), 'RST');
    assert.equal(inbound.received, '');
  });
  test('C-161 a client that says nothing inbound is cut, and counted', async () => {
    stage.setPod({}, { detectTimeoutMs: 100 });
    assert.equal(await (await stage.client('in')).gone(), 'RST');
    await untilMetric(
      stage.scene.server,
      new RegExp(`inbound_tcp_errors_total\\{error="tls detection timeout",[^}]*target_port="${APP_PORT}"`),
    );
  });

  test('C-170 a port without a policy of its own is detected', async () => {
    await servedAsHttp('in', [request('undeclared')], 'a request');
    await passedOn('in', ['\x00bytes']);
  });
  test('C-171 where nobody is allowed a connection is still detected, then refused', async () => {
    stage.setPod({}, { authorizations: [] });
    const client = await stage.client('in');
    client.write('GET / HTTP/1.1\r\nHost: denied\r\n\r\n');
    assert.equal(statusOf(await client.head()), 403);
    const bytes = await stage.client('in');
    bytes.write('\x00bytes');
    assert.equal(await bytes.gone(), 'RST');
    assert.equal(bytes.received, '');
  });
  test('C-172 the mesh port has its own way: a header says what it is for', async () => {
    const { authority } = stage.scene;
    const peer = await dialAsPeer({
      anchorsPem: authority.anchorPem,
      shown: { authority, identity: identityOf('web') },
      alpn: ['transport.l5d.io/v1'],
    });
    peer.write(`${HTTP_HEADER}GET /direct HTTP/1.1\r\nHost: direct\r\nConnection: close\r\n\r\n`, 'latin1');
    assert.match(await readAll(peer), /GET \/direct$/);
  });
  test('C-173 TLS to another name passes as bytes', async () => {
    const raw = await dialAt(SERVER, APP_PORT);
    const tls = dialTls({ socket: raw, servername: 'elsewhere.example', rejectUnauthorized: false });
    tls.on('error', () => undefined);
    const server = await stage.app.accept();
    await until(() => server.received.length > 100, 'the hello');
    assert.equal(server.received.charCodeAt(0), 22);
    assert.ok(server.received.includes('elsewhere.example'));
    raw.destroy();
    await untilMetric(stage.scene.server, /tcp_open_total\{[^}]*tls="opaque",sni="elsewhere.example"/);
  });
  test('C-174 what is no HTTP passes as bytes', async () => passedOn('in', ['\x01\x02\x03']));
  test('C-175 HTTP is detected', async () => servedAsHttp('in', [request('detected')], 'a request'));
  test('C-176 a port said to be HTTP/1 is that, whatever comes', async () => {
    stage.setPod({}, { protocol: 'http1' });
    const client = await stage.client('in');
    client.write('\x00 no request\r\n\r\n');
    assert.equal(statusOf(await client.rest()), 400);
    await servedAsHttp('in', [request('hinted')], 'a request');
  });
  test('C-290 a ClientHello in any pieces is one; a request is none', async () => {
    // One hello, byte by byte, to the pod's own name: TLS of the mesh ends here.
    const { authority } = stage.scene;
    const leaf = await authority.leaf(identityOf('web'));
    const raw = await dialAt(SERVER, APP_PORT);
    const slow = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        void (async () => {
          for (const byte of chunk) {
            raw.write(Buffer.of(byte));
            if (chunk.length > 200) await new Promise(setImmediate);
          }
          done();
        })();
      },
    });
    raw.on('data', (chunk: Buffer) => slow.push(chunk));
    const tls = dialTls({
      socket: slow,
      servername: identityOf('api'),
      ca: authority.anchorPem,
      cert: leaf.chainPem,
      key: leaf.keyPem,
    });
    tls.write('GET / HTTP/1.1\r\nHost: pieces\r\n\r\n');
    const server = await stage.app.accept();
    await server.head();
    server.write(OK);
    await untilMetric(stage.scene.server, /request_total\{[^}]*client_id="web\.shop/);
    raw.destroy();
  });
  test('the HTTP/2 preface is recognised however it is cut', async () => {
    const counted = async (): Promise<number> =>
      Number(
        (/inbound_tcp_detect_http_results_total\{result="http\/2"[^}]*\} (\d+)/.exec(
          await stage.scene.server.metrics(),
        ) ?? ['', '0'])[1],
      );
    const start = await counted();
    for (const at of [1, 3, 4, 13]) {
      const client = await stage.client('in');
      await send(client, cut(PREFACE, at));
      await client.close();
    }
    let now = 0;
    const deadline = performance.now() + 40_000;
    while ((now = await counted()) < start + 4) {
      assert.ok(performance.now() < deadline, `${now - start} of 4 recognised`);
      await pause(10);
    }
  });
});
