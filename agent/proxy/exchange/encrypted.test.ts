// SPDX-License-Identifier: Apache-2.0
// The HTTP/1 server between TLS connections, as between nodes: everything arrives before close_notify, and a cut is
// an error on the other side too.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { connect as connectTls, createSecureContext, TLSSocket } from 'node:tls';
import { FAILURE_CONNECT_OTHER, FAILURE_NONE } from '../failure.ts';
import { attachDataSource } from './byte-source.ts';
import { fixedTarget, RecordedMetrics } from './loopback.ts';
import { RawPeer } from './raw-peers.ts';
import { createHttpServer } from './server.ts';
import type { Connected, HttpEndpoint } from './types.ts';

const folder = mkdtempSync(join(tmpdir(), 'nodemesh-test-'));
after(() => rmSync(folder, { recursive: true }));
const [keyFile, certFile] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-subj', '/CN=test'];
execFileSync(
  'openssl',
  ['req', '-x509', '-nodes', '-days', '1', ...curve, '-keyout', keyFile, '-out', certFile],
  {
    stdio: 'ignore',
  },
);
const secureContext = createSecureContext({ key: readFileSync(keyFile), cert: readFileSync(certFile) });

const GET = 'GET / HTTP/1.1\r\nHost: shop\r\n\r\n';
const timeout = { timeout: 20_000 };

class SecureEndpoint implements HttpEndpoint {
  readonly name = 'secure';
  readonly metrics = new RecordedMetrics();
  slot: HttpEndpoint['slot'] = null;
  readonly multiplexed = false;
  readonly passage = null;
  readonly #port: number;

  constructor(port: number) {
    this.#port = port;
  }

  connect(_http2: boolean, done: Connected): void {
    const raw = new Socket({ allowHalfOpen: true });
    raw.connect(this.#port, '127.0.0.1', () => {
      const secure = connectTls({ socket: raw, rejectUnauthorized: false }, () =>
        done(FAILURE_NONE, attachDataSource(secure, raw)),
      );
      secure.once('error', () => done(FAILURE_CONNECT_OTHER, null));
    });
  }
}

/** Client and server ends around the proxy, all TLS. */
async function secureFixture(t: TestContext): Promise<{
  client: () => Promise<RawPeer>;
  accept: () => Promise<RawPeer>;
  endpoint: SecureEndpoint;
}> {
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): Socket => sockets.add(socket) && socket;
  const accepted: RawPeer[] = [];
  const upstream = createServer({ allowHalfOpen: true }, (raw) => {
    keep(raw);
    accepted.push(new RawPeer(keep(new TLSSocket(raw, { isServer: true, secureContext }))));
    upstream.emit('secured');
  });
  upstream.listen(0, '127.0.0.1');
  await once(upstream, 'listening');
  const endpoint = new SecureEndpoint((upstream.address() as AddressInfo).port);
  const server = createHttpServer();
  const front = createServer({ allowHalfOpen: true }, (raw) => {
    keep(raw);
    const secure = keep(new TLSSocket(raw, { isServer: true, secureContext })) as TLSSocket;
    secure.on('secure', () =>
      server.serve({
        source: attachDataSource(secure, raw),
        first: null,
        target: fixedTarget([endpoint]),
        gate: null,
        onClosed: () => undefined,
      }),
    );
  });
  front.listen(0, '127.0.0.1');
  await once(front, 'listening');
  t.after(() => {
    upstream.close();
    front.close();
    for (const socket of sockets) socket.destroy();
  });
  return {
    endpoint,
    client: async () => {
      const { port } = front.address() as AddressInfo;
      const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false });
      keep(socket);
      await once(socket, 'secureConnect');
      return new RawPeer(socket);
    },
    accept: async () => {
      while (accepted.length === 0) await once(upstream, 'secured');
      return accepted.shift() as RawPeer;
    },
  };
}

test('requests and large bodies, kept alive, closed cleanly', timeout, async (t) => {
  const { client, accept, endpoint } = await secureFixture(t);
  const peer = await client();
  const size = 3_000_000;
  const body = 'y'.repeat(size);
  peer.write(`PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: ${size}\r\n\r\n${body}`);
  const server = await accept();
  assert.match(await server.head(), /^PUT /);
  await server.when(() => server.received.length === size);
  server.received = '';
  server.write(`HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n${body}`);
  assert.match(await peer.head(), /^HTTP\/1.1 200 OK/);
  await peer.when(() => peer.received.length === size);
  peer.received = '';
  peer.write('GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n');
  await server.head();
  server.write(`HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n${body}`);
  const answer = await peer.rest();
  assert.equal(
    answer.length,
    'HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\nconnection: close\r\n\r\n'.length + size,
  );
  assert.equal(await peer.gone(), 'FIN');
  assert.equal(endpoint.metrics.ended.length, 2);
});

test('an endpoint that dies in mid-response: an error for the client', timeout, async (t) => {
  const { client, accept } = await secureFixture(t);
  const peer = await client();
  peer.write(GET);
  const server = await accept();
  await server.head();
  server.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart');
  await peer.take('part');
  server.socket.destroy();
  assert.equal(await peer.gone(), 'RST');
});

test('a client that vanishes aborts its request', timeout, async (t) => {
  const { client, accept, endpoint } = await secureFixture(t);
  const peer = await client();
  peer.write(GET);
  const server = await accept();
  await server.head();
  peer.socket.destroy();
  await server.when(() => server.ended || server.error !== undefined);
  assert.equal(endpoint.metrics.ended.length, 1);
});
