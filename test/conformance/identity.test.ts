// SPDX-License-Identifier: Apache-2.0
// Identities: nothing without a certificate, everything with one, and what a request may demand and claim of them.

import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { after, before, beforeEach, describe } from 'node:test';
import { connect as dialTls, type TLSSocket } from 'node:tls';
import { RawPeer, RawServer } from '../../agent/proxy/exchange/raw-peers.ts';
import { encodeTransportHeader, TRANSPORT_ALPN } from '../../agent/proxy/tls/transport-header.ts';
import { endpoint, identityOf, listenIn, workerPod } from '../proxy/harness.ts';
import { fetch2, type Http2Application, serveHttp2 } from '../proxy/http2-peers.ts';
import { material } from '../proxy/peers.ts';
import { dialAt, PEER, SERVER } from '../proxy/scene.ts';
import { APP_PORT, createStage, fieldsOf, meshedEndpoint, type Stage, statusOf, test } from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
/** Applications of a pod whose certificate comes late; its address is PEER. */
const LATE_HTTP1 = 7081;
const LATE_HTTP2 = 7082;

describe('identity', () => {
  let stage: Stage;
  let late: RawServer;
  let late2: Http2Application;
  const pod = workerPod('late', [PEER], 0);
  before(async () => {
    stage = await createStage();
    const { home, serverNs, server } = stage.scene;
    late = await RawServer.listen(listenIn(serverNs, PEER, LATE_HTTP1));
    late2 = await serveHttp2(serverNs, PEER, LATE_HTTP2, (stream) => {
      stream.respond({ ':status': 200 });
      stream.end('late');
    });
    server.worker.handle({
      type: 'pod',
      pod: workerPod('late', [PEER], serverNs),
      listeners: [{ direction: 'inbound', family: 4, slot: 0, fd: listenIn(home, PEER, 4143) }],
    });
  });
  beforeEach(() => stage.fresh());
  after(async () => {
    late2.close();
    await late.close();
    await stage.close();
  });

  /** A meshed client's connection to the late pod, past the transport header. */
  const dialLate = async (port: number, protocol: 'http1' | 'http2'): Promise<TLSSocket> => {
    const { authority } = stage.scene;
    const socket = dialTls({
      socket: await dialAt(PEER, 4143),
      ca: authority.anchorPem,
      servername: identityOf('late'),
      ALPNProtocols: [TRANSPORT_ALPN],
      ...(await material({ authority, identity: identityOf('web') })),
    });
    await once(socket, 'secureConnect');
    // Whoever takes the socket over must not meet this write.
    await new Promise<void>((resolve) => {
      socket.write(encodeTransportHeader(port, protocol), () => resolve());
    });
    return socket;
  };

  test('C-071 and C-072 no TLS before there is a certificate, whatever is spoken inside', async () => {
    await assert.rejects(dialLate(LATE_HTTP1, 'http1'));
    await assert.rejects(dialLate(LATE_HTTP2, 'http2'));
  });
  test('C-069 and C-070 HTTP/1.1 and HTTP/2 over TLS once there is one', async () => {
    const { authority, server } = stage.scene;
    const certificate = { identity: pod.identity, ...(await authority.leaf(pod.identity)) };
    server.worker.handle({ type: 'certificate', certificate });
    const client = new RawPeer(await dialLate(LATE_HTTP1, 'http1'));
    client.write('GET / HTTP/1.1\r\nHost: late\r\n\r\n');
    const application = await late.accept();
    assert.equal(fieldsOf(await application.head()).get('l5d-client-id'), identityOf('web'));
    application.write(OK);
    assert.equal(statusOf(await client.take('ok')), 200);
    await client.close();
    const socket = await dialLate(LATE_HTTP2, 'http2');
    const session = connectHttp2('http://late', { createConnection: () => socket });
    session.on('error', () => undefined);
    assert.equal((await fetch2(session, { ':path': '/' })).text, 'late');
    session.destroy();
  });
  test('C-068 clients that stop in the middle of their hello hold up nobody else', async () => {
    const stalled: RawPeer[] = [];
    for (let count = 0; count < 20; count++) {
      const client = new RawPeer(await dialAt(SERVER, 4143));
      // The head of a record of 512 bytes, and the first of them.
      client.write('\x16\x03\x01\x02\x00\x01');
      stalled.push(client);
    }
    const client = await stage.meshed(APP_PORT, 'http1');
    client.write('GET / HTTP/1.1\r\nHost: quick\r\n\r\n');
    const application = await stage.app.accept();
    await application.head();
    application.write(OK);
    assert.equal(statusOf(await client.take('ok')), 200);
    for (const one of stalled) {
      assert.equal(one.ended || one.closed, false);
      await one.close();
    }
  });
  test('C-075 an identity that a request demands: the endpoint has it, has another one, or none', async () => {
    const demanding = (name: string, identity: string): string =>
      `GET / HTTP/1.1\r\nHost: ${name}\r\nl5d-require-id: ${identity}\r\n\r\n`;
    for (const http2 of [true, false]) {
      stage.lead('other', stage.service(`required-${http2}`, [meshedEndpoint(APP_PORT, { http2 })]));
      const client = await stage.dial('other');
      client.write(demanding(`right-${http2}`, identityOf('api')));
      const application = await stage.app.accept();
      assert.equal(fieldsOf(await application.head()).has('l5d-require-id'), false);
      application.write(OK);
      assert.equal(statusOf(await client.take('ok')), 200);
      const other = await stage.dial('other');
      other.write(demanding(`wrong-${http2}`, identityOf('web')));
      const answer = await other.rest();
      assert.equal(statusOf(answer), 502);
      assert.equal(fieldsOf(answer).get('connection'), 'close');
    }
    stage.lead('other', stage.service('plain', [endpoint(PEER, APP_PORT)]));
    const plain = await stage.dial('other');
    plain.write(demanding('plain', identityOf('api')));
    assert.equal(statusOf(await plain.rest()), 502);
    const metrics = await stage.scene.client.metrics();
    assert.match(metrics, /outbound_http_errors_total\{error="identity required"[^}]*\} 3/);
  });
  test('C-076 what a client claims about its identity never reaches the application', async () => {
    for (const way of ['in', 'both', 'both1'] as const) {
      const { head } = await stage.exchange(
        way,
        'GET / HTTP/1.1\r\nHost: @\r\nl5d-client-id: forged\r\nL5D-Client-Id: again\r\n\r\n',
      );
      assert.doesNotMatch(head, /forged|again/);
      assert.equal(fieldsOf(head).get('l5d-client-id'), way === 'in' ? undefined : identityOf('web'));
    }
  });
});
