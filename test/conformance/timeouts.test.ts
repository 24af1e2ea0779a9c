// SPDX-License-Identifier: Apache-2.0
// The time limits that a service sets for its clients' requests: as a whole, for the response, between its parts.

import { strict as assert } from 'node:assert';
import { constants } from 'node:http2';
import { after, before, beforeEach, describe } from 'node:test';
import type { RawPeer } from '../../agent/proxy/exchange/raw-peers.ts';
import type { RequestTimeouts } from '#lib/core/request-policy.ts';
import type { Endpoint } from '../../agent/proxy/model.ts';
import { endpoint, pause } from '../proxy/harness.ts';
import { answerOf, fetch2, type Http2Application, http2At, serveHttp2 } from '../proxy/http2-peers.ts';
import { HTTP2_PORT, PEER, SERVER } from '../proxy/scene.ts';
import { APP_PORT, createStage, fieldsOf, meshedEndpoint, type Stage, statusOf, test } from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
/** Plain HTTP/1.1 to the endpoint, and over HTTP/2 between agents. */
const ways = [
  ['out', endpoint(PEER, APP_PORT)],
  ['both', meshedEndpoint(APP_PORT)],
] as const;

describe('time limits', () => {
  let stage: Stage;
  let services = 0;
  before(async () => {
    stage = await createStage();
  });
  beforeEach(() => stage.fresh());
  after(async () => stage.close());

  const lead = (timeouts: RequestTimeouts, to: Endpoint): void => {
    const service = stage.service(`timed-${services++}`, [to]);
    assert.ok(service.kind === 'service');
    stage.lead('other', { ...service, timeouts });
  };
  /** A request by a client pod, at the application. */
  const exchange = async (
    way: 'out' | 'both',
    request = 'GET / HTTP/1.1\r\nHost: @\r\n\r\n',
  ): Promise<{ client: RawPeer; server: RawPeer; host: string }> => {
    const client = await stage.dial('other');
    const host = `timed-${services++}.test`;
    client.write(request.replace('@', host));
    const server = await stage.appOf(way).accept();
    await server.head();
    return { client, server, host };
  };
  const timedOut = async (client: RawPeer): Promise<string> => {
    const answer = await client.head();
    assert.equal(statusOf(answer), 504);
    assert.equal(fieldsOf(answer).get('l5d-proxy-error'), 'timed out waiting for the response');
    assert.equal(fieldsOf(answer).get('content-length'), '0');
    return answer;
  };

  test('C-265 and C-443 the limit of a request ends it before its response: 504, and the client’s connection stays', async () => {
    for (const [way, to] of ways) {
      lead({ requestMs: 300 }, to);
      const { client, server, host } = await exchange(way);
      assert.equal(fieldsOf(await timedOut(client)).has('connection'), false, way);
      await server.close();
      client.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
      const next = await stage.appOf(way).accept();
      await next.head();
      next.write(OK);
      assert.equal(statusOf(await client.take('ok')), 200);
      await client.close();
    }
  });
  test('C-266 the limit of a request holds while its own body comes', async () => {
    for (const [way, to] of ways) {
      lead({ requestMs: 300 }, to);
      const { client } = await exchange(way, 'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 100\r\n\r\npart');
      const answer = await timedOut(client);
      assert.equal(fieldsOf(answer).get('connection'), 'close', 'the rest of the body is not wanted');
      await client.close();
    }
  });
  test('C-267 the limit of a request in the response’s body: an error at the client', async () => {
    for (const [way, to] of ways) {
      lead({ requestMs: 300 }, to);
      const { client, server } = await exchange(way);
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf');
      await client.take('half');
      assert.equal(await client.gone(), 'RST', way);
    }
  });
  test('C-268 the limit of a response, before its head: 504', async () => {
    for (const [way, to] of ways) {
      lead({ responseMs: 300 }, to);
      const { client } = await exchange(way);
      await timedOut(client);
      await client.close();
    }
  });
  test('C-269 the limit of a response, in its body: an error at the client', async () => {
    for (const [way, to] of ways) {
      lead({ responseMs: 400 }, to);
      const { client, server } = await exchange(way);
      server.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n');
      await client.take('half');
      assert.equal(await client.gone(), 'RST', way);
      assert.equal(client.received.includes('0\r\n\r\n'), false);
    }
  });
  test('C-270 a slow upload is not the response’s time', async () => {
    for (const [way, to] of ways) {
      lead({ responseMs: 400 }, to);
      const { client, server } = await exchange(
        way,
        'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 6\r\n\r\n',
      );
      for (const piece of ['aa', 'bb', 'cc']) {
        await pause(300);
        client.write(piece);
      }
      await server.take('aabbcc');
      server.write(OK);
      assert.equal(statusOf(await client.take('ok')), 200, way);
      await client.close();
    }
  });
  test('C-271 a body in which nothing moves: an error at the client; one that moves may take its time', async () => {
    for (const [way, to] of ways) {
      lead({ idleMs: 500 }, to);
      const { client, server } = await exchange(way);
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n');
      for (const piece of ['aa', 'bb', 'cc']) {
        await pause(300);
        server.write(piece);
        await client.take(piece);
      }
      assert.equal(await client.gone(), 'RST', way);
    }
  });
  test('what is in time is left alone, and an upgraded connection too', async () => {
    lead({ requestMs: 300, responseMs: 300, idleMs: 300 }, ways[0][1]);
    const { client, server } = await exchange('out');
    server.write(OK);
    await client.take('ok');
    await client.close();
    const tunnel = await exchange(
      'out',
      'GET / HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n',
    );
    tunnel.server.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n');
    await tunnel.client.head();
    await pause(700);
    tunnel.client.write('late\n');
    assert.equal(await tunnel.server.take('\n'), 'late\n');
  });
  test('C-286 an error in the middle of a gRPC body becomes trailers; bodies and trailers that end well are untouched', async () => {
    const application: Http2Application = await serveHttp2(
      stage.scene.serverNs,
      SERVER,
      HTTP2_PORT,
      (stream, headers) => {
        const path = headers[':path'];
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', own: 'x' }));
        if (path === '/a.B/Empty') stream.end();
        else if (path === '/a.B/Whole') stream.end('whole');
        else if (path === '/a.B/Part') stream.write('part');
      },
    );
    lead({ idleMs: 300 }, meshedEndpoint(HTTP2_PORT));
    const { host, port } = stage.address('other');
    const session = http2At(host, port);
    const call = async (method: string): ReturnType<typeof fetch2> =>
      fetch2(session, {
        ':method': 'POST',
        ':path': `/a.B/${method}`,
        'content-type': 'application/grpc',
      });
    try {
      for (const [method, text] of [
        ['Empty', ''],
        ['Whole', 'whole'],
      ] as const) {
        const answer = await call(method);
        assert.equal(answer.text, text);
        assert.equal(answer.trailers['grpc-status'], '0');
        assert.equal(answer.trailers['own'], 'x');
      }
      for (const [method, text] of [
        ['Part', 'part'],
        ['Nothing', ''],
      ] as const) {
        const answer = await call(method);
        assert.equal(answer.headers[':status'], 200);
        assert.equal(answer.text, text);
        assert.equal(answer.trailers['grpc-status'], '4');
        assert.equal(answer.trailers['grpc-message'], 'timed out waiting for the response');
        assert.equal(answer.reset, constants.NGHTTP2_NO_ERROR);
      }
    } finally {
      session.destroy();
      application.close();
    }
  });
  test('HTTP/2: a response that does not come is 504, in gRPC a status; one that stops is a reset', async () => {
    const application: Http2Application = await serveHttp2(
      stage.scene.serverNs,
      SERVER,
      HTTP2_PORT,
      (stream, headers) => {
        if (headers[':path'] === '/half') {
          stream.respond({ ':status': 200 });
          stream.write('half');
        }
      },
    );
    lead({ requestMs: 300 }, meshedEndpoint(HTTP2_PORT));
    const { host, port } = stage.address('other');
    const session = http2At(host, port);
    try {
      assert.equal((await fetch2(session, { ':path': '/never' })).headers[':status'], 504);
      const grpc = await fetch2(session, {
        ':method': 'POST',
        ':path': '/a.B/C',
        'content-type': 'application/grpc',
      });
      assert.equal(grpc.headers['grpc-status'], '4');
      const half = await answerOf(session.request({ ':path': '/half' }));
      assert.equal(half.text, 'half');
      assert.notEqual(half.reset, constants.NGHTTP2_NO_ERROR);
    } finally {
      session.destroy();
      application.close();
    }
  });
});
