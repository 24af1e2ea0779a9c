// SPDX-License-Identifier: Apache-2.0
// HTTP/2 of applications, and HTTP/1.1 that travels over HTTP/2 between agents: what each side sees, also when
// something ends. What h2spec and gRPC's own clients show is in files of their own.

import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import {
  type ClientHttp2Session,
  connect,
  constants,
  type IncomingHttpHeaders,
  performServerHandshake,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import { after, before, beforeEach, describe } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { RawPeer } from '../../agent/proxy/exchange/raw-peers.ts';
import { Decoder } from '#lib/http2/hpack/decoder.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { decodeTransportHeader, type TransportHeader } from '../../agent/proxy/tls/transport-header.ts';
import { endpoint, identityOf, until, untilMetric } from '../proxy/harness.ts';
import { answerOf, fetch2, type Http2Application, http2At, serveHttp2 } from '../proxy/http2-peers.ts';
import { ALPN, type FakePod, material, startFakePod } from '../proxy/peers.ts';
import { HTTP2_PORT, PEER, SERVER } from '../proxy/scene.ts';
import { parseMetrics, sumOf } from './metrics.ts';
import { createStage, fieldsOf, LATE_PORT, meshedEndpoint, type Stage, statusOf, test } from './stage.ts';

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
const SETTINGS = '\x00\x00\x00\x04\x00\x00\x00\x00\x00';
/** Of the payload of the frame that was received first. */
const frameBytes = ({ received }: RawPeer): number =>
  Buffer.from(received.slice(0, 3), 'latin1').readUIntBE(0, 3);
const GRPC = {
  ':method': 'POST',
  ':path': '/pkg.Service/Call',
  'content-type': 'application/grpc',
  te: 'trailers',
};

describe('HTTP/2', () => {
  let stage: Stage;
  let application: Http2Application;
  let pod: FakePod;
  let onStream: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;
  const sessions: ClientHttp2Session[] = [];
  before(async () => {
    stage = await createStage();
    const { authority, home, serverNs } = stage.scene;
    application = await serveHttp2(serverNs, SERVER, HTTP2_PORT, (stream, headers) =>
      onStream(stream, headers),
    );
    pod = await startFakePod(home, authority.anchorPem, {
      ...(await material({ authority, identity: identityOf('api') })),
      ALPNProtocols: [ALPN],
    });
  });
  beforeEach(() => {
    stage.fresh();
    stage.lead('other', stage.service('h2', [meshedEndpoint(HTTP2_PORT)]));
    stage.scene.server.worker.handle({ type: 'resume' });
    onStream = (stream) => {
      stream.respond({ ':status': 200 });
      stream.end('hello');
    };
  });
  after(async () => {
    for (const session of sessions) session.destroy();
    pod.close();
    application.close();
    await stage.close();
  });

  const own = (session: ClientHttp2Session): ClientHttp2Session => {
    sessions.push(session);
    return session;
  };
  /** Of the client pod's application. */
  const outbound = (): ClientHttp2Session => {
    const { host, port } = stage.address('other');
    return own(http2At(host, port));
  };
  const unmeshed = (port = HTTP2_PORT): ClientHttp2Session => own(http2At(SERVER, port));
  const meshed = async (port = HTTP2_PORT): Promise<ClientHttp2Session> => {
    const { socket } = await stage.meshed(port, 'http2');
    socket.removeAllListeners('data');
    const session = connect('http://shop', { createConnection: () => socket });
    session.on('error', () => undefined);
    return own(session);
  };

  test('C-035 a request without an authority gets none invented', async () => {
    // nghttp2's servers refuse such a request; this one is made of bytes.
    stage.lead('other', stage.service('bytes', [meshedEndpoint(7070)]));
    const client = await stage.dial('other');
    // Preface, SETTINGS, and HEADERS of GET http /.
    const headers = '\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x86\x84';
    client.write(`${PREFACE}${SETTINGS}${headers}`);
    const server = await stage.app.accept();
    server.write(SETTINGS);
    await server.take(PREFACE);
    const list = new HeaderList();
    for (;;) {
      await server.when(
        () => server.received.length >= 9 && server.received.length >= 9 + frameBytes(server),
      );
      const frame = Buffer.from(server.received, 'latin1');
      const end = 9 + frameBytes(server);
      server.received = server.received.slice(end);
      if (frame[3] !== 1) continue;
      assert.equal(new Decoder().decode(frame, 9, end, list), 0);
      break;
    }
    assert.equal(list.pathField?.value, '/');
    assert.equal(list.authorityField, null);
    assert.equal(list.hostField, null);
    // HEADERS of 204, the end of the stream.
    server.write('\x00\x00\x01\x01\x05\x00\x00\x00\x01\x89');
    await client.when(() => client.received.includes('\x01\x05\x00\x00\x00\x01\x89'));
  });
  test('C-036 and C-308 a reset of the server reaches the client with its reason, and is no answer', async () => {
    for (const reason of [
      constants.NGHTTP2_ENHANCE_YOUR_CALM,
      constants.NGHTTP2_INTERNAL_ERROR,
      constants.NGHTTP2_CANCEL,
    ]) {
      onStream = (stream) => stream.close(reason);
      const answer = await fetch2(outbound(), { ':path': '/reset' });
      assert.equal(answer.headers[':status'], undefined);
      assert.equal(answer.reset, reason);
    }
  });

  /** A meshed pod made of node alone: its header, and what comes over HTTP/2. */
  const peerPod = async (): Promise<{ header: TransportHeader; socket: TLSSocket; rest: Buffer }> => {
    const socket = await pod.nextConnection();
    let bytes = Buffer.alloc(0);
    for (;;) {
      const [chunk] = (await once(socket, 'data')) as [Buffer];
      bytes = Buffer.concat([bytes, chunk]);
      const decoded = decodeTransportHeader(bytes);
      if (decoded.kind === 'partial') continue;
      assert.ok(decoded.kind === 'header');
      socket.pause();
      socket.removeAllListeners('data');
      return { header: decoded.header, socket, rest: bytes.subarray(decoded.bytes) };
    }
  };
  const streamsOf = ({ socket, rest }: { socket: TLSSocket; rest: Buffer }) => {
    if (rest.length > 0) socket.unshift(rest);
    const session = performServerHandshake(socket as Socket);
    session.on('error', () => undefined);
    return session;
  };
  const leadToPeer = (): void =>
    stage.lead(
      'other',
      stage.service('peer', [
        endpoint(PEER, 7070, { identity: identityOf('api'), inboundPort: 4143, http2: true }),
      ]),
    );

  test('C-062, C-064 and C-241 HTTP/1.1 travels over HTTP/2 with the mark of what it was, and comes back as HTTP/1.1', async () => {
    leadToPeer();
    const client = await stage.dial('other');
    client.write(
      'GET /carried HTTP/1.1\r\nHost: carried.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    );
    const connection = await peerPod();
    assert.deepEqual(connection.header, { port: 7070, name: '', protocol: 'http2' });
    const [stream, headers] = (await once(streamsOf(connection), 'stream')) as [
      ServerHttp2Stream,
      IncomingHttpHeaders,
    ];
    assert.equal(headers['l5d-orig-proto'], 'HTTP/1.1');
    assert.equal(headers.host ?? headers[':authority'], 'carried.test');
    assert.equal(headers['transfer-encoding'], undefined);
    stream.respond({ ':status': 200, 'l5d-orig-proto': 'HTTP/1.1', 'content-length': '2' });
    stream.end('ok');
    const answer = await client.take('ok');
    assert.match(answer, /^HTTP\/1\.1 200 /);
    assert.equal(fieldsOf(answer).has('l5d-orig-proto'), false);
    connection.socket.destroy();
  });
  test('C-037 a client of HTTP/1.1 gets 502 for a reset between the agents', async () => {
    leadToPeer();
    const client = await stage.dial('other');
    client.write('GET /reset HTTP/1.1\r\nHost: reset.test\r\n\r\n');
    const connection = await peerPod();
    const [stream] = (await once(streamsOf(connection), 'stream')) as [ServerHttp2Stream];
    stream.on('error', () => undefined);
    stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    assert.equal(statusOf(await client.head()), 502);
    connection.socket.destroy();
  });
  test('C-063 what is opaque gets a header without a protocol', async () => {
    stage.lead(
      'other',
      stage.service(
        'opaque',
        [endpoint(PEER, 7071, { identity: identityOf('api'), inboundPort: 4143 })],
        true,
      ),
    );
    const client = await stage.dial('other');
    client.write('bytes');
    const connection = await peerPod();
    assert.deepEqual(connection.header, { port: 7071, name: '', protocol: undefined });
    connection.socket.destroy();
  });
  test('C-242 an upgrade travels as HTTP/1.1', async () => {
    leadToPeer();
    const client = await stage.dial('other');
    client.write('GET /ws HTTP/1.1\r\nHost: ws.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    const connection = await peerPod();
    assert.equal(connection.header.protocol, 'http1');
    const peer = new RawPeer(connection.socket);
    if (connection.rest.length > 0) connection.socket.unshift(connection.rest);
    connection.socket.resume();
    assert.equal(fieldsOf(await peer.head()).get('upgrade'), 'websocket');
    await peer.close();
  });
  test('C-243 a request of HTTP/2 gets no mark', async () => {
    leadToPeer();
    const answer = fetch2(outbound(), { ':path': '/plain' });
    const connection = await peerPod();
    const [stream, headers] = (await once(streamsOf(connection), 'stream')) as [
      ServerHttp2Stream,
      IncomingHttpHeaders,
    ];
    assert.equal(headers['l5d-orig-proto'], undefined);
    stream.respond({ ':status': 200 });
    stream.end('ok');
    assert.equal((await answer).text, 'ok');
    connection.socket.destroy();
  });
  test('C-240 HTTP/2 to an unmeshed endpoint stays HTTP/2', async () => {
    const outside = await serveHttp2(stage.scene.home, PEER, HTTP2_PORT, (stream) => {
      stream.respond({ ':status': 200 });
      stream.end('outside');
    });
    stage.lead('other', stage.service('outside', [endpoint(PEER, HTTP2_PORT)]));
    assert.equal((await fetch2(outbound(), { ':path': '/' })).text, 'outside');
    outside.close();
  });
  test('C-065 what came over HTTP/2 leaves as HTTP/1.1, and the answer carries the mark', async () => {
    const session = await meshed(7070);
    const stream = session.request({ ':path': '/down', 'l5d-orig-proto': 'HTTP/1.1', host: 'down.test' });
    const answer = answerOf(stream);
    const server = await stage.app.accept();
    assert.match(await server.head(), /^GET \/down HTTP\/1\.1\r\n/);
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    const { headers, text } = await answer;
    assert.equal(text, 'ok');
    assert.equal(headers['l5d-orig-proto'], 'HTTP/1.1');
  });
  test('C-177 on a port said to be HTTP/1 HTTP/2 is still HTTP/2', async () => {
    stage.setPod({}, { protocol: 'http1' });
    assert.equal((await fetch2(unmeshed(), { ':path': '/' })).text, 'hello');
    stage.setPod({});
  });
  test('C-178 a port said to be HTTP/2 is that, and nothing else', async () => {
    stage.setPod({}, { protocol: 'http2' });
    assert.equal((await fetch2(unmeshed(), { ':path': '/' })).text, 'hello');
    const other = await stage.client('in');
    other.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.equal(await other.gone(), 'RST');
    stage.setPod({});
  });

  test('C-192, C-193, C-194 and C-195 nobody takes connections: 504, in gRPC a status, the reason for meshed clients only', async () => {
    for (const [session, explained] of [
      [await meshed(LATE_PORT), true],
      [unmeshed(LATE_PORT), false],
    ] as const) {
      const [plain, grpc] = await Promise.all([
        fetch2(session, { ':path': '/' }),
        fetch2(session, GRPC, Buffer.alloc(5)),
      ]);
      const reason = explained ? 'service in fail-fast' : undefined;
      assert.equal(plain.headers[':status'], 504);
      assert.equal(plain.headers['l5d-proxy-error'], reason);
      assert.equal(grpc.headers[':status'], 200);
      assert.equal(grpc.headers['grpc-status'], '4');
      assert.equal(grpc.headers['l5d-proxy-error'], reason);
      assert.equal(grpc.headers['grpc-message'], reason);
    }
  });
  test('C-034 and C-299 an application that listens a little later is waited for', async () => {
    const waits = fetch2(await meshed(LATE_PORT), { ':path': '/late' });
    await untilMetric(
      stage.scene.server,
      /inbound_tcp_transport_header_connections_total\{[^}]*target_port="7072"/,
    );
    const late = await serveHttp2(stage.scene.serverNs, SERVER, LATE_PORT, (stream) => {
      stream.respond({ ':status': 200 });
      stream.end('late');
    });
    assert.equal((await waits).text, 'late');
    late.close();
  });
  test('C-196 responses of gRPC are counted with their status', async () => {
    const count = async (labels: Record<string, string>): Promise<number> =>
      sumOf(parseMetrics(await stage.scene.server.metrics()), 'response_total', {
        direction: 'inbound',
        target_port: String(HTTP2_PORT),
        ...labels,
      });
    for (const [status, classification] of [
      ['0', 'success'],
      ['5', 'success'],
      ['13', 'failure'],
    ] as const) {
      onStream = (stream) => {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': status }));
        stream.end('data');
      };
      const labels = { grpc_status: status, classification };
      const before = await count(labels);
      assert.equal((await fetch2(await meshed(), GRPC, Buffer.alloc(5))).trailers['grpc-status'], status);
      assert.equal(await count(labels), before + 1);
    }
  });
  test('C-309 a client that does not read one answer still gets the others', async () => {
    onStream = (stream, headers) => {
      stream.respond({ ':status': 200 });
      stream.end(headers[':path'] === '/huge' ? Buffer.alloc(4 * 1024 * 1024) : 'small');
    };
    const session = outbound();
    const stuck = session.request({ ':path': '/huge' });
    stuck.on('error', () => undefined);
    await once(stuck, 'response');
    stuck.pause();
    for (let request = 0; request < 10; request++) {
      assert.equal((await fetch2(session, { ':path': '/small' })).text, 'small');
    }
    stuck.close();
  });

  test('C-106 a drain tells clients to come anew, and their connection ends well', async () => {
    const session = unmeshed();
    assert.equal((await fetch2(session, { ':path': '/' })).text, 'hello');
    const away = once(session, 'goaway') as Promise<[number]>;
    const closed = once(session, 'close');
    stage.scene.server.worker.handle({ type: 'drain', graceMs: 60_000 });
    assert.equal((await away)[0], constants.NGHTTP2_NO_ERROR);
    await closed;
  });
  test('C-107 fifty uploads and their answers all end well during a drain', async () => {
    const size = 16 * 1024;
    const waiting: (() => void)[] = [];
    onStream = (stream) => {
      let bytes = 0;
      stream.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
      });
      stream.on('end', () => {
        stream.respond({ ':status': 200 });
        stream.end(Buffer.alloc(bytes, 'x'));
      });
      waiting.push(() => stream.resume());
      stream.pause();
    };
    const session = unmeshed();
    const answers = Array.from({ length: 50 }, async () =>
      fetch2(session, { ':method': 'POST', ':path': '/' }, Buffer.alloc(size)),
    );
    await until(() => waiting.length === 50, 'all of them at the application');
    stage.scene.server.worker.handle({ type: 'drain', graceMs: 60_000 });
    for (const go of waiting) go();
    for (const answer of await Promise.all(answers)) {
      assert.equal(answer.headers[':status'], 200);
      assert.equal(answer.text.length, size);
    }
  });
});
