// SPDX-License-Identifier: Apache-2.0
// Pods, certificates and destinations that come and go under a worker: nothing stays open, nothing is served that
// should not be, and a drained worker ends what it has.

import { strict as assert } from 'node:assert';
import { readdirSync } from 'node:fs';
import { Agent } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { endpoint, identityOf, listenIn, until, untilMetric, workerPod } from './harness.ts';
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

describe('the life of a worker', () => {
  let scene: Scene;
  before(async () => {
    scene = await createScene({ failfastMs: 200 });
  });
  after(async () => scene.close());

  test('a service without endpoints: the first request waits and gets 504, the next 503 at once, then it serves', async () => {
    const first = await get('empty', '/');
    assert.equal(first.status, 504);
    assert.equal(first.headers['l5d-proxy-error'], 'service in fail-fast');
    assert.equal((await get('empty', '/')).status, 503);
    await untilMetric(scene.client, /outbound_http_errors_total\{error="failfast"[^}]*\} 1/);
    scene.lead('empty', [endpoint(SERVER, HTTP_PORT, { identity: identityOf('api'), inboundPort: 4143 })]);
    assert.equal((await get('empty', '/back')).text, 'GET /back');
  });

  test('a request that waits is served when an endpoint comes', async () => {
    scene.lead('empty', []);
    const waiting = get('empty', '/waited');
    await until(() => scene.client.worker.connections > 0, 'the connection');
    scene.lead('empty', [endpoint(SERVER, HTTP_PORT, { identity: identityOf('api'), inboundPort: 4143 })]);
    assert.equal((await waiting).text, 'GET /waited');
  });

  test('an endpoint whose metadata stays keeps its connections, a changed one gets new ones', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const over = async () => ask({ host: CLIENT, port: services.http.listener, path: '/kept', agent });
    const opened = async (): Promise<number> =>
      Number(
        (
          await untilMetric(
            scene.client,
            /tcp_open_total\{direction="outbound",peer="dst",authority="http\.shop[^}]*dst_version="1"[^}]*\} (\d+)/,
          )
        )[1],
      );
    const meshed = { identity: identityOf('api'), inboundPort: 4143 };
    const one = endpoint(SERVER, HTTP_PORT, { ...meshed, labels: { version: '1' } });
    scene.lead('http', [one]);
    await over();
    const before = await opened();
    scene.lead('http', [structuredClone(one), endpoint('10.77.0.3', 1, { weight: 0 })]);
    scene.lead('http', [structuredClone(one)]);
    await over();
    assert.equal(await opened(), before);
    scene.lead('http', [endpoint(SERVER, HTTP_PORT, { ...meshed, labels: { version: '2' } })]);
    await over();
    await untilMetric(scene.client, /tcp_open_total\{[^}]*dst_version="2"[^}]*\} 1/);
    agent.destroy();
  });

  test('requests are spread over the endpoints, TCP connections as well', async () => {
    const meshed = { identity: identityOf('api'), inboundPort: 4143 };
    const both = (port: number) =>
      ['a', 'b'].map((version) => endpoint(SERVER, port, { ...meshed, labels: { version } }));
    scene.lead('http', both(HTTP_PORT));
    await Promise.all(Array.from({ length: 30 }, async () => get('http', '/spread')));
    scene.lead('tcp', both(TCP_PORT), true);
    const clients = await Promise.all(Array.from({ length: 10 }, async () => dial('tcp')));
    for (const client of clients) client.write('x');
    for (const _ of clients) await readSome(await scene.nextAccepted());
    for (const version of ['a', 'b']) {
      await untilMetric(
        scene.client,
        new RegExp(`request_total\\{[^}]*dst_version="${version}"[^}]*\\} [1-9]`),
      );
      await untilMetric(
        scene.client,
        new RegExp(
          `tcp_open_connections\\{direction="outbound",peer="dst"[^}]*:9090[^}]*dst_version="${version}"[^}]*\\} 5\\n`,
        ),
      );
    }
    for (const client of clients) client.destroy();
  });

  test('a TCP connection tries another endpoint when one refuses', async () => {
    scene.lead(
      'tcp',
      [
        endpoint('10.77.0.3', 1),
        endpoint(SERVER, TCP_PORT, { identity: identityOf('api'), inboundPort: 4143 }),
      ],
      true,
    );
    for (let round = 0; round < 6; round++) {
      const client = await dial('tcp');
      client.write('x');
      await readSome(await scene.nextAccepted());
      client.destroy();
    }
  });

  test('a destination is forgotten a while after its last connection', async () => {
    await get('http', '/');
    const forgets = () => scene.client.sent.filter((message) => message.type === 'forget').length;
    const before = forgets();
    await until(() => forgets() > before, 'the forget message');
  });

  test('a connection that nobody redirected is closed', async () => {
    const fd = listenIn(scene.home, CLIENT, 15999);
    scene.client.worker.handle({
      type: 'pod',
      pod: scene.clientPod,
      listeners: [{ direction: 'outbound', family: 4, slot: 9, fd }],
    });
    assert.equal(await readAll(await dialAt(CLIENT, 15999)), '');
    await untilMetric(scene.client, /nodemesh_connections_refused_total\{reason="no_destination"[^}]*\} 1/);
  });

  test('an inbound connection to a loopback address is closed', async () => {
    const fd = listenIn(scene.home, '127.0.0.1', 15998);
    scene.server.worker.handle({
      type: 'pod',
      pod: scene.serverPod,
      listeners: [{ direction: 'inbound', family: 4, slot: 9, fd }],
    });
    assert.equal(await readAll(await dialAt('127.0.0.1', 15998)), '');
    await untilMetric(scene.server, /nodemesh_connections_refused_total\{reason="loopback"[^}]*\} 1/);
  });

  test('without a certificate nothing is sent, and the pod is not ready', async () => {
    const pod = workerPod('bare', [CLIENT], scene.home);
    scene.client.kernel.outbound.set(`${CLIENT}:15101`, services.http);
    scene.client.kernel.outbound.set(`${CLIENT}:15101`, { ip: services.peer.ip, port: services.peer.port });
    scene.client.worker.handle({
      type: 'pod',
      pod,
      listeners: [
        { direction: 'outbound', family: 4, slot: 0, fd: listenIn(scene.home, CLIENT, 15101) },
        { direction: 'inbound', family: 4, slot: 0, fd: listenIn(scene.home, CLIENT, 4191) },
      ],
    });
    const answer = await ask({ host: CLIENT, port: 15101, path: '/' });
    assert.equal(answer.status, 503);
    assert.equal(answer.headers['l5d-proxy-error'], 'the workload has no certificate yet');
    assert.equal((await ask({ host: CLIENT, port: 4191, path: '/ready' })).status, 503);
    scene.client.worker.handle({
      type: 'certificate',
      certificate: { identity: pod.identity, ...(await scene.authority.leaf(pod.identity)) },
    });
    assert.equal((await ask({ host: CLIENT, port: 4191, path: '/ready' })).status, 200);
    scene.client.worker.handle({ type: 'pod-removed', uid: pod.uid, ticket: 1 });
    await until(
      () => scene.client.sent.some((message) => message.type === 'pod-gone' && message.ticket === 1),
      'pod-gone',
    );
  });

  test('a pod that goes takes its connections, descriptors and series along; its number may come again', async () => {
    scene.lead('tcp', [endpoint(SERVER, TCP_PORT, { identity: identityOf('api'), inboundPort: 4143 })], true);
    await get('http', '/warm');
    const client = await dial('tcp');
    client.write('x');
    const server = await scene.nextAccepted();
    await readSome(server);
    const seen = [readAll(client), readAll(server)];
    const descriptors = readdirSync('/proc/self/fd').length;
    scene.server.worker.handle({ type: 'pod-removed', uid: scene.serverPod.uid, ticket: 2 });
    await until(
      () => scene.server.sent.some((message) => message.type === 'pod-gone' && message.ticket === 2),
      'pod-gone',
    );
    assert.equal(scene.server.worker.connections, 0);
    // Only the worker's own is left: what its limits refused.
    assert.equal(scene.server.registry.seriesCount, 1);
    assert.deepEqual(await Promise.all(seen), ['!ECONNRESET', '!ECONNRESET']);
    assert.ok(readdirSync('/proc/self/fd').length < descriptors);
    // Removing it once more, or one that never was, is answered too.
    scene.server.worker.handle({ type: 'pod-removed', uid: scene.serverPod.uid, ticket: 3 });
    assert.ok(scene.server.sent.some((message) => message.type === 'pod-gone' && message.ticket === 3));
    scene.server.worker.handle({
      type: 'pod',
      pod: scene.serverPod,
      listeners: [4143, HTTP_PORT].map((port, slot) => ({
        direction: 'inbound',
        family: 4,
        slot,
        fd: listenIn(scene.home, SERVER, port),
      })),
    });
    assert.equal((await get('http', '/again')).text, 'GET /again');
  });

  test('a client pod that goes leaves no series behind, not even of the ends of its connections', async () => {
    await get('http', '/warm');
    const client = await dial('tcp');
    client.on('error', () => client.destroy());
    client.write('x');
    (await scene.nextAccepted()).on('error', () => undefined);
    const { uid } = scene.clientPod;
    scene.client.worker.handle({ type: 'pod-removed', uid, ticket: 9 });
    await until(
      () => scene.client.sent.some((message) => message.type === 'pod-gone' && message.ticket === 9),
      'pod-gone',
    );
    assert.doesNotMatch(await scene.client.metrics(), /pod="web-0"/);
    scene.client.worker.handle({
      type: 'pod',
      pod: scene.clientPod,
      listeners: Object.values(services).map(({ listener }, slot) => ({
        direction: 'outbound',
        family: 4,
        slot,
        fd: listenIn(scene.home, CLIENT, listener),
      })),
    });
  });

  test('a drained worker finishes requests, closes idle connections, says so, and serves to the last', async () => {
    const agent = new Agent({ keepAlive: true });
    await ask({ host: CLIENT, port: services.http.listener, path: '/idle', agent });
    scene.client.worker.handle({ type: 'drain', graceMs: 30_000 });
    await until(() => scene.client.sent.some((message) => message.type === 'drained'), 'drained');
    assert.equal(scene.client.worker.connections, 0);
    // Until a successor's listeners take the place of its own, nobody else would.
    const late = await get('http', '/late');
    assert.equal(late.text, 'GET /late');
    assert.equal(late.headers['connection'], 'close');
    // Unless the agent goes on after all.
    scene.client.worker.handle({ type: 'resume' });
    const again = await ask({ host: CLIENT, port: services.http.listener, path: '/again', agent });
    assert.notEqual(again.headers['connection'], 'close');
    agent.destroy();
  });

  test('a worker that stops accepting leaves new connections to others and serves what it has', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const to = { host: CLIENT, port: services.http.listener, agent };
    await ask({ ...to, path: '/before' });
    scene.client.worker.handle({ type: 'stop-accepting' });
    assert.equal((await ask({ ...to, path: '/kept' })).text, 'GET /kept');
    agent.destroy();
  });
});
