// SPDX-License-Identifier: Apache-2.0
// What goes wrong, and what each side sees of it: answers of the proxy, refused messages, endpoints that are not there.

import { strict as assert } from 'node:assert';
import { after, before, beforeEach, describe } from 'node:test';
import { endpoint, identityOf, listenIn, patientClock, until, untilMetric } from '../proxy/harness.ts';
import { CLIENT, dialAt, PEER, SERVER, services } from '../proxy/scene.ts';
import { RawPeer, RawServer } from '../../agent/proxy/exchange/raw-peers.ts';
import {
  APP_PORT,
  createStage,
  everyWay,
  fieldsOf,
  FULL_PORT,
  LATE_PORT,
  meshedEndpoint,
  type Stage,
  statusOf,
  test,
} from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const get = (host: string): string => `GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`;

describe('errors', () => {
  let stage: Stage;
  before(async () => {
    stage = await createStage();
    // The two that fill the queue of the port where nobody accepts; they wait for an answer that never comes.
    for (let count = 0; count < 2; count++) (await unmeshed(FULL_PORT)).write(get(`fill-${count}`));
  });
  beforeEach(() => stage.fresh());
  after(async () => stage.close());

  const unmeshed = async (port: number): Promise<RawPeer> => new RawPeer(await dialAt(SERVER, port));
  const answerTo = async (client: RawPeer, request: string): Promise<string> => {
    client.write(request);
    const answer = await client.head();
    await client.close();
    return answer;
  };
  const explained = (answer: string): string | undefined => fieldsOf(answer).get('l5d-proxy-error');

  test('C-188 the application refuses: a meshed client gets 502 and the reason', async () => {
    const answer = await answerTo(await stage.meshed(LATE_PORT, 'http1'), get('refused'));
    assert.equal(statusOf(answer), 502);
    assert.equal(explained(answer), 'connection refused by the endpoint');
    assert.equal(fieldsOf(answer).get('content-length'), '0');
    assert.equal(fieldsOf(answer).get('connection'), 'close');
  });
  test('C-189 an unmeshed client gets 502 without the reason', async () => {
    const answer = await answerTo(await unmeshed(LATE_PORT), get('refused'));
    assert.equal(statusOf(answer), 502);
    assert.equal(explained(answer), undefined);
  });
  test('C-190 the connect to the application times out: a meshed client gets 504 and the reason', async () => {
    const answer = await answerTo(await stage.meshed(FULL_PORT, 'http1'), get('slow'));
    assert.equal(statusOf(answer), 504);
    assert.equal(explained(answer), 'connect timed out');
  });
  test('C-191 an unmeshed client gets 504 without the reason', async () => {
    const answer = await answerTo(await unmeshed(FULL_PORT), get('slow'));
    assert.equal(statusOf(answer), 504);
    assert.equal(explained(answer), undefined);
  });
  test('what a meshed peer says about its connection stops at the client’s agent', async () => {
    for (const way of ['both', 'both1'] as const) {
      const { client, server } = await stage.exchange(way, get('@'));
      server.write(
        'HTTP/1.1 200 OK\r\nl5d-proxy-connection: close\r\nl5d-proxy-error: x\r\nContent-Length: 0\r\n\r\n',
      );
      const answer = await client.head();
      assert.equal(explained(answer), undefined);
      assert.equal(fieldsOf(answer).has('l5d-proxy-connection'), false);
    }
  });
  test('C-244 the proxy of a pod that was dialled by its own address asks that the client connects anew: it does', async () => {
    for (const http2 of [true, false]) {
      // Nobody listens there: the server's agent answers in the application's place.
      const to = meshedEndpoint(LATE_PORT, { http2 });
      stage.lead('other', { kind: 'endpoint', opaque: false, endpoint: to });
      const client = await stage.dial('other');
      client.write(get('alone'));
      const answer = await client.head();
      assert.equal(statusOf(answer), 502);
      assert.equal(fieldsOf(answer).get('connection'), 'close');
      assert.equal(fieldsOf(answer).has('l5d-proxy-connection'), false);
      assert.equal(explained(answer), undefined);
      assert.equal(await client.gone(), 'FIN');
      // Among several another one would be taken: the connection stays.
      stage.lead('other', stage.service(`several-${http2}`, [to]));
      const balanced = await stage.dial('other');
      for (let count = 0; count < 2; count++) {
        balanced.write(get('several'));
        const again = await balanced.head();
        assert.equal(statusOf(again), 502);
        assert.equal(fieldsOf(again).has('connection'), false);
      }
    }
    const { lines } = stage.scene.client.log;
    const told = lines.findLast(
      ({ message }) => message === 'the proxy of an endpoint answered in its place',
    );
    assert.equal(told?.fields['error'], 'connection refused by the endpoint');
  });
  test('C-245 what an unmeshed endpoint says of it is not heeded', async () => {
    const { client, server } = await stage.exchange('out', get('@'));
    server.write('HTTP/1.1 200 OK\r\nl5d-proxy-connection: close\r\nContent-Length: 0\r\n\r\n');
    const answer = await client.head();
    assert.equal(fieldsOf(answer).has('l5d-proxy-connection'), false);
    assert.equal(fieldsOf(answer).has('connection'), false);
    client.write(get('again'));
    assert.match(await (await stage.peer.accept()).head(), /^GET/);
  });
  test('C-225 an error of discovery fails the connection, and nothing goes out in plain text', async () => {
    const { listener } = services.silent;
    const client = new RawPeer(await dialAt(CLIENT, listener));
    const answer = await answerTo(client, get('silent'));
    assert.equal(statusOf(answer), 503);
    assert.equal(explained(answer), 'destination cannot be resolved now');
    const bytes = new RawPeer(await dialAt(CLIENT, listener));
    bytes.write('\x00bytes');
    assert.equal(await bytes.gone(), 'RST');
    await untilMetric(stage.scene.client, /nodemesh_connections_refused_total\{reason="discovery"[^}]*\} 2/);
  });

  const refused = async (request: string, status: number): Promise<void> => {
    for (const way of everyWay) {
      const client = await stage.client(way);
      client.write(request);
      const answer = await client.rest();
      assert.equal(statusOf(answer), status, `${way}: ${JSON.stringify(request.slice(0, 60))}: ${answer}`);
      assert.equal(fieldsOf(answer).get('connection'), 'close');
    }
    assert.equal(
      stage.app.connections.some((one) => one.received.includes('smuggled')),
      false,
    );
  };
  const smuggled = 'GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n';
  test('C-433 a request with both a length and chunks: 400, and the connection ends', async () =>
    refused(
      `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`,
      400,
    ));
  test('C-434 two lengths that differ: 400', async () =>
    refused(
      `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\nabcd${smuggled}`,
      400,
    ));
  test('C-435 a field folded over two lines: 400', async () =>
    refused(`GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n${smuggled}`, 400));
  test('C-436 a hundred fields pass, one more: 431', async () => {
    const fields = (count: number): string => 'A: b\r\n'.repeat(count);
    const { client, server } = await stage.exchange('in', `GET / HTTP/1.1\r\nHost: @\r\n${fields(99)}\r\n`);
    server.write(OK);
    await client.take('ok');
    await refused(`GET / HTTP/1.1\r\nHost: a\r\n${fields(100)}\r\n`, 431);
  });
  test('C-437 Expect: the interim answer comes from the application, none if it never reads', async () => {
    for (const way of everyWay) {
      const { client, server, head } = await stage.exchange(
        way,
        'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n',
      );
      assert.equal(fieldsOf(head).get('expect'), '100-continue', way);
      assert.equal(client.received, '');
      server.write('HTTP/1.1 100 Continue\r\n\r\n');
      assert.equal(statusOf(await client.head()), 100, way);
      client.write('body');
      await server.take('body');
      server.write(OK);
      assert.equal(statusOf(await client.take('ok')), 200);
    }
    for (const way of everyWay) {
      const { client, server } = await stage.exchange(
        way,
        'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n',
      );
      server.write('HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n');
      assert.equal(statusOf(await client.head()), 417, `${way}: the first thing that it hears`);
    }
  });
  test('C-439 an endpoint that is said to be meshed and is not: 502, and not a byte in plain text', async () => {
    stage.lead('other', stage.service('other', [endpoint(PEER, APP_PORT, { identity: identityOf('api') })]));
    const client = await stage.dial('other');
    client.write(get('secret-host'));
    const server = await stage.peer.accept();
    await until(() => server.received.length > 0, 'the hello');
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
    assert.equal(statusOf(await client.head()), 502);
    assert.equal(server.received.charCodeAt(0), 22, 'a TLS record');
    assert.equal(server.received.includes('secret-host'), false);
  });
  test('C-043 a service without endpoints: 504, and never the original destination', async () => {
    stage.lead('other', stage.service('empty', []));
    const first = await stage.dial('other');
    const answer = await answerTo(first, get('nobody'));
    assert.equal(statusOf(answer), 504);
    assert.equal(explained(answer), 'service in fail-fast');
  });
  test('C-441 while nobody is there 503 at once; it recovers when an endpoint comes', async () => {
    stage.lead('other', stage.service('empty', []));
    const began = patientClock.nowMs();
    assert.equal(statusOf(await answerTo(await stage.dial('other'), get('shed'))), 503);
    assert.ok(patientClock.nowMs() - began < 250, 'at once');
    stage.lead('other', stage.service('empty', [endpoint(PEER, APP_PORT)]));
    const client = await stage.dial('other');
    client.write(get('back'));
    const server = await stage.peer.accept();
    await server.head();
    server.write(OK);
    await client.take('ok');
    // And it begins anew: the next one that finds nobody waits again.
    stage.lead('other', stage.service('empty', []));
    assert.equal(statusOf(await answerTo(await stage.dial('other'), get('again'))), 504);
  });
  test('C-051 a request waits for an endpoint and goes to the one that comes', async () => {
    stage.lead('other', stage.service('later', []));
    const client = await stage.dial('other');
    client.write(get('waits'));
    await until(() => client.socket.bytesWritten > 0, 'the request');
    stage.lead('other', stage.service('later', [meshedEndpoint(APP_PORT)]));
    const server = await stage.app.accept();
    await server.head();
    server.write(OK);
    assert.equal(statusOf(await client.take('ok')), 200);
  });
  test('C-296 everybody that waits is told when waiting is over', async () => {
    stage.lead('other', stage.service('crowd', []));
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, index) =>
        answerTo(await stage.dial('other'), get(`crowd-${index}`)),
      ),
    );
    assert.deepEqual(
      [...new Set(answers.map(statusOf))].sort((left, right) => left - right),
      [504],
    );
  });
  test('C-272 many connections wait for endpoints without a deadlock, HTTP', async () => {
    stage.lead('other', stage.service('wave', []));
    const clients = await Promise.all(Array.from({ length: 60 }, async () => stage.dial('other')));
    for (const client of clients) client.write(get('wave'));
    stage.lead('other', stage.service('wave', [endpoint(PEER, APP_PORT)]));
    for (const _ of clients) {
      const server = await stage.peer.accept();
      await server.head();
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
    }
    for (const client of clients) {
      assert.equal(statusOf(await client.take('ok')), 200);
      await client.close();
    }
  });
  test('C-273 the same for TCP', async () => {
    stage.lead('other', stage.service('tcp-wave', [], true));
    const clients = await Promise.all(Array.from({ length: 60 }, async () => stage.dial('other')));
    for (const client of clients) client.write('ping\n');
    stage.lead('other', stage.service('tcp-wave', [endpoint(PEER, APP_PORT)], true));
    for (const _ of clients) {
      const server = await stage.peer.accept();
      assert.equal(await server.take('\n'), 'ping\n');
      server.write('pong\n');
    }
    for (const client of clients) {
      assert.equal(await client.take('\n'), 'pong\n');
      await client.close();
    }
  });
  test('C-275 opaque connections are balanced, one by one', async () => {
    const other = await RawServer.listen(listenIn(stage.scene.home, PEER, APP_PORT + 100));
    stage.lead(
      'other',
      stage.service('pair', [endpoint(PEER, APP_PORT), endpoint(PEER, APP_PORT + 100)], true),
    );
    const clients = await Promise.all(Array.from({ length: 10 }, async () => stage.dial('other')));
    for (const client of clients) client.write('x');
    for (let count = 0; count < 5; count++) {
      await stage.peer.accept();
      await other.accept();
    }
    for (const client of clients) await client.close();
    await other.close();
  });
  test('C-274 opaque bytes are forwarded', async () => {
    const client = await stage.dial('outOpaque');
    client.write('to the server\n');
    const server = await stage.opaquePeer.accept();
    assert.equal(await server.take('\n'), 'to the server\n');
    server.write('to the client\n');
    assert.equal(await client.take('\n'), 'to the client\n');
  });
  test('a server that dies in the middle of a body: an error at the client, never a short success', async () => {
    for (const way of everyWay) {
      for (const framing of ['Content-Length: 10', 'Transfer-Encoding: chunked']) {
        for (const end of ['end', 'resetAndDestroy'] as const) {
          const { client, server } = await stage.exchange(way, get('@'));
          server.write(
            `HTTP/1.1 200 OK\r\n${framing}\r\n\r\n${framing.includes('chunked') ? '4\r\n' : ''}half`,
          );
          await client.take('half');
          server.socket[end]();
          assert.equal(await client.gone(), 'RST', `${way}, ${framing}, ${end}`);
          assert.equal(client.received.includes('0\r\n\r\n'), false);
        }
      }
    }
  });
});
