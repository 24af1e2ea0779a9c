// SPDX-License-Identifier: Apache-2.0
// One exchange that is both sides': what the application and the client see, and what either side counts, must be what
// a connection between two proxies would have made of it.

import assert from 'node:assert/strict';
import {
  connect as connectHttp2,
  createServer as createHttp2Server,
  type Http2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import {
  FAILURE_BAD_REQUEST,
  FAILURE_CLIENT_GONE,
  FAILURE_CONNECT_REFUSED,
  FAILURE_CONNECT_TIMEOUT,
  FAILURE_NONE,
  FAILURE_POLICY,
  FAILURE_UPSTREAM_RESET,
} from '../failure.ts';
import { defineField } from '#lib/http2/hpack/field.ts';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from './loopback.ts';
import { type RawPeer, RawServer, rawClient, until } from './raw-peers.ts';
import { createHttpServer } from './server.ts';
import type {
  HttpTarget,
  LoggedRequest,
  Passage,
  Passenger,
  RequestGate,
  RequestLog,
  RequestObserver,
} from './types.ts';

const timeout = { timeout: 20_000 };
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const GET = 'GET /a?b HTTP/1.1\r\nHost: shop\r\n\r\n';
const DENIED = 'HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n';

/** A passage that opens when it is told to. */
class OpenPassage implements Passage {
  open = true;
  readonly clientIdField = defineField('l5d-client-id', 'web');
  readonly judged: string[] = [];
  verdict = FAILURE_NONE;
  /** The server's access log. */
  readonly lines: string[] = [];
  readonly log: RequestLog = {
    http1: (head, buffer) => this.#note(buffer.toString('latin1', head.targetStart, head.targetEnd)),
    http2: (list) => this.#note(list.pathField?.value ?? ''),
  };
  readonly application: LoopbackEndpoint;
  readonly passengers = new Set<Passenger>();
  readonly waiting: ((failure: number) => void)[] = [];
  readonly gate: RequestGate = {
    clientId: 'web',
    judge: (method, path, upgrade) => {
      this.judged.push(`${method} ${path}${upgrade ? ' upgrade' : ''}`);
      return this.verdict;
    },
  };

  constructor(application: LoopbackEndpoint) {
    this.application = application;
  }

  readonly observer: RequestObserver = { http1: () => null, http2: () => null };

  #note(target: string): LoggedRequest {
    return { waits: () => undefined, answered: (status) => this.lines.push(`${target} ${status}`) };
  }

  whenOpen(done: (failure: number) => void): void {
    this.waiting.push(done);
  }

  prepare(): void {
    this.waiting.push(() => undefined);
  }

  answer(failure: number): void {
    this.open = failure === FAILURE_NONE;
    for (const done of this.waiting.splice(0)) done(failure);
  }

  enter(passenger: Passenger): void {
    this.passengers.add(passenger);
  }

  leave(passenger: Passenger): void {
    this.passengers.delete(passenger);
  }
}

interface Scene {
  readonly upstream: RawServer;
  readonly passage: OpenPassage;
  readonly outer: RecordedMetrics;
  readonly inner: RecordedMetrics;
  readonly proxyPort: number;
  readonly client: () => Promise<RawPeer>;
  readonly exchange: (request: string) => Promise<{ client: RawPeer; server: RawPeer; head: string }>;
}

interface SceneOptions {
  readonly port?: number;
  readonly http2?: boolean;
  readonly target?: (endpoint: LoopbackEndpoint) => HttpTarget;
}

async function scene(t: TestContext, options: SceneOptions = {}): Promise<Scene> {
  const upstream = await RawServer.listen();
  const [outer, inner] = [new RecordedMetrics(), new RecordedMetrics()];
  const application = new LoopbackEndpoint(options.port ?? upstream.port, inner, true);
  const passage = new OpenPassage(application);
  // Nothing listens where the endpoint itself would be dialled; between agents it would be HTTP/2.
  const endpoint = new LoopbackEndpoint(1, outer, true, true);
  endpoint.passage = passage;
  const target = options.target?.(endpoint) ?? fixedTarget([endpoint]);
  const proxy = await listenLoopback(createHttpServer(), target, null, true, options.http2);
  const clients: RawPeer[] = [];
  t.after(async () => {
    await Promise.all(clients.map((peer) => peer.close()));
    await proxy.close();
    await upstream.close();
    assert.equal(passage.passengers.size, 0, 'everybody has left the passage');
  });
  const client = async (): Promise<RawPeer> => {
    const peer = await rawClient(proxy.port);
    clients.push(peer);
    return peer;
  };
  return {
    upstream,
    passage,
    outer,
    inner,
    proxyPort: proxy.port,
    client,
    exchange: async (request) => {
      const peer = await client();
      peer.write(request);
      const server = await upstream.accept();
      return { client: peer, server, head: await server.head() };
    },
  };
}

test(
  'the application gets the request with the identity of its client, in the place of one that came',
  timeout,
  async (t) => {
    const { exchange, passage, outer, inner } = await scene(t);
    const { client, server, head } = await exchange(
      'GET /a?b HTTP/1.1\r\nHost: shop\r\nL5D-Client-Id: forged\r\nX: 1\r\nl5d-client-id: forged too\r\nConnection: y\r\nY: 2\r\n\r\n',
    );
    assert.equal(head, 'GET /a?b HTTP/1.1\r\nHost: shop\r\nX: 1\r\nl5d-client-id: web\r\n\r\n');
    assert.deepEqual(passage.judged, ['GET /a']);
    assert.equal(passage.passengers.size, 1);
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nl5d-proxy-error: x\r\n\r\nok');
    assert.equal(await client.take('ok'), OK);
    assert.equal(passage.passengers.size, 0);
    for (const { started, firstBodies, ended } of [outer, inner]) {
      assert.equal(started, 1);
      assert.deepEqual(firstBodies, [200]);
      assert.deepEqual(ended, [{ status: 200, failure: FAILURE_NONE }]);
    }
    // The next one takes the application's connection again, the body comes along, and each is judged.
    client.write('POST /b HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nabc');
    assert.equal(
      await server.take('abc'),
      'POST /b HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\nl5d-client-id: web\r\n\r\nabc',
    );
    assert.deepEqual(passage.judged, ['GET /a', 'POST /b']);
    server.write(OK);
    await client.take('ok');
    assert.deepEqual(passage.lines, ['/a?b 200', '/b 200']);
  },
);

test(
  "what the server's policy denies is answered as by its own proxy, and the connection goes on",
  timeout,
  async (t) => {
    const { client, passage, outer, inner, upstream } = await scene(t);
    passage.verdict = FAILURE_POLICY;
    const peer = await client();
    peer.write(GET + GET);
    assert.equal(await peer.head(), DENIED);
    assert.equal(await peer.head(), DENIED);
    // An answer of the endpoint for the client's side; nothing for the application's.
    assert.deepEqual(
      outer.ended,
      Array.from({ length: 2 }, () => ({ status: 403, failure: FAILURE_NONE })),
    );
    assert.equal(inner.started, 0);
    assert.deepEqual(passage.lines, ['/a?b 403', '/a?b 403']);
    assert.equal(upstream.connections.length, 0);
    assert.equal(passage.passengers.size, 0);
    passage.verdict = FAILURE_NONE;
    peer.write(GET);
    const server = await upstream.accept();
    await server.head();
    server.write(OK);
    assert.equal(await peer.take('ok'), OK);
  },
);

test(
  'a denied request with a body that is still coming ends the connection, and none of it is a request',
  timeout,
  async (t) => {
    const { client, passage } = await scene(t);
    passage.verdict = FAILURE_POLICY;
    const peer = await client();
    peer.write('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000\r\n\r\n');
    assert.match(await peer.head(), /^HTTP\/1\.1 403 .*connection: close/s);
    peer.write(GET);
    assert.equal(await peer.rest(), '');
    assert.deepEqual(passage.judged, ['POST /']);
  },
);

test(
  'an application that refuses connections: both sides count a 502, and the client keeps its connection',
  timeout,
  async (t) => {
    const { client, passage, outer, inner, upstream } = await scene(t);
    await upstream.close();
    const peer = await client();
    peer.write(GET);
    assert.equal(await peer.head(), 'HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n');
    assert.deepEqual(outer.ended, [{ status: 502, failure: FAILURE_NONE }]);
    assert.deepEqual(inner.ended, [{ status: 502, failure: FAILURE_CONNECT_REFUSED }]);
    assert.equal(passage.passengers.size, 0);
  },
);

test(
  'an application that dies in its answer: the client sees a reset, both sides count a failure',
  timeout,
  async (t) => {
    const { exchange, outer, inner } = await scene(t);
    const { client, server } = await exchange(GET);
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf');
    await client.take('half');
    server.socket.destroy();
    assert.equal(await client.gone(), 'RST');
    for (const { ended } of [outer, inner]) {
      assert.deepEqual(ended, [{ status: 200, failure: FAILURE_UPSTREAM_RESET }]);
    }
  },
);

test('a client that leaves, or sends rubbish, has left the passage too', timeout, async (t) => {
  const { exchange, outer, inner, passage } = await scene(t);
  const first = await exchange(GET);
  first.client.socket.destroy();
  await first.server.rest();
  const post = 'POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n';
  const second = await exchange(`${post}1\r\na\r\n`);
  second.client.write('rubbish\r\n');
  assert.match(await second.client.head(), /^HTTP\/1\.1 400 /);
  assert.deepEqual(outer.ended, [
    { status: 0, failure: FAILURE_CLIENT_GONE },
    { status: 400, failure: FAILURE_BAD_REQUEST },
  ]);
  // The server's side would have seen its client go.
  assert.deepEqual(
    inner.ended,
    Array.from({ length: 2 }, () => ({ status: 0, failure: FAILURE_CLIENT_GONE })),
  );
  assert.equal(passage.passengers.size, 0);
});

test('requests wait until the passage opens, with what comes meanwhile', timeout, async (t) => {
  const { client, passage, upstream } = await scene(t);
  passage.open = false;
  const peer = await client();
  peer.write('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 6\r\n\r\nabc');
  await until(() => passage.waiting.length === 1);
  peer.write(`def${GET}`);
  passage.answer(FAILURE_NONE);
  const server = await upstream.accept();
  assert.match(await server.take('abcdef'), /^POST .*l5d-client-id: web\r\n\r\nabcdef$/s);
  server.write(OK);
  await peer.take('ok');
  assert.match(await server.head(), /^GET \/a\?b /);
  server.write(OK);
  await peer.take('ok');
});

test(
  "a passage that does not open is the client's side's failure; who left meanwhile waits no more",
  timeout,
  async (t) => {
    const { client, passage, outer, inner } = await scene(t);
    passage.open = false;
    const gone = await client();
    gone.write(GET);
    await until(() => passage.waiting.length === 1);
    gone.socket.destroy();
    await until(() => outer.ended.length === 1);
    const peer = await client();
    peer.write(GET);
    await until(() => passage.waiting.length === 2);
    passage.answer(FAILURE_CONNECT_TIMEOUT);
    assert.equal(
      await peer.head(),
      'HTTP/1.1 504 Gateway Timeout\r\nl5d-proxy-error: connect timed out\r\ncontent-length: 0\r\nconnection: close\r\n\r\n',
    );
    assert.deepEqual(outer.ended, [
      { status: 0, failure: FAILURE_CLIENT_GONE },
      { status: 504, failure: FAILURE_CONNECT_TIMEOUT },
    ]);
    assert.equal(inner.started, 0);
    assert.deepEqual(passage.lines, [], 'the server never saw them');
    assert.equal(passage.passengers.size, 0);
  },
);

/** What an HTTP/2 application got of a request, and answers it with. */
async function mirror(t: TestContext): Promise<number> {
  const server = createHttp2Server();
  const sessions = new Set<Http2Session>();
  server.on('session', (session) => sessions.add(session));
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    let body = '';
    stream.on('data', (chunk: Buffer) => {
      body += chunk.toString();
    });
    stream.on('end', () => {
      const { ':path': path, 'l5d-client-id': id, 'x-set': set } = headers;
      stream.respond({ ':status': 200 });
      stream.end(`${String(path)} ${String(id)} ${String(set)} ${body}!`);
    });
  });
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  t.after(() => {
    for (const session of sessions) session.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

test(
  'a passage that does not open: another endpoint gets the request, whole and without what was meant for this one',
  timeout,
  async (t) => {
    const port = await mirror(t);
    const plain = await RawServer.listen();
    t.after(() => plain.close());
    const counts = new RecordedMetrics();
    const others = {
      http2: new LoopbackEndpoint(port, counts, true, true),
      http1: new LoopbackEndpoint(plain.port, counts, true),
    } as const;
    const changes = [{ add: [], set: [['x-set', 'yes']], remove: [] }] as const;
    for (const [other, changed] of [
      ['http2', false],
      ['http1', false],
      ['http2', true],
      ['http1', true],
    ] as const) {
      const endpoints: LoopbackEndpoint[] = [];
      const { client, passage, outer } = await scene(t, {
        target: (endpoint) => {
          endpoints.push(endpoint);
          const target = fixedTarget(endpoints);
          const route = { target, answer: null, requestChanges: changes, responseChanges: [] };
          return changed ? { ...target, router: { route: () => route } } : target;
        },
      });
      passage.open = false;
      const peer = await client();
      const set = changed ? 'yes' : 'undefined';
      for (const [head, body] of [
        ['Content-Length: 6\r\n\r\nabc', 'def'],
        ['Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n', '3\r\ndef\r\n0\r\n\r\n'],
      ] as const) {
        endpoints.length = 1;
        peer.write(`POST /moved HTTP/1.1\r\nHost: shop\r\n${head}`);
        await until(() => passage.waiting.length === 1);
        peer.write(body);
        endpoints.push(others[other]);
        passage.answer(FAILURE_CONNECT_TIMEOUT);
        if (other === 'http1') {
          const server = plain.connections.at(-1) ?? (await plain.accept());
          const got = await server.head();
          assert.ok(!/l5d-client-id/i.test(got), got);
          assert.equal(/x-set: yes/.test(got), changed);
          if (head.startsWith('C')) await server.take('abcdef');
          else
            assert.match(
              await server.take('0\r\n\r\n'),
              /^3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n$|^6\r\nabcdef\r\n0\r\n\r\n$/,
            );
          server.write(OK);
          assert.equal(await peer.take('ok'), OK);
        } else {
          assert.match(await peer.take('!'), new RegExp(`/moved undefined ${set} abcdef!$`));
          await peer.take('0\r\n\r\n');
        }
        assert.equal(passage.passengers.size, 0);
        assert.deepEqual(passage.lines, []);
      }
      // It got nothing: nothing is counted as its answer.
      assert.deepEqual([outer.started, outer.returned, outer.ended.length], [2, 2, 0]);
    }
    assert.equal(counts.ended.filter(({ status }) => status === 200).length, 8);
  },
);

test('so does a request of HTTP/2', timeout, async (t) => {
  const port = await mirror(t);
  const counts = new RecordedMetrics();
  const endpoints: LoopbackEndpoint[] = [];
  const { proxyPort, passage } = await scene(t, {
    http2: true,
    target: (endpoint) => {
      endpoints.push(endpoint);
      return fixedTarget(endpoints);
    },
  });
  passage.open = false;
  const session = connectHttp2(`http://127.0.0.1:${proxyPort}`);
  t.after(() => session.destroy());
  const stream = session.request({ ':path': '/moved', ':method': 'POST', 'l5d-client-id': 'forged' });
  let text = '';
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  const closed = new Promise((resolve) => stream.once('close', resolve));
  stream.write('abc');
  await until(() => passage.waiting.length === 1);
  stream.end('def');
  endpoints.push(new LoopbackEndpoint(port, counts, true, true));
  passage.answer(FAILURE_CONNECT_TIMEOUT);
  await closed;
  assert.equal(text, '/moved undefined undefined abcdef!');
  assert.deepEqual(passage.lines, []);
});

test(
  'a request that waited for an endpoint at all is made ready for the passage then',
  timeout,
  async (t) => {
    const waits: ((failure: number) => void)[] = [];
    const endpoints: LoopbackEndpoint[] = [];
    const { client, upstream } = await scene(t, {
      target: (endpoint) => ({
        authority: 'test:80',
        endpoints,
        failfast: false,
        whenAvailable: (done) => {
          waits.push((failure) => {
            endpoints.push(endpoint);
            done(failure);
          });
        },
      }),
    });
    const peer = await client();
    peer.write('POST /late HTTP/1.1\r\nHost: shop\r\nl5d-client-id: forged\r\nContent-Length: 3\r\n\r\nabc');
    await until(() => waits.length === 1);
    waits[0]?.(FAILURE_NONE);
    const server = await upstream.accept();
    assert.equal(
      await server.take('abc'),
      'POST /late HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\nl5d-client-id: web\r\n\r\nabc',
    );
    server.write(OK);
    await peer.take('ok');
  },
);

test(
  'while a passage is not open, endpoints with a connection get the requests, and it is opened for those to come',
  timeout,
  async (t) => {
    const other = await RawServer.listen();
    t.after(() => other.close());
    const counts = new RecordedMetrics();
    const { client, passage } = await scene(t, {
      target: (endpoint) => {
        // Not over HTTP/2, so that it needs no connection before.
        const near = new LoopbackEndpoint(other.port, counts, true);
        return fixedTarget([endpoint, near]);
      },
    });
    passage.open = false;
    const peer = await client();
    const answer = async (server: RawServer): Promise<void> => {
      const end = server.connections.at(-1) ?? (await server.accept());
      await end.head();
      end.write(OK);
      await peer.take('ok');
    };
    for (let index = 0; index < 10; index++) {
      peer.write(GET);
      await answer(other);
    }
    assert.equal(counts.started, 10);
    assert.ok(passage.waiting.length > 0);
    passage.answer(FAILURE_NONE);
  },
);

test(
  'a passage that closes cuts what is in it: before the answer, in the middle of it, and tunnels',
  timeout,
  async (t) => {
    const { exchange, passage, outer, inner } = await scene(t);
    const cut = (): void => {
      for (const passenger of passage.passengers) passenger.cut();
    };
    const waits = await exchange(GET);
    cut();
    assert.match(await waits.client.head(), /^HTTP\/1\.1 502 .*l5d-proxy-error: connection closed before/s);
    await waits.server.rest();

    const half = await exchange(GET);
    half.server.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf');
    await half.client.take('half');
    cut();
    assert.equal(await half.client.gone(), 'RST');
    await half.server.rest();
    assert.deepEqual(outer.ended, [
      { status: 502, failure: FAILURE_UPSTREAM_RESET },
      { status: 200, failure: FAILURE_UPSTREAM_RESET },
    ]);
    assert.deepEqual(inner.ended, [
      { status: 0, failure: FAILURE_CLIENT_GONE },
      { status: 200, failure: FAILURE_CLIENT_GONE },
    ]);

    const upgrade = 'GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n';
    const tunnel = await exchange(upgrade);
    assert.equal(passage.judged.at(-1), 'GET /ws upgrade');
    tunnel.server.write('HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello');
    await tunnel.client.take('hello');
    tunnel.client.write('up');
    await tunnel.server.take('up');
    assert.equal(passage.passengers.size, 1, 'a tunnel is in the passage as long as it lasts');
    cut();
    assert.equal(await tunnel.client.gone(), 'RST');
    assert.equal(await tunnel.server.gone(), 'RST');
    assert.equal(passage.passengers.size, 0);

    const ends = await exchange(upgrade);
    ends.server.write('HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n');
    await ends.client.head();
    ends.client.socket.end();
    assert.equal(await ends.server.rest(), '');
    ends.server.socket.end();
    await until(() => passage.passengers.size === 0);
  },
);

test("what a route sets never stands in the place of the client's identity", timeout, async (t) => {
  const changes = {
    add: [['x-b', 'added']],
    set: [
      ['l5d-client-id', 'forged'],
      ['x-a', 'set'],
    ],
    remove: [],
  } as const;
  for (const late of [false, true]) {
    const endpoints: LoopbackEndpoint[] = [];
    const waits: ((failure: number) => void)[] = [];
    const { client, upstream } = await scene(t, {
      target: (endpoint) => {
        if (!late) endpoints.push(endpoint);
        const target: HttpTarget = {
          authority: 'test:80',
          endpoints,
          failfast: false,
          whenAvailable: (done) => {
            waits.push((failure) => {
              endpoints.push(endpoint);
              done(failure);
            });
          },
        };
        const route = { target, answer: null, requestChanges: [changes], responseChanges: [] };
        return { ...target, router: { route: () => route } };
      },
    });
    const peer = await client();
    peer.write('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nab');
    if (late) {
      await until(() => waits.length === 1);
      waits[0]?.(FAILURE_NONE);
    }
    const server = await upstream.accept();
    const request = await server.take('\r\n\r\nab');
    assert.match(request, /x-a: set\r\n/);
    assert.match(request, /x-b: added\r\n/);
    assert.deepEqual(request.match(/l5d-client-id: .*(?=\r)/g), ['l5d-client-id: web']);
    server.write(OK);
    await peer.take('ok');
  }
});

test(
  'HTTP/2 stays HTTP/2: identity, policy in the form that gRPC reads, resets, cuts',
  timeout,
  async (t) => {
    const server = createHttp2Server();
    server.listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const sessions = new Set<Http2Session>();
    server.on('session', (session) => sessions.add(session));
    const seen: Record<string, unknown>[] = [];
    server.on('stream', (stream: ServerHttp2Stream, headers) => {
      stream.on('error', () => undefined);
      seen.push(headers);
      if (headers[':path'] === '/reset') stream.close(8);
      else if (headers[':path'] === '/open') stream.respond({ ':status': 200 });
      else {
        stream.respond({ ':status': 200 });
        stream.end('ok');
      }
    });
    const { proxyPort, passage, outer, inner } = await scene(t, {
      port: (server.address() as AddressInfo).port,
      http2: true,
    });
    const session = connectHttp2(`http://127.0.0.1:${proxyPort}`);
    t.after(async () => {
      session.destroy();
      for (const one of sessions) one.destroy();
      await new Promise((resolve) => server.close(resolve));
    });
    interface Answer {
      readonly headers: Record<string, unknown>;
      readonly text: string;
      readonly code: number | undefined;
    }
    const ask = async (headers: Record<string, string>, onHead?: () => void): Promise<Answer> =>
      new Promise((resolve) => {
        const stream = session.request(headers);
        let head: Record<string, unknown> = {};
        let text = '';
        stream.on('response', (got) => {
          head = got;
          onHead?.();
        });
        stream.on('data', (chunk: Buffer) => {
          text += chunk.toString();
        });
        stream.on('error', () => undefined);
        stream.on('close', () => resolve({ headers: head, text, code: stream.rstCode }));
        stream.end();
      });

    assert.equal((await ask({ ':path': '/fine?x', 'l5d-client-id': 'forged' })).text, 'ok');
    assert.equal(seen.at(-1)?.['l5d-client-id'], 'web');
    assert.deepEqual(passage.judged, ['GET /fine']);
    assert.deepEqual([outer.started, inner.started], [1, 1]);

    passage.verdict = FAILURE_POLICY;
    const denied = await ask({ ':path': '/fine' });
    assert.equal(denied.headers[':status'], 403);
    assert.equal(denied.headers['l5d-proxy-error'], undefined);
    const grpc = await ask({ ':path': '/fine', ':method': 'POST', 'content-type': 'application/grpc' });
    assert.equal(grpc.headers['grpc-status'], '7');
    assert.equal(grpc.headers['grpc-message'], 'client is not authorized');
    assert.equal(inner.started, 1);
    assert.deepEqual(outer.grpc, [7]);
    passage.verdict = FAILURE_NONE;

    assert.equal((await ask({ ':path': '/reset' })).code, 8);
    assert.deepEqual([outer.resets, inner.resets], [[8], [8]]);

    const open = await ask({ ':path': '/open' }, () => {
      assert.equal(passage.passengers.size, 1);
      for (const passenger of passage.passengers) passenger.cut();
    });
    assert.equal(open.code, 2);
    assert.deepEqual(outer.ended.at(-1), { status: 200, failure: FAILURE_UPSTREAM_RESET });
    assert.deepEqual(inner.ended.at(-1), { status: 200, failure: FAILURE_CLIENT_GONE });

    // What waits for an endpoint's passage is let in as it came.
    passage.open = false;
    const waiting = ask({ ':path': '/late' });
    await until(() => passage.waiting.length === 1);
    passage.answer(FAILURE_NONE);
    assert.equal((await waiting).text, 'ok');
    assert.equal(seen.at(-1)?.['l5d-client-id'], 'web');
    assert.deepEqual(
      passage.lines.filter((line) => !/open|reset/.test(line)),
      ['/fine?x 200', '/fine 403', '/fine 200', '/late 200'],
    );
  },
);
