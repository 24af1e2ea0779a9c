// SPDX-License-Identifier: Apache-2.0
// HTTP/2 by prior knowledge where the client or the server is not in the mesh.

import { strict as assert } from 'node:assert';
import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { endpoint, identityOf, until, untilMetric } from './harness.ts';
import { fetch2, http2At, http2To, serveHttp2 } from './http2-peers.ts';
import { createScene, dial, dialAt, HTTP2_PORT, PEER, type Scene, SERVER } from './scene.ts';

describe('HTTP/2 where only one side is in the mesh', () => {
  let scene: Scene;
  const headers: IncomingHttpHeaders[] = [];
  before(async () => {
    scene = await createScene();
  });
  const closing: (() => void)[] = [];
  after(async () => {
    for (const close of closing) close();
    await scene.close();
  });

  test('an unmeshed client is served request by request', async () => {
    const server = await serveHttp2(scene.serverNs, SERVER, HTTP2_PORT, (stream, fields) => {
      headers.push(fields);
      stream.respond({ ':status': 200 });
      stream.end('served');
    });
    const client = http2At(SERVER, HTTP2_PORT);
    closing.push(
      () => client.destroy(),
      () => server.close(),
    );
    const { text } = await fetch2(client, { ':path': '/plain', 'l5d-client-id': identityOf('web') });
    assert.equal(text, 'served');
    assert.equal(headers[0]?.['l5d-client-id'], undefined);
    await untilMetric(scene.server, /request_total\{direction="inbound",[^}]*tls="no_identity"[^}]*\} 1/);
  });

  test('requests to unmeshed endpoints are balanced one by one', async () => {
    const ports = [HTTP2_PORT, HTTP2_PORT + 1];
    const servers = await Promise.all(
      ports.map(async (port) =>
        serveHttp2(scene.home, PEER, port, (stream) => {
          stream.respond({ ':status': 200 });
          stream.end(String(port));
        }),
      ),
    );
    scene.lead(
      'outside',
      ports.map((port) => endpoint(PEER, port)),
    );
    const client = http2To('outside');
    closing.push(() => client.destroy(), ...servers.map((server) => () => server.close()));
    const counts = new Map<string, number>();
    const answers = await Promise.all(
      Array.from({ length: 100 }, async () => fetch2(client, { ':path': '/' })),
    );
    for (const { text } of answers) counts.set(text, (counts.get(text) ?? 0) + 1);
    for (const port of ports) assert.ok((counts.get(String(port)) ?? 0) > 10, JSON.stringify([...counts]));
  });

  test('the connection to an endpoint that is taken out ends after what it carries', async () => {
    const waiting: ServerHttp2Stream[] = [];
    const port = HTTP2_PORT + 2;
    const server = await serveHttp2(scene.home, PEER, port, (stream) => waiting.push(stream));
    scene.lead('outside', [endpoint(PEER, port)]);
    const client = http2To('outside');
    closing.push(
      () => client.destroy(),
      () => server.close(),
    );
    const answer = fetch2(client, { ':path': '/' });
    await until(() => waiting.length > 0, 'the request');
    scene.lead('outside', []);
    const [session] = server.sessions;
    assert.equal(session?.closed, false);
    waiting[0]?.respond({ ':status': 200 });
    waiting[0]?.end('last');
    assert.equal((await answer).text, 'last');
    await until(() => session?.destroyed, 'the end of the connection');
  });

  test('an endpoint that speaks HTTP/1 only is an error', async () => {
    const client = http2To('http');
    closing.push(() => client.destroy());
    const answer = await fetch2(client, { ':path': '/' });
    assert.equal(answer.headers[':status'], 502);
  });

  test('clients that flood are cut off and counted, on both sides', async () => {
    const settings = '\x00\x00\x00\x04\x00\x00\x00\x00\x00';
    const ping = '\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678';
    for (const [worker, socket] of [
      [scene.client, await dial('http2')],
      [scene.server, await dialAt(SERVER, HTTP2_PORT)],
    ] as const) {
      socket.on('error', () => undefined);
      socket.resume();
      socket.write(
        Buffer.from(`PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${settings}${ping.repeat(10_000)}`, 'latin1'),
      );
      await untilMetric(worker, /nodemesh_http2_limits_total\{limit="flood_ping",[^}]*\} 1/);
      socket.destroy();
    }
  });
});
