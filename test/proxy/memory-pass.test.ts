// SPDX-License-Identifier: Apache-2.0
// HTTP between two pods behind one worker, in memory: for applications, policy, metrics and logs it is as if a connection
// from another node had brought it.

import { strict as assert } from 'node:assert';
import { spawnSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { endpoint, identityOf, meshedOnly, until, untilMetric } from './harness.ts';
import {
  ask,
  CLIENT,
  createScene,
  dial,
  get,
  HTTP_PORT,
  readAll,
  readSome,
  type Scene,
  SERVER,
  services,
  TCP_PORT,
} from './scene.ts';

const other = {
  ...meshedOnly,
  authentication: { kind: 'tls', identities: [identityOf('other')], suffixes: [] },
} as const;

describe('the memory pass', () => {
  let scene: Scene;
  before(async () => {
    scene = await createScene({ sameNode: 'memory', http2: false });
  });
  after(async () => scene.close());

  const permits = async (result: string): Promise<number> => {
    const line = new RegExp(
      `^nodemesh_same_node_permits_total\\{result="${result}".*pod="web-0".* (\\d+)$`,
      'm',
    );
    return Number(line.exec(await scene.client.metrics())?.[1] ?? 0);
  };

  test('carries requests with the identity and the address of their client, under one permit', async () => {
    for (const path of ['/one', '/two', '/three']) {
      const { listener } = services.http;
      const answer = await ask({
        host: CLIENT,
        port: listener,
        path,
        headers: { 'l5d-client-id': 'forged' },
      });
      assert.equal(answer.text, `GET ${path}`);
      assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], identityOf('web'));
    }
    assert.equal(scene.client.kernel.vouchers.size, 1, 'the permit is the only connection between the pods');
    const [voucher] = scene.client.kernel.vouchers.keys();
    assert.ok(scene.client.kernel.clients.length > 0);
    for (const { ip, port } of scene.client.kernel.clients) assert.equal(`${ip}:${port}`, voucher);
    assert.equal(await permits('granted'), 1);
    assert.equal(await permits('refused'), 0);
    await untilMetric(
      scene.client,
      /request_total\{direction="outbound",[^}]*tls="true",server_id="api\.shop[^"]*",same_node="true",dst_deployment="api"[^}]*pod="web-0"[^}]*\} 3/,
    );
    await untilMetric(
      scene.client,
      /request_total\{direction="inbound",[^}]*tls="true",client_id="web\.shop[^"]*",same_node="true"[^}]*pod="api-0"[^}]*\} 3/,
    );
    // Who asks `edges` sees both pods' connection.
    await untilMetric(
      scene.client,
      /tcp_open_connections\{direction="outbound",peer="dst"[^}]*server_id="api\.shop[^}]*\} 1/,
    );
    await untilMetric(
      scene.client,
      /tcp_open_connections\{direction="inbound",peer="src"[^}]*client_id="web\.shop[^}]*\} 1/,
    );
  });

  test("the server's policy judges each request, and a change holds at once", async () => {
    scene.setPolicy({ authorizations: [meshedOnly] });
    assert.equal((await get('http', '/meshed')).status, 200);
    scene.setPolicy({ authorizations: [other] });
    const before = scene.requests.length;
    assert.equal((await get('http', '/denied')).status, 403);
    assert.equal(scene.requests.length, before);
    await untilMetric(
      scene.client,
      /inbound_http_authz_deny_total\{[^}]*client_id="web\.shop[^}]*pod="api-0"[^}]*\} 1/,
    );
    await untilMetric(
      scene.client,
      /response_total\{direction="outbound"[^}]*pod="web-0"[^}]*status_code="403",classification="success"[^}]*\} 1/,
    );
    scene.setPolicy({});
    assert.equal((await get('http', '/allowed')).status, 200);
    assert.equal(scene.client.kernel.vouchers.size, 1);
  });

  test('TCP and opaque ports take the carrier', async () => {
    const client = await dial('tcp');
    client.write('PING');
    const server = await scene.nextAccepted();
    assert.equal(await readSome(server), 'PING');
    client.end();
    server.end();
    await readAll(client);
    assert.equal(scene.client.kernel.vouchers.size, 2);
    // Only the server's side knows that nothing may be detected there.
    scene.setPolicy({}, { opaquePorts: [{ first: HTTP_PORT, last: HTTP_PORT }] });
    assert.equal((await get('http', '/opaque')).text, 'GET /opaque');
    assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], undefined);
    assert.equal(scene.client.kernel.vouchers.size, 3);
    scene.setPolicy({});
    assert.equal((await get('http', '/again')).text, 'GET /again');
    assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], identityOf('web'));
  });

  test('a pod that goes takes along what passes to it, and is not reached after', async () => {
    const { listener } = services.tcp;
    scene.lead('tcp', [
      endpoint(SERVER, TCP_PORT, {
        identity: identityOf('api'),
        inboundPort: 4143,
        localPodUid: scene.serverPod.uid,
      }),
    ]);
    const client = await dial('tcp');
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    const server = await scene.nextAccepted();
    assert.match(await readSome(server), /l5d-client-id: web\.shop/);
    server.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf');
    assert.match(await readSome(client), /half$/);
    const closed = new Promise((resolve) => server.once('close', resolve));
    const ended = Promise.all([readAll(client), closed]);
    scene.client.sent.length = 0;
    scene.client.worker.handle({ type: 'pod-removed', uid: scene.serverPod.uid, ticket: 1 });
    assert.equal((await ended)[0], '!ECONNRESET');
    await until(
      () => scene.client.sent.some(({ type }) => type === 'pod-gone'),
      "the end of the pod's sockets",
    );
    const before = scene.requests.length;
    assert.equal((await ask({ host: CLIENT, port: listener, path: '/gone' })).status, 502);
    assert.equal(scene.requests.length, before);
  });
});

test('what is counted is, of both sides, what is counted over a connection', () => {
  const program = fileURLToPath(new URL('./print-series.ts', import.meta.url));
  const [memory, carrier] = ['memory', 'carrier'].map((way) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, way], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    assert.equal(status, 0, stderr);
    return JSON.parse(stdout) as string[];
  });
  assert.ok(memory?.some((line) => line.startsWith('inbound_http_errors_total')));
  assert.deepEqual(memory, carrier);
});
