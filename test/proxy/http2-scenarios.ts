// SPDX-License-Identifier: Apache-2.0
// What must hold for HTTP/2 that applications speak by prior knowledge, whatever is between the two sides: it stays
// HTTP/2 all the way, with everything that an exchange can be. One scene a process, so a test file for each way.

import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import {
  type ClientHttp2Session,
  constants,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { identityOf, meshedOnly, until, untilMetric } from './harness.ts';
import { answerOf, fetch2, type Http2Application, http2To, serveHttp2 } from './http2-peers.ts';
import { createScene, dial, HTTP2_PORT, readSome, type Scene, SERVER } from './scene.ts';

const { NGHTTP2_CANCEL, NGHTTP2_INTERNAL_ERROR, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_NO_ERROR } = constants;

/** Answers what `:path` asks for; keeps what it was asked. */
class Application {
  readonly headers: IncomingHttpHeaders[] = [];
  readonly resets: number[] = [];
  /** Streams of /wait. */
  readonly waiting: ServerHttp2Stream[] = [];
  /** Bytes of bodies that were taken. */
  sent = 0;

  readonly onStream = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void => {
    this.headers.push(headers);
    stream.on('close', () => this.resets.push(stream.rstCode));
    switch (headers[':path'] ?? '') {
      case '/echo':
        stream.respond({ ':status': 200 });
        stream.pipe(stream);
        break;
      case '/trailers':
        stream.respond({ ':status': 200 }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': 'done' }));
        stream.end('body');
        break;
      case '/reset':
        stream.close(NGHTTP2_ENHANCE_YOUR_CALM);
        break;
      case '/reset-later':
        stream.respond({ ':status': 200 });
        stream.write('part');
        // Not close(): that would end the stream first.
        setImmediate(() => stream.destroy(new Error('on purpose')));
        break;
      case '/hints':
        stream.additionalHeaders({ ':status': 103, link: '</style.css>' });
        stream.respond({ ':status': 200 });
        stream.end('hinted');
        break;
      case '/early':
        stream.respond({ ':status': 413 });
        stream.end('too much');
        break;
      case '/endless':
        stream.respond({ ':status': 200 });
        this.#pour(stream);
        break;
      case '/wait':
        this.waiting.push(stream);
        break;
      case '/spoofed':
        stream.respond({
          ':status': 200,
          'l5d-proxy-error': 'no',
          'l5d-orig-proto': 'HTTP/1.0',
          'x-own': '1',
        });
        stream.end();
        break;
      default:
        stream.respond({ ':status': 200 });
        stream.end(`${headers[':method']} ${headers[':path']}`);
    }
  };

  /** Writes as long as it is let. */
  #pour(stream: ServerHttp2Stream): void {
    const chunk = Buffer.alloc(16_384, 'x');
    const go = (): void => {
      while (!stream.destroyed) {
        this.sent += chunk.length;
        if (!stream.write(chunk)) break;
      }
    };
    stream.on('drain', go);
    go();
  }
}

export function describeHttp2(title: string, sameNode?: 'memory' | 'carrier'): void {
  describe(title, () => {
    let scene: Scene;
    let server: Http2Application;
    const application = new Application();
    const sessions: ClientHttp2Session[] = [];
    const session = (): ClientHttp2Session => {
      const made = http2To('http2');
      sessions.push(made);
      return made;
    };

    before(async () => {
      scene = await createScene(sameNode === undefined ? {} : { sameNode });
      server = await serveHttp2(scene.serverNs, SERVER, HTTP2_PORT, application.onStream);
    });
    after(async () => {
      for (const one of sessions) one.destroy();
      await scene.close();
      server.close();
    });

    test('many requests of one connection arrive as HTTP/2, with the identity of the mesh', async () => {
      const client = session();
      const answers = await Promise.all(
        Array.from({ length: 50 }, async (_, index) =>
          fetch2(client, {
            ':path': `/number/${index}`,
            'l5d-client-id': 'forged',
            'l5d-orig-proto': 'HTTP/1.1',
          }),
        ),
      );
      answers.forEach(({ headers, text, reset }, index) => {
        assert.equal(headers[':status'], 200);
        assert.equal(text, `GET /number/${index}`);
        assert.equal(reset, 0);
      });
      const seen = application.headers.at(-1);
      assert.equal(seen?.['l5d-client-id'], identityOf('web'));
      assert.equal(seen?.['l5d-orig-proto'], undefined);
      assert.equal(seen?.[':authority'], 'shop:80');
      assert.equal(server.sessions.length, 1);
      await untilMetric(scene.client, /request_total\{direction="outbound",[^}]*tls="true"[^}]*\} 50/);
      await untilMetric(
        scene.server,
        /request_total\{direction="inbound",[^}]*client_id="web\.shop[^}]*\} 50/,
      );
    });

    test('a first read of a few bytes is no way round', async () => {
      for (const [name, start, rest] of [
        ['http2', 'PRI *', ` HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00`],
        ['http', 'GET /cut H', 'TTP/1.1\r\nhost: shop\r\nl5d-client-id: forged\r\nconnection: close\r\n\r\n'],
      ] as const) {
        const socket = await dial(name);
        socket.setNoDelay(true);
        socket.write(start);
        await new Promise((resolve) => setTimeout(resolve, 20));
        socket.write(Buffer.from(rest, 'latin1'));
        const said = await readSome(socket);
        // SETTINGS of a server, or a response.
        assert.ok(said.startsWith(name === 'http' ? 'HTTP/1.1 200' : '\x00\x00'), JSON.stringify(said));
        socket.destroy();
      }
      assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], identityOf('web'));
    });

    test('bodies go both ways, larger than any window', async () => {
      const body = Buffer.alloc(3_000_000, 'abcdefghij');
      const { text, headers } = await fetch2(session(), { ':path': '/echo', ':method': 'POST' }, body);
      assert.equal(headers[':status'], 200);
      assert.equal(text.length, body.length);
      assert.ok(text === body.toString('latin1'));
    });

    test('trailers and interim responses travel', async () => {
      const client = session();
      const { text, trailers } = await fetch2(client, { ':path': '/trailers' });
      assert.equal(text, 'body');
      assert.equal(trailers['x-sum'], 'done');
      const stream = client.request({ ':path': '/hints' });
      const interim = once(stream, 'headers') as Promise<[IncomingHttpHeaders]>;
      const answer = answerOf(stream);
      assert.equal((await interim)[0]['link'], '</style.css>');
      assert.equal((await answer).text, 'hinted');
    });

    test("an application's reset reaches the client with its reason, before and after the head", async () => {
      const client = session();
      const before = await fetch2(client, { ':path': '/reset' });
      assert.equal(before.reset, NGHTTP2_ENHANCE_YOUR_CALM);
      assert.deepEqual(before.headers, {});
      const later = await fetch2(client, { ':path': '/reset-later' });
      assert.equal(later.reset, NGHTTP2_INTERNAL_ERROR);
      assert.equal(later.headers[':status'], 200);
      for (const [worker, direction] of [
        [scene.client, 'outbound'],
        [scene.server, 'inbound'],
      ] as const) {
        const counted = `response_total\\{direction="${direction}",[^}]*classification="failure",error=`;
        await untilMetric(worker, new RegExp(`${counted}"h2\\(ENHANCE_YOUR_CALM\\)"`));
        await untilMetric(worker, new RegExp(`${counted}"h2\\(INTERNAL_ERROR\\)"`));
      }
      // The connection is as good as before.
      assert.equal((await fetch2(client, { ':path': '/next' })).text, 'GET /next');
    });

    test("a client's reset reaches the application", async () => {
      const stream = session().request({ ':path': '/wait' });
      const answer = answerOf(stream);
      await until(() => application.waiting.length > 0, 'the request');
      const closed = once(application.waiting.shift() as ServerHttp2Stream, 'close');
      application.resets.length = 0;
      stream.close(NGHTTP2_CANCEL);
      await closed;
      assert.deepEqual(application.resets, [NGHTTP2_CANCEL]);
      await answer;
    });

    test('an answer before the end of the request is the whole answer', async () => {
      const stream = session().request({ ':path': '/early', ':method': 'POST' }, { endStream: false });
      stream.write('the beginning');
      const { headers, text, reset } = await answerOf(stream);
      assert.equal(headers[':status'], 413);
      assert.equal(text, 'too much');
      assert.equal(reset, NGHTTP2_NO_ERROR);
    });

    test('what only proxies say is taken from answers', async () => {
      const { headers } = await fetch2(session(), { ':path': '/spoofed' });
      assert.equal(headers['x-own'], '1');
      assert.equal(headers['l5d-proxy-error'], undefined);
      assert.equal(headers['l5d-orig-proto'], undefined);
    });

    test('a client that does not read stops the application, and no other stream', async () => {
      const client = session();
      const stream = client.request({ ':path': '/endless' });
      stream.on('error', () => undefined);
      await once(stream, 'response');
      stream.pause();
      // What it has sent stands still: the windows of the way are full.
      let last = -1;
      await until(() => {
        const still = last === application.sent;
        last = application.sent;
        return still;
      }, 'the application to be stopped');
      assert.equal((await fetch2(client, { ':path': '/beside' })).text, 'GET /beside');
      assert.ok(application.sent < 1_500_000, `${application.sent} bytes are on the way`);
      stream.close(NGHTTP2_CANCEL);
    });

    test('pings are answered here', async () => {
      const client = session();
      await once(client, 'connect');
      const pong = await new Promise<Buffer>((resolve, reject) => {
        client.ping(Buffer.from('12345678'), (error, _took, payload) =>
          error === null ? resolve(payload) : reject(error),
        );
      });
      assert.equal(pong.toString(), '12345678');
    });

    test('policy answers 403 to who may not', async () => {
      scene.setPolicy({
        authorizations: [
          { ...meshedOnly, authentication: { kind: 'tls', identities: [identityOf('other')], suffixes: [] } },
        ],
      });
      try {
        const { headers } = await fetch2(session(), { ':path': '/denied' });
        assert.equal(headers[':status'], 403);
        assert.equal(headers['l5d-proxy-error'], undefined);
      } finally {
        scene.setPolicy({});
      }
    });

    test('an endpoint that goes away with GOAWAY fails no request', async () => {
      const client = session();
      assert.equal((await fetch2(client, { ':path': '/one' })).text, 'GET /one');
      const waits = fetch2(client, { ':path': '/wait' });
      await until(() => application.waiting.length > 0, 'the request');
      for (const one of server.sessions) one.goaway(NGHTTP2_NO_ERROR);
      for (let index = 0; index < 20; index++) {
        assert.equal((await fetch2(client, { ':path': '/after' })).text, 'GET /after');
      }
      const old = application.waiting.shift() as ServerHttp2Stream;
      old.respond({ ':status': 200 });
      old.end('late');
      assert.equal((await waits).text, 'late');
    });

    test('an application that dies in mid-response is an error, never an end', async () => {
      const stream = session().request({ ':path': '/endless' });
      await once(stream, 'response');
      const answer = answerOf(stream);
      for (const one of server.sessions.splice(0)) one.destroy();
      assert.equal((await answer).reset, NGHTTP2_INTERNAL_ERROR);
    });
  });
}
