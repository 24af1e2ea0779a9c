// SPDX-License-Identifier: Apache-2.0
// Policy at work on both sides of its changes: what is denied never reaches the application, is counted, and is logged
// with policy and client.

import { strict as assert } from 'node:assert';
import { Agent } from 'node:http';
import { after, before, beforeEach, describe, test } from 'node:test';
import { connect as dialTls } from 'node:tls';
import { errnoName } from '#lib/core/errors.ts';
import { anyone, endpoint, identityOf, meshedOnly, policy, untilMetric } from './harness.ts';
import {
  ask,
  CLIENT,
  createScene,
  dial,
  dialAt,
  get,
  HTTP_PORT,
  readAll,
  readSome,
  type Scene,
  SERVER,
  services,
  TCP_PORT,
} from './scene.ts';

const authenticated = {
  authorizations: [meshedOnly],
  labels: { group: '', kind: 'default', name: 'all-authenticated' },
};
const deny = { authorizations: [], labels: { group: '', kind: 'default', name: 'deny' } };

describe('inbound policy', () => {
  let scene: Scene;
  before(async () => {
    scene = await createScene();
  });
  beforeEach(() => {
    scene.server.log.lines.length = 0;
    scene.setPolicy({});
  });
  after(async () => scene.close());

  const plainGet = async (path: string, method = 'GET') =>
    ask({ host: SERVER, port: HTTP_PORT, localAddress: CLIENT, path, method });

  test('all-authenticated: meshed clients pass, others get 403 and nothing reaches the application', async () => {
    scene.setPolicy(authenticated);
    assert.equal((await get('http', '/meshed')).status, 200);
    const before = scene.requests.length;
    const answer = await plainGet('/unmeshed');
    assert.equal(answer.status, 403);
    assert.equal(answer.headers['l5d-proxy-error'], undefined);
    assert.equal(scene.requests.length, before);
    const line = await scene.server.logged('request denied by policy');
    assert.deepEqual(line.fields, {
      pod: 'shop/api-0',
      port: HTTP_PORT,
      client: CLIENT,
      method: 'GET',
      path: '/unmeshed',
      policy: 'default/all-authenticated',
    });
    await untilMetric(
      scene.server,
      /inbound_http_authz_allow_total\{target_addr="10\.77\.0\.2:8080"[^}]*tls="true",client_id="web\.[^}]*srv_name="all-authenticated",srv_port="8080",route_group="",route_kind="default",route_name="default",authz_group="",authz_kind="default",authz_name="all-authenticated",namespace="shop"[^}]*\} 1/,
    );
    await untilMetric(
      scene.server,
      /inbound_http_authz_deny_total\{[^}]*no_tls_reason="no_tls_from_remote"[^}]*\} 1/,
    );
  });

  test('all-authenticated: TCP of unmeshed clients is closed before the application is dialled', async () => {
    scene.setPolicy(authenticated);
    const meshed = await dial('tcp');
    meshed.write('in');
    assert.equal(await readSome(await scene.nextAccepted()), 'in');
    meshed.destroy();
    const socket = await dialAt(SERVER, TCP_PORT);
    socket.write('*1\r\n$4\r\nPING\r\n');
    assert.equal(await readAll(socket), '!ECONNRESET');
    assert.equal(scene.accepted.length, 0);
    await scene.server.logged('connection denied by policy');
    await untilMetric(scene.server, /inbound_tcp_authz_deny_total\{[^}]*target_port="9090"[^}]*\} 1/);
    await untilMetric(
      scene.server,
      /inbound_tcp_authz_allow_total\{[^}]*client_id="web[^}]*authz_name="all-authenticated"/,
    );
  });

  test('an identity list names who may', async () => {
    const only = (identity: string) => ({
      authorizations: [
        { ...anyone, authentication: { kind: 'tls', identities: [identity], suffixes: [] } as const },
      ],
    });
    scene.setPolicy(only(identityOf('web')));
    assert.equal((await get('http', '/')).status, 200);
    scene.setPolicy(only(identityOf('other')));
    const refused = await get('http', '/');
    assert.equal(refused.status, 403);
  });

  test('deny: reset for everybody, meshed or not, and said to be so', async () => {
    scene.setPolicy({ ...deny, protocol: 'opaque' });
    // Other metadata: a connection of its own, not one that was let in before.
    const fresh = { identity: identityOf('api'), inboundPort: 4143, labels: { version: 'fresh' } };
    scene.lead('http', [endpoint(SERVER, HTTP_PORT, fresh)]);
    // The peer still thinks HTTP; its bytes never get further.
    const before = scene.requests.length;
    const answer = await get('http', '/denied');
    assert.equal(answer.status, 502);
    const plain = await dialAt(SERVER, HTTP_PORT).then(
      async (socket) => {
        socket.write('GET / HTTP/1.1\r\nhost: api\r\n\r\n');
        return readAll(socket);
      },
      // Nothing has to be read first: the reset may be there before this thread hears of the connection.
      (error: unknown) => `!${errnoName(error)}`,
    );
    assert.equal(plain, '!ECONNRESET');
    assert.equal(scene.requests.length, before);
    await scene.server.logged('connection denied by policy');
    const meshed = await dial('tcp');
    meshed.write('PING from a meshed client');
    assert.equal(await readAll(meshed), '!ECONNRESET');
    assert.equal(scene.accepted.length, 0);
  });

  test('probes of the pod’s own spec pass a policy that denies, and nothing else does', async () => {
    scene.setPolicy(deny, { probes: [{ port: HTTP_PORT, method: 'GET', path: '/healthz?full=1' }] });
    assert.equal((await plainGet('/healthz?full=1')).status, 200);
    assert.equal((await plainGet('/healthz')).status, 200);
    for (const path of [
      '/healthz/',
      '/Healthz',
      '/healthz/../secret',
      '//healthz',
      '/secret',
      '/healthz%2f',
    ]) {
      assert.equal((await plainGet(path)).status, 403, path);
    }
    assert.equal((await plainGet('/healthz', 'POST')).status, 403);
  });

  test('a probe opens no tunnel: what follows in one is judged by nobody', async () => {
    scene.setPolicy(deny, { probes: [{ port: HTTP_PORT, method: 'GET', path: '/healthz' }] });
    const before = scene.requests.length;
    const socket = await dialAt(SERVER, HTTP_PORT);
    socket.write('GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n');
    assert.match(await readSome(socket), /^HTTP\/1\.1 403 /);
    socket.destroy();
    assert.equal(scene.requests.length, before);
  });

  test('an open HTTP connection is judged by each request’s policy', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const over = async (path: string) => ask({ host: CLIENT, port: services.http.listener, path, agent });
    assert.equal((await over('/one')).status, 200);
    scene.setPolicy(deny);
    assert.equal((await over('/two')).status, 403);
    scene.setPolicy({});
    assert.equal((await over('/three')).status, 200);
    agent.destroy();
  });

  test('an open TCP connection ends when policy no longer allows it', async () => {
    const client = await dial('tcp');
    client.write('before');
    const server = await scene.nextAccepted();
    assert.equal(await readSome(server), 'before');
    scene.setPolicy(authenticated);
    client.write('allowed by another entry');
    assert.equal(await readSome(server), 'allowed by another entry');
    const [seenByClient, seenByServer] = [readAll(client), readAll(server)];
    scene.setPolicy(deny);
    assert.equal(await seenByClient, '!ECONNRESET');
    assert.equal(await seenByServer, '!ECONNRESET');
    const line = await scene.server.logged('connection terminated due to policy change');
    assert.equal(line.fields['clientIdentity'], identityOf('web'));
    assert.equal(line.fields['policy'], 'default/deny');
    await untilMetric(scene.server, /inbound_tcp_authz_terminate_total\{[^}]*\} [1-9]/);
  });

  test('the policy of a port stands before the pod’s', async () => {
    scene.server.worker.handle({
      type: 'pod',
      pod: {
        ...scene.serverPod,
        policies: { byPort: [[HTTP_PORT, policy()]], fallback: policy(deny) },
      },
      listeners: [],
    });
    assert.equal((await plainGet('/')).status, 200);
    const socket = await dialAt(SERVER, TCP_PORT);
    socket.write('PING PING PING PING\r\n');
    assert.equal(await readAll(socket), '!ECONNRESET');
  });

  test('a policy that cannot be read lets nobody in', async () => {
    scene.setPolicy({ authorizations: [{ ...anyone, networks: [{ net: 'everything', except: [] }] }] });
    assert.equal((await get('http', '/')).status, 403);
  });

  test('audit allows and says so', async () => {
    scene.setPolicy({ authorizations: [{ ...anyone, audit: true }] });
    assert.equal((await get('http', '/audited')).status, 200);
    await scene.server.logged('request allowed (audit)');
  });

  test('an opaque port is not detected and passes TLS to the pod’s own identity through', async () => {
    scene.setPolicy({ protocol: 'opaque' });
    const socket = await dialAt(SERVER, TCP_PORT);
    const server = await scene.nextAccepted();
    server.write('server first');
    assert.equal(await readSome(socket), 'server first');
    socket.destroy();
    server.destroy();
    await untilMetric(
      scene.server,
      /tcp_open_total\{direction="inbound",peer="src"[^}]*no_tls_reason="port_skipped"/,
    );
  });

  test('a client that says nothing to a port with detection is cut off after the detection timeout', async () => {
    scene.setPolicy({ detectTimeoutMs: 100 });
    const socket = await dialAt(SERVER, TCP_PORT);
    assert.equal(await readAll(socket), '!ECONNRESET');
    await untilMetric(
      scene.server,
      /inbound_tcp_errors_total\{error="tls detection timeout",[^}]*target_port="9090"/,
    );
  });

  test('a port said to be gRPC takes no other protocol', async () => {
    scene.setPolicy({ protocol: 'grpc' });
    const socket = await dialAt(SERVER, TCP_PORT);
    socket.write('GET / HTTP/1.1\r\nhost: a\r\n\r\n');
    assert.equal(await readAll(socket), '!ECONNRESET');
    assert.equal(scene.accepted.length, 0);
  });

  test('metrics of the pod are for whom its policy lets in; health is for everybody', async () => {
    scene.setPolicy(deny);
    const at = async (path: string) => ask({ host: SERVER, port: 4191, localAddress: CLIENT, path });
    assert.equal((await at('/metrics')).status, 403);
    assert.equal((await at('/live')).status, 200);
    assert.equal((await at('/ready')).status, 200);
  });

  test('meshed clients reach metrics with TLS, under their identity', async () => {
    const leaf = await scene.authority.leaf(identityOf('web'));
    const ask = async (path: string): Promise<string> => {
      const socket = dialTls({
        socket: await dialAt(SERVER, 4191, CLIENT),
        ca: scene.authority.anchorPem,
        servername: identityOf('api'),
        cert: leaf.chainPem,
        key: leaf.keyPem,
      });
      socket.write(`GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`);
      const answer = await readSome(socket);
      socket.destroy();
      return answer;
    };
    scene.setPolicy(authenticated);
    assert.match(await ask('/metrics'), /^HTTP\/1\.1 200 OK/);
    scene.setPolicy(deny);
    assert.match(await ask('/metrics'), /^HTTP\/1\.1 403 /);
    assert.match(await ask('/live'), /^HTTP\/1\.1 200 OK/);
  });
});
