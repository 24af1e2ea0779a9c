// SPDX-License-Identifier: Apache-2.0
// What Linkerd's proxy is tested for under "transparency": an application must not notice the proxy. HTTP/1 and TCP;
// a name's first word is the scenario's number in docs/reference/conformance.md.

import { strict as assert } from 'node:assert';
import { after, before, beforeEach, describe } from 'node:test';
import { listenIn, until, untilMetric } from '../proxy/harness.ts';
import { CLIENT, dialAt, PEER, SERVER, services } from '../proxy/scene.ts';
import { RawPeer, RawServer } from '../../agent/proxy/exchange/raw-peers.ts';
import {
  createStage,
  everyWay,
  fieldsOf,
  meshedWays,
  OPAQUE_PORT,
  type Stage,
  statusOf,
  test,
  type Way,
} from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

describe('transparency', () => {
  let stage: Stage;
  before(async () => {
    stage = await createStage();
  });
  beforeEach(() => stage.fresh());
  after(async () => stage.close());

  const helloWorld = async (way: Way): Promise<void> => {
    const { client, server, head } = await stage.exchange(way, 'GET /hello HTTP/1.1\r\nHost: @\r\n\r\n');
    assert.match(head, /^GET \/hello HTTP\/1\.1\r\n/);
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world');
    assert.match(await client.take('hello world'), /^HTTP\/1\.1 200 OK\r\n/);
  };
  /** Bytes that are no HTTP, one way and the other. */
  const talk = async (client: RawPeer, server: RawServer): Promise<void> => {
    client.write('\x00hello\n');
    const peer = await server.accept();
    assert.equal(await peer.take('\n'), '\x00hello\n');
    peer.write('\x01world\n');
    assert.equal(await client.take('\n'), '\x01world\n');
  };

  test('C-001 outbound HTTP/1: 200 and the body unchanged', async () => helloWorld('out'));
  test('C-002 inbound HTTP/1: 200 and the body unchanged', async () => helloWorld('in'));
  test('C-003 outbound TCP: the bytes of a client that speaks first, and the reply', async () =>
    talk(await stage.client('out'), stage.peer));
  test('C-004 outbound TCP to what nobody knows goes to where it was going', async () => {
    const { listener, ip, port } = services.unknown;
    stage.scene.client.setDestination(`${ip}:${port}`, { kind: 'unknown' });
    const elsewhere = await RawServer.listen(listenIn(stage.scene.home, PEER, port));
    await talk(new RawPeer(await dialAt(CLIENT, listener)), elsewhere);
    await elsewhere.close();
  });
  test('C-005 inbound TCP is passed to the application', async () =>
    talk(await stage.client('in'), stage.app));
  test('C-006 a connection that finds the outbound listener itself is closed: no loop', async () => {
    const fd = listenIn(stage.scene.home, CLIENT, 15_199);
    stage.scene.client.worker.handle({
      type: 'pod',
      pod: stage.scene.clientPod,
      listeners: [{ direction: 'outbound', family: 4, slot: 199, fd }],
    });
    const client = new RawPeer(await dialAt(CLIENT, 15_199));
    client.write('GET / HTTP/1.1\r\nHost: loop\r\n\r\n');
    await client.gone();
    assert.equal(client.received, '');
    await untilMetric(stage.scene.client, /connections_refused_total\{reason="no_destination"/);
  });
  test('C-007 a connection from inside that finds the inbound listener is closed: no loop', async () => {
    const fd = listenIn(stage.scene.home, '127.0.0.1', 15_198);
    stage.scene.server.worker.handle({
      type: 'pod',
      pod: stage.scene.serverPod,
      listeners: [{ direction: 'inbound', family: 4, slot: 198, fd }],
    });
    stage.setPod({});
    const client = new RawPeer(await dialAt('127.0.0.1', 15_198));
    client.write('GET / HTTP/1.1\r\nHost: loop\r\n\r\n');
    await client.gone();
    assert.equal(client.received, '');
    await untilMetric(stage.scene.server, /connections_refused_total\{reason="loopback"/);
  });

  /** The server's first words arrive although the client says nothing. */
  const serverFirst = async (client: RawPeer, server: RawServer): Promise<void> => {
    const peer = await server.accept();
    peer.write('220 ready\r\n');
    assert.equal(await client.take('\n'), '220 ready\r\n');
    client.write('EHLO\r\n');
    assert.equal(await peer.take('\n'), 'EHLO\r\n');
    await client.close();
    await until(() => peer.ended || peer.closed, 'the end at the server');
  };
  test('C-008 inbound, an opaque port: the server speaks first', async () =>
    serverFirst(await stage.opaqueClient(), stage.opaqueApp));
  test('C-009 inbound, an opaque port, without discovery: the server speaks first', async () => {
    const { destinations } = stage.scene.server;
    assert.ok(!destinations.has(`${SERVER}:${OPAQUE_PORT}`), 'the server’s agent has not been told of it');
    await serverFirst(await stage.opaqueClient(), stage.opaqueApp);
  });
  test('C-010 inbound, mutual TLS, an opaque port: the server speaks first', async () =>
    serverFirst(await stage.dial('bothOpaque'), stage.opaqueApp));
  test('C-011 outbound, an opaque destination: the server speaks first', async () =>
    serverFirst(await stage.dial('outOpaque'), stage.opaquePeer));

  test('C-012 a client that closes closes the connection to the server', async () => {
    for (const way of everyWay) {
      const client = await stage.client(way);
      client.write('\x00bye\n');
      const server = await stage.appOf(way).accept();
      await server.take('\n');
      client.socket.end();
      await until(() => server.ended, `the client’s FIN (${way})`);
      server.socket.end();
      assert.equal(await client.gone(), 'FIN');
      await until(() => server.closed, `the end of the connection (${way})`);
    }
  });
  test('C-013 HTTP/1 at an application behind an agent: 200', async () => {
    for (const way of meshedWays) await helloWorld(way);
  });

  test('C-014 fields of the connection are removed, others stay', async () => {
    for (const way of meshedWays) {
      const { client, server, head } = await stage.exchange(
        way,
        'GET / HTTP/1.1\r\nHost: @\r\nConnection: x-foo-bar, close\r\nX-Foo-Bar: 1\r\nKeep-Alive: 5\r\n' +
          'Proxy-Connection: close\r\nX-Stays: yes\r\n\r\n',
      );
      const request = fieldsOf(head);
      for (const name of ['connection', 'x-foo-bar', 'keep-alive', 'proxy-connection']) {
        assert.equal(request.has(name), false, `${way}: ${name} in the request`);
      }
      assert.equal(request.get('x-stays'), 'yes');
      server.write(
        'HTTP/1.1 200 OK\r\nConnection: x-bar-foo\r\nX-Bar-Foo: 1\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n' +
          'X-Stays: too\r\nContent-Length: 0\r\n\r\n',
      );
      const response = fieldsOf(await client.head());
      for (const name of ['x-bar-foo', 'keep-alive', 'proxy-connection']) {
        assert.equal(response.has(name), false, `${way}: ${name} in the response`);
      }
      // The client asked for the close of its own connection.
      assert.equal(response.get('connection'), 'close');
      assert.equal(response.get('x-stays'), 'too');
    }
  });
  test('C-015 HTTP/1.0 with a host stays HTTP/1.0 on both sides', async () => {
    for (const way of meshedWays) {
      const { client, server, head, host } = await stage.exchange(way, 'GET / HTTP/1.0\r\nHost: @\r\n\r\n');
      assert.match(head, /^GET \/ HTTP\/1\.0\r\n/, way);
      assert.equal(fieldsOf(head).get('host'), host);
      server.write('HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok');
      assert.match(await client.rest(), /^HTTP\/1\.0 200 OK\r\n[^]*ok$/, way);
    }
  });
  test('C-016 HTTP/1.0 without a host gets none', async () => {
    for (const way of meshedWays) {
      const { client, server, head } = await stage.exchange(way, 'GET / HTTP/1.0\r\n\r\n');
      assert.match(head, /^GET \/ HTTP\/1\.0\r\n/);
      assert.equal(fieldsOf(head).has('host'), false);
      server.write('HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok');
      assert.match(await client.rest(), /^HTTP\/1\.0 200 OK\r\n[^]*ok$/, way);
    }
  });
  test('C-017 an absolute target and a host that differs both arrive as they were', async () => {
    for (const way of meshedWays) {
      const { client, server, head, host } = await stage.exchange(
        way,
        'GET http://@/x?y HTTP/1.1\r\nHost: differs.test\r\n\r\n',
      );
      assert.ok(head.startsWith(`GET http://${host}/x?y HTTP/1.1\r\n`), `${way}: ${head}`);
      assert.equal(fieldsOf(head).get('host'), 'differs.test');
      server.write(OK);
      await client.take('ok');
    }
  });
  test('C-018 an upgrade: 101, then bytes both ways', async () => {
    for (const way of meshedWays) {
      const { client, server, head } = await stage.exchange(
        way,
        'GET /chat HTTP/1.1\r\nHost: @\r\nConnection: upgrade\r\nUpgrade: chatproto\r\n\r\n',
      );
      assert.equal(fieldsOf(head).get('upgrade'), 'chatproto');
      assert.match(fieldsOf(head).get('connection') ?? '', /upgrade/i);
      server.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chatproto\r\n\r\n');
      const answer = await client.head();
      assert.equal(statusOf(answer), 101);
      assert.equal(fieldsOf(answer).get('upgrade'), 'chatproto');
      client.write('[chatproto-c]{send}: hi\n');
      assert.equal(await server.take('\n'), '[chatproto-c]{send}: hi\n');
      server.write('[chatproto-s]{recv}: hi\n');
      assert.equal(await client.take('\n'), '[chatproto-s]{recv}: hi\n');
      await client.close();
    }
  });
  test('C-019 nobody but agents sees l5d-orig-proto', async () => {
    for (const way of meshedWays) {
      const { client, server, head } = await stage.exchange(way, 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
      assert.equal(fieldsOf(head).has('l5d-orig-proto'), false);
      server.write(OK);
      assert.equal(fieldsOf(await client.head()).has('l5d-orig-proto'), false);
    }
  });
  test('C-020 an offer of h2c is removed, the request is served', async () => {
    for (const way of meshedWays) {
      const { client, server, head } = await stage.exchange(
        way,
        'GET / HTTP/1.1\r\nHost: @\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n',
      );
      const request = fieldsOf(head);
      for (const name of ['connection', 'upgrade', 'http2-settings']) assert.equal(request.has(name), false);
      server.write(OK);
      assert.match(await client.take('ok'), /^HTTP\/1\.1 200 OK\r\n/);
    }
  });
  test('C-021 CONNECT: 200, then bytes both ways', async () => {
    for (const way of meshedWays) {
      const { client, server, head, host } = await stage.exchange(
        way,
        'CONNECT @:443 HTTP/1.1\r\nHost: @\r\n\r\n',
      );
      assert.ok(head.startsWith(`CONNECT ${host}:443 HTTP/1.1\r\n`), head);
      server.write('HTTP/1.1 200 OK\r\n\r\n');
      assert.equal(statusOf(await client.head()), 200);
      client.write('ping\n');
      assert.equal(await server.take('\n'), 'ping\n');
      server.write('pong\n');
      assert.equal(await client.take('\n'), 'pong\n');
      await client.close();
    }
  });
  test('C-022 the answer to CONNECT loses its length and its transfer coding', async () => {
    for (const way of meshedWays) {
      for (const field of ['Content-Length: 0', 'Transfer-Encoding: chunked']) {
        const { client, server } = await stage.exchange(way, 'CONNECT @:443 HTTP/1.1\r\nHost: @\r\n\r\n');
        server.write(`HTTP/1.1 200 OK\r\n${field}\r\n\r\n`);
        const response = fieldsOf(await client.head());
        assert.equal(response.has('content-length') || response.has('transfer-encoding'), false, way);
        server.write('tunnel\n');
        assert.equal(await client.take('\n'), 'tunnel\n');
        await client.close();
      }
    }
  });
  test('C-023 a wrong CONNECT, and a bare authority with other methods: 400', async () => {
    for (const way of meshedWays) {
      const refused = async (request: string, minor = 1): Promise<void> => {
        const client = await stage.client(way);
        client.write(`${request}\r\nHost: wrong\r\n\r\n`);
        const answer = await client.rest();
        assert.ok(answer.startsWith(`HTTP/1.${minor} 400 `), `${way}: ${request}: ${answer}`);
      };
      for (const target of ['/origin-form', '/', 'http://test/bar', 'http://test', '*']) {
        await refused(`CONNECT ${target} HTTP/1.1`);
      }
      await refused('GET test HTTP/1.1');
      await refused('CONNECT test:443 HTTP/1.0', 0);
    }
  });

  test('C-024 a request’s body with a length keeps it, without a transfer coding', async () => {
    for (const way of meshedWays) {
      const { client, server, head } = await stage.exchange(
        way,
        'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 5\r\n\r\nhello',
      );
      assert.equal(fieldsOf(head).get('content-length'), '5');
      assert.equal(fieldsOf(head).has('transfer-encoding'), false);
      assert.equal(await server.take('hello'), 'hello');
      server.write(OK);
      await client.take('ok');
    }
  });
  test('C-025 a chunked request stays chunked, without a length', async () => {
    for (const way of meshedWays) {
      const { client, server, head } = await stage.exchange(
        way,
        'POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
      );
      assert.equal(fieldsOf(head).get('transfer-encoding'), 'chunked');
      assert.equal(fieldsOf(head).has('content-length'), false);
      assert.equal(await server.take('0\r\n\r\n'), '5\r\nhello\r\n0\r\n\r\n');
      server.write(OK);
      await client.take('ok');
    }
  });
  test('C-026 requests without a body get no framing', async () => {
    for (const way of meshedWays) {
      for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'HEAD', 'PATCH']) {
        const { client, server, head } = await stage.exchange(way, `${method} / HTTP/1.1\r\nHost: @\r\n\r\n`);
        const request = fieldsOf(head);
        assert.equal(
          request.has('content-length') || request.has('transfer-encoding'),
          false,
          `${way} ${method}`,
        );
        server.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
        await client.head();
      }
    }
  });
  test('C-027 a length of zero survives in both directions', async () => {
    for (const way of meshedWays) {
      const { client, server, head } = await stage.exchange(
        way,
        'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 0\r\n\r\n',
      );
      assert.equal(fieldsOf(head).get('content-length'), '0', way);
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
      assert.equal(fieldsOf(await client.head()).get('content-length'), '0', way);
    }
  });
  test('C-028 responses without a body get no transfer coding', async () => {
    for (const way of meshedWays) {
      for (const [method, answer] of [
        ['HEAD', '200 OK\r\nX: y'],
        ['GET', '204 No Content\r\nX: y'],
        ['GET', '304 Not Modified\r\nX: y'],
        ['GET', '200 OK\r\nContent-Length: 0'],
      ]) {
        const { client, server } = await stage.exchange(way, `${method} / HTTP/1.1\r\nHost: @\r\n\r\n`);
        server.write(`HTTP/1.1 ${answer}\r\n\r\n`);
        assert.equal(fieldsOf(await client.head()).has('transfer-encoding'), false, `${way} ${answer}`);
      }
    }
  });
  test('C-029 the answer to HEAD keeps its length', async () => {
    for (const way of meshedWays) {
      const { client, server } = await stage.exchange(way, 'HEAD / HTTP/1.1\r\nHost: @\r\n\r\n');
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 55\r\n\r\n');
      assert.equal(fieldsOf(await client.head()).get('content-length'), '55');
      // The next answer stands right behind it: there was no body.
      client.write(`GET /next HTTP/1.1\r\nHost: next-${way}\r\nConnection: close\r\n\r\n`);
      const next = await stage.appOf(way).accept();
      await next.head();
      next.write(OK);
      assert.match(await client.rest(), /^HTTP\/1\.1 200 OK\r\n/);
    }
  });
  test('C-030 a response that ends with its connection arrives whole', async () => {
    for (const way of meshedWays) {
      for (const minor of [0, 1]) {
        const { client, server } = await stage.exchange(way, `GET / HTTP/1.${minor}\r\nHost: @\r\n\r\n`);
        server.write('HTTP/1.0 200 OK\r\n\r\nbody till eof');
        server.socket.end();
        if (minor === 0) {
          const answer = await client.rest();
          assert.match(answer, /\r\n\r\nbody till eof$/, way);
          assert.equal(/transfer-encoding|content-length/i.test(answer), false, way);
        } else {
          const answer = await client.take('0\r\n\r\n');
          assert.match(
            answer,
            /transfer-encoding: chunked[^]*\r\n\r\nd\r\nbody till eof\r\n0\r\n\r\n$/i,
            way,
          );
        }
      }
    }
  });
  test('C-031 an application that does not listen: 502 at the client', async () => {
    const client = await stage.dial('late');
    client.write('GET / HTTP/1.1\r\nHost: late\r\n\r\n');
    assert.equal(statusOf(await client.head()), 502);
  });
  test('C-032 one connection for a host, another for another', async () => {
    const client = await stage.client('in');
    const ask = async (host: string): Promise<void> => {
      client.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
      const asked = (): RawPeer | undefined =>
        stage.app.connections.find((one) => !one.closed && one.received.includes(`Host: ${host}\r\n`));
      const server = await until(asked, `the request for ${host}`);
      await server.head();
      server.write(OK);
      await client.take('ok');
    };
    const opened = (): number => stage.app.connections.length;
    const start = opened();
    for (const [host, connections] of [
      ['foo.bar', 1],
      ['foo.bar', 1],
      ['bar.baz', 2],
      ['foo.bar', 2],
      ['quuuux.com', 3],
    ] as const) {
      await ask(host);
      assert.equal(opened() - start, connections, host);
    }
  });
  test('C-033 requests without a host have connections of their own', async () => {
    const start = stage.app.connections.length;
    for (const host of ['', 'Host: \r\n', '', 'Host: \r\n']) {
      const client = await stage.client('in');
      client.write(`GET / HTTP/1.1\r\n${host}\r\n`);
      const server = await stage.app.accept();
      await server.head();
      server.write(OK);
      await client.take('ok');
    }
    assert.equal(stage.app.connections.length - start, 4);
    const { client, server, host } = await stage.exchange('in', 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
    server.write(OK);
    await client.take('ok');
    const again = await stage.client('in');
    again.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    await server.head();
    assert.equal(stage.app.connections.length - start, 5);
    server.write(OK);
    await again.take('ok');
  });
  test('C-185 an unmeshed HTTP/1 client: 200', async () => helloWorld('in'));
  test('C-186 what came over HTTP/2 is HTTP/1.1 in origin form at the application', async () => {
    const { client, server, head } = await stage.exchange('both', 'GET /a HTTP/1.1\r\nHost: @\r\n\r\n');
    assert.match(head, /^GET \/a HTTP\/1\.1\r\n/);
    server.write(OK);
    await client.take('ok');
  });
  test('C-187 and in absolute form if it was', async () => {
    const { client, server, head } = await stage.exchange(
      'both',
      'GET http://@/a HTTP/1.1\r\nHost: @\r\n\r\n',
    );
    assert.match(head, /^GET http:\/\/host-\d+\.test\/a HTTP\/1\.1\r\n/);
    server.write(OK);
    await client.take('ok');
  });
  test('C-239 HTTP/1.1 to an unmeshed endpoint is forwarded', async () => helloWorld('out'));
});
