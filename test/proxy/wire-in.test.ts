// SPDX-License-Identifier: Apache-2.0
// The wire to the mesh port, byte for byte, from clients made of node:tls; and every way in which a client is not who
// it should be: closed, counted, and logged with who and why.

import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect, type TLSSocket } from 'node:tls';
import { after, before, describe, test } from 'node:test';
import { identityOf, untilMetric } from './harness.ts';
import {
  ALPN,
  dialAsPeer,
  type FakeClient,
  HTTP_HEADER,
  makeTestAuthority,
  material,
  OPAQUE_HEADER,
  PREFACE,
} from './peers.ts';
import {
  ask,
  CLIENT,
  createScene,
  dialAt,
  get,
  HTTP_PORT,
  readAll,
  readSome,
  type Scene,
  SERVER,
} from './scene.ts';

const DAY_MS = 86_400_000;

describe('the wire to the mesh port', () => {
  let scene: Scene;
  let peer: FakeClient;
  before(async () => {
    scene = await createScene();
    peer = {
      anchorsPem: scene.authority.anchorPem,
      shown: { authority: scene.authority, identity: identityOf('web') },
      alpn: [ALPN],
    };
  });
  after(async () => scene.close());

  test('HTTP arrives with the identity of the certificate, whatever the client claims', async () => {
    const socket = await dialAsPeer(peer);
    assert.equal(socket.alpnProtocol, ALPN);
    assert.equal(socket.getProtocol(), 'TLSv1.3');
    assert.equal(socket.getPeerX509Certificate()?.subjectAltName, `DNS:${identityOf('api')}`);
    const request = 'GET /in HTTP/1.1\r\nhost: api\r\nl5d-client-id: forged\r\nconnection: close\r\n\r\n';
    socket.write(`${HTTP_HEADER}${request}`, 'latin1');
    assert.match(await readAll(socket), /^HTTP\/1\.1 200 OK\r\n[^]*GET \/in$/);
    assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], identityOf('web'));
  });

  test('the header may come in any pieces', async () => {
    for (const size of [1, 2, 7, 22, 23, 26, 27, 28, 33]) {
      const socket = await dialAsPeer(peer);
      socket.setNoDelay(true);
      const bytes = `${HTTP_HEADER}GET /piece HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n`;
      for (let at = 0; at < bytes.length; at += size) {
        socket.write(bytes.slice(at, at + size), 'latin1');
        if (at % 8 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      assert.match(await readAll(socket), /GET \/piece$/, `pieces of ${size}`);
    }
  });

  test('opaque bytes go to the port of the header', async () => {
    const socket = await dialAsPeer(peer);
    socket.write(Buffer.from(`${OPAQUE_HEADER}first`, 'latin1'));
    const server = await scene.nextAccepted();
    assert.equal(await readSome(server), 'first');
    server.end('last');
    assert.equal(await readAll(socket), 'last');
    socket.end();
  });

  test('no session is resumed', async () => {
    const sessions: Buffer[] = [];
    const first = await dialAsPeer(peer);
    first.on('session', (session) => sessions.push(session));
    first.write(
      Buffer.from(`${HTTP_HEADER}GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`, 'latin1'),
    );
    await readAll(first);
    for (const session of sessions) {
      const again = connect({
        socket: await dialAt(SERVER, 4143),
        session,
        ca: peer.anchorsPem,
        servername: identityOf('api'),
        ALPNProtocols: [ALPN],
        ...(await material({ authority: scene.authority, identity: identityOf('web') })),
      });
      await once(again, 'secureConnect');
      assert.equal(again.isSessionReused(), false);
      again.destroy();
    }
  });

  const refused = async (
    socket: Promise<TLSSocket>,
    sent: string,
    identity: string,
    reason: RegExp,
  ): Promise<void> => {
    const lines = scene.server.log.lines.length;
    // In TLS 1.3 the client hears of the server's verdict only after its own handshake, or during it.
    let answer: string;
    try {
      const connected = await socket;
      if (sent !== '') connected.write(Buffer.from(sent, 'latin1'));
      answer = await readAll(connected);
    } catch {
      answer = '';
    }
    assert.ok(!answer.includes('HTTP/1.1 200'), answer);
    const line = scene.server.log.lines
      .slice(lines)
      .find(({ message }) => message === 'a connection to the mesh port is refused');
    assert.ok(line !== undefined, 'a log line');
    assert.equal(line.fields['pod'], 'shop/api-0');
    assert.equal(line.fields['client'], '10.77.0.2');
    assert.equal(line.fields['clientIdentity'], identity);
    assert.match(String(line.fields['reason']), reason);
  };
  const request = `${HTTP_HEADER}GET /evil HTTP/1.1\r\nhost: api\r\n\r\n`;

  test('a client without a certificate is refused', async () => {
    const { shown: _, ...anonymous } = peer;
    await refused(dialAsPeer(anonymous), request, '', /mutually authenticated/);
  });

  test('a client of a foreign anchor is refused', async () => {
    const foreign = await makeTestAuthority();
    await refused(
      dialAsPeer({ ...peer, shown: { authority: foreign, identity: identityOf('web') } }),
      request,
      identityOf('web'),
      /not trusted/,
    );
  });

  test('a client with an expired certificate is refused', async () => {
    const shown = {
      authority: scene.authority,
      identity: identityOf('web'),
      wallMs: Date.now() - DAY_MS / 2,
    };
    await refused(dialAsPeer({ ...peer, shown }), request, identityOf('web'), /CERT_HAS_EXPIRED/);
  });

  test('a client without ALPN is refused', async () => {
    const { alpn: _, ...plain } = peer;
    await refused(dialAsPeer(plain), request, identityOf('web'), /transport header negotiation/);
  });

  test('a client with another ALPN is refused', async () => {
    await refused(dialAsPeer({ ...peer, alpn: ['h2'] }), request, '', /handshake/);
  });

  test('a client of TLS 1.2 is refused', async () => {
    await refused(dialAsPeer({ ...peer, maxVersion: 'TLSv1.2' }), request, '', /handshake/);
  });

  test('a client that asks for another pod is refused', async () => {
    await refused(dialAsPeer({ ...peer, servername: identityOf('web') }), request, '', /asked for web\.shop/);
    await refused(
      dialAsPeer({ ...peer, servername: 'api' }),
      request,
      '',
      /asked for api, this is api\.shop/,
    );
  });

  test('a malformed, foreign or gateway header is refused', async () => {
    const web = identityOf('web');
    await refused(dialAsPeer(peer), 'GET / HTTP/1.1\r\nhost: api\r\n\r\n', web, /no transport header/);
    await refused(dialAsPeer(peer), `${PREFACE}\x00\x00\x00\x02\x08\x00`, web, /port 0/);
    await refused(dialAsPeer(peer), `${PREFACE}\xff\xff\xff\xff`, web, /4294967295 bytes/);
    await refused(dialAsPeer(peer), `${PREFACE}\x00\x00\x00\x03\x08\xaf\x20`, web, /mesh port itself/);
    await refused(dialAsPeer(peer), `${PREFACE}\x00\x00\x00\x07\x08\x50\x12\x03a.b`, web, /no gateway/);
  });

  test('a header cut short by the end is refused', async () => {
    const socket = await dialAsPeer(peer);
    socket.end(PREFACE);
    await readAll(socket);
    await untilMetric(
      scene.server,
      /inbound_tcp_errors_total\{error="unexpected",target_addr="10\.77\.0\.2:4143"/,
    );
  });

  test('garbage to the mesh port is closed, logged and counted; the next client is served', async () => {
    const pieces = [
      'GET / HTTP/1.1\r\nhost: api\r\n\r\n',
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      HTTP_HEADER,
      '\x00',
      '\x16\x03\x01',
      '\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03',
      `\x16\x03\x03\x40\x00\x01${'\x00'.repeat(9000)}`,
      'x'.repeat(100_000),
    ];
    for (const piece of pieces) {
      const socket = await dialAt(SERVER, 4143);
      socket.on('error', () => socket.destroy());
      socket.end(Buffer.from(piece, 'latin1'));
      const answer = await readAll(socket);
      assert.ok(answer === '' || answer === '!ECONNRESET' || answer === '!EPIPE', answer);
    }
    await untilMetric(scene.server, /nodemesh_connections_refused_total\{reason="not_mesh"[^}]*\} [1-9]/);
    assert.equal((await get('http', '/after')).status, 200);
  });

  test('TLS to the identity of the pod on a port of the application ends there, with or without a certificate', async () => {
    const { alpn: _, ...transparent } = peer;
    const secure = await dialAsPeer({ ...transparent, port: HTTP_PORT });
    secure.write('GET /transparent HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n');
    assert.match(await readAll(secure), /GET \/transparent$/);
    assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], identityOf('web'));
    const anonymous = await dialAsPeer({ anchorsPem: peer.anchorsPem, port: HTTP_PORT });
    anonymous.write(
      'GET /anonymous HTTP/1.1\r\nhost: api\r\nl5d-client-id: forged\r\nconnection: close\r\n\r\n',
    );
    assert.match(await readAll(anonymous), /GET \/anonymous$/);
    assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], undefined);
  });

  test('a bad client certificate is refused there too, never taken as none', async () => {
    const foreign = await makeTestAuthority();
    const { alpn: _, ...transparent } = peer;
    const before = scene.requests.length;
    const shown = { authority: foreign, identity: identityOf('web') };
    const socket = await dialAsPeer({ ...transparent, shown, port: HTTP_PORT });
    socket.write('GET /bad HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n');
    assert.ok(!(await readAll(socket)).includes('200'));
    assert.equal(scene.requests.length, before);
    const line = await scene.server.logged('a TLS client is refused');
    assert.equal(line.fields['clientIdentity'], identityOf('web'));
  });

  test('TLS to another name passes to the application untouched', async () => {
    const raw = await dialAt(SERVER, 9090);
    const tls = connect({ socket: raw, servername: 'shop.example', rejectUnauthorized: false });
    tls.on('error', () => tls.destroy());
    const server = await scene.nextAccepted();
    const hello = await readSome(server);
    assert.ok(hello.startsWith('\x16\x03\x01') && hello.includes('shop.example'));
    server.destroy();
    await untilMetric(scene.server, /tcp_open_total\{[^}]*tls="opaque",sni="shop\.example"/);
  });

  test('an unmeshed client is served in plain text', async () => {
    const answer = await ask({
      host: SERVER,
      port: HTTP_PORT,
      path: '/plain',
      localAddress: CLIENT,
      headers: { 'l5d-client-id': 'forged' },
    });
    assert.equal(answer.text, 'GET /plain');
    assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], undefined);
    assert.deepEqual(scene.server.kernel.clients.at(-1)?.ip, CLIENT);
    await untilMetric(
      scene.server,
      /request_total\{direction="inbound",[^}]*no_tls_reason="no_tls_from_remote"/,
    );
  });

  test('the tap port is closed politely', async () => {
    for (const piece of ['', 'garbage', 'GET / HTTP/1.1\r\n\r\n']) {
      const socket = await dialAt(SERVER, 4190);
      if (piece !== '') socket.write(piece);
      assert.equal(await readAll(socket), '');
      socket.end();
    }
  });

  test('the admin port serves live, ready and the metrics of this pod', async () => {
    const at = async (path: string) => ask({ host: SERVER, port: 4191, path });
    assert.equal((await at('/live')).text, 'live\n');
    assert.equal((await at('/ready')).text, 'ready\n');
    assert.equal((await at('/shutdown')).status, 404);
    const metrics = await at('/metrics');
    assert.match(metrics.text, /request_total\{direction="inbound"/);
    for (const line of metrics.text.split('\n')) {
      if (line !== '' && !line.startsWith('#')) assert.match(line, /namespace="shop",pod="api-0"/);
    }
    const garbage = await dialAt(SERVER, 4191);
    garbage.end('\x00\x01\x02 garbage\r\n\r\n');
    assert.match(await readAll(garbage), /^(HTTP\/1\.1 400|$|!)/);
    assert.equal((await at('/live')).status, 200);
  });

  test('the admin port is reached through the mesh as well', async () => {
    const socket = await dialAsPeer(peer);
    // Port 4191.
    const header = `${PREFACE}\x00\x00\x00\x07\x08\xdf\x20\x1a\x02\x0a\x00`;
    socket.write(
      Buffer.from(`${header}GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`, 'latin1'),
    );
    assert.match(await readAll(socket), /^HTTP\/1\.1 200 [^]*live\n$/);
  });
});
