// SPDX-License-Identifier: Apache-2.0
// Two pods behind one worker: the kernel's voucher in the place of TLS, and a pod that dials itself.

import { strict as assert } from 'node:assert';
import { after, before, describe, test } from 'node:test';
import { endpoint, identityOf, meshedOnly, untilMetric } from './harness.ts';
import { HTTP_HEADER, startFakePod } from './peers.ts';
import {
  createScene,
  dial,
  dialAt,
  get,
  HTTP_PORT,
  readAll,
  readSome,
  type Scene,
  SERVER,
  TCP_PORT,
} from './scene.ts';

describe('on the same node', () => {
  let scene: Scene;
  before(async () => {
    scene = await createScene({ sameNode: 'carrier' });
  });
  after(async () => scene.close());

  test('HTTP carries the identity that the kernel vouches for', async () => {
    assert.equal((await get('http', '/carried')).text, 'GET /carried');
    assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], identityOf('web'));
    assert.equal(scene.client.kernel.vouchers.size, 1);
    await untilMetric(
      scene.client,
      /request_total\{direction="outbound",[^}]*tls="true",server_id="api\.shop[^"]*",same_node="true",dst_deployment="api"[^}]*\} 1/,
    );
    await untilMetric(
      scene.client,
      /request_total\{direction="inbound",[^}]*tls="true",client_id="web\.shop[^"]*",same_node="true"[^}]*\} 1/,
    );
  });

  test('TCP goes both ways, with its ends', async () => {
    const client = await dial('tcp');
    client.end('up');
    const server = await scene.nextAccepted();
    assert.equal(await readAll(server), 'up');
    server.end('down');
    assert.equal(await readAll(client), 'down');
  });

  test('policy sees the voucher as an identity', async () => {
    scene.setPolicy({ authorizations: [meshedOnly] });
    assert.equal((await get('http', '/vouched')).status, 200);
    scene.setPolicy({
      authorizations: [
        { ...meshedOnly, authentication: { kind: 'tls', identities: [identityOf('other')], suffixes: [] } },
      ],
    });
    assert.equal((await get('http', '/vouched')).status, 403);
    const other = await dial('tcp');
    other.write('PING from another client');
    assert.equal(await readAll(other), '!ECONNRESET');
    scene.setPolicy({});
  });

  test('the header in plain text without a voucher is closed', async () => {
    const socket = await dialAt(SERVER, 4143);
    const before = scene.requests.length;
    socket.write(Buffer.from(`${HTTP_HEADER}GET /forged HTTP/1.1\r\nhost: a\r\n\r\n`, 'latin1'));
    assert.match(await readAll(socket), /^(!ECONNRESET)?$/);
    assert.equal(scene.requests.length, before);
    const line = await scene.client.logged('a connection to the mesh port is refused');
    assert.match(String(line.fields['reason']), /neither TLS nor a voucher/);
  });

  test('a voucher for a pod that is gone is closed', async () => {
    const marked = scene.client.kernel.markCarrier.bind(scene.client.kernel);
    scene.client.kernel.markCarrier = (fd) => marked(fd, 9999);
    scene.lead('tcp', [
      endpoint(SERVER, TCP_PORT, {
        identity: identityOf('api'),
        inboundPort: 4143,
        localPodUid: scene.serverPod.uid,
        labels: { version: 'new' },
      }),
    ]);
    const client = await dial('tcp');
    client.write('PING to nobody\x00');
    assert.match(await readAll(client), /^(!ECONNRESET)?$/);
    scene.client.kernel.markCarrier = marked;
    const lines = scene.client.log.lines.filter((line) => /no pod 9999/.test(String(line.fields['reason'])));
    assert.equal(lines.length, 1);
  });

  test('an endpoint of another node is reached by TLS', async () => {
    const leaf = await scene.authority.leaf(identityOf('api'));
    const pod = await startFakePod(scene.home, scene.authority.anchorPem, {
      cert: leaf.chainPem,
      key: leaf.keyPem,
      ALPNProtocols: ['transport.l5d.io/v1'],
    });
    scene.lead(
      'peerTcp',
      [endpoint('10.77.0.3', TCP_PORT, { identity: identityOf('api'), inboundPort: 4143 })],
      true,
    );
    const client = await dial('peerTcp');
    client.write('x');
    assert.equal((await pod.nextConnection()).alpnProtocol, 'transport.l5d.io/v1');
    client.destroy();
    pod.close();
  });

  test('a pod that dials its own service ends at its own inbound side as an unmeshed client', async () => {
    // The server pod's application cannot dial the client's listeners: the client pod is told that it is the server.
    const pod = {
      ...scene.clientPod,
      addresses: [...scene.clientPod.addresses, SERVER],
      netnsFd: scene.serverNs,
    };
    const itself = { ...pod, uid: 'uid-itself', name: 'itself-0', podIndex: 500 };
    const { listenIn } = await import('./harness.ts');
    scene.client.kernel.outbound.set('10.77.0.1:15100', { ip: '10.96.0.8', port: 80 });
    scene.client.worker.handle({
      type: 'pod',
      pod: itself,
      listeners: [
        { direction: 'outbound', family: 4, slot: 0, fd: listenIn(scene.home, '10.77.0.1', 15100) },
      ],
    });
    const self = { identity: identityOf('web'), inboundPort: 4143, localPodUid: itself.uid };
    scene.lead('itself', [endpoint(SERVER, HTTP_PORT, self)]);
    const { ask } = await import('./scene.ts');
    const answer = await ask({ host: '10.77.0.1', port: 15100, path: '/self' });
    assert.equal(answer.text, 'GET /self');
    assert.equal(scene.requests.at(-1)?.headers['l5d-client-id'], undefined);
    await untilMetric(
      scene.client,
      /request_total\{direction="inbound",[^}]*no_tls_reason="no_tls_from_remote"[^}]*pod="itself-0"/,
    );
    // Its own policy holds for it too.
    scene.client.worker.handle({
      type: 'pod',
      pod: {
        ...itself,
        policies: { byPort: [], fallback: { ...pod.policies.fallback, authorizations: [meshedOnly] } },
      },
      listeners: [],
    });
    assert.equal((await ask({ host: '10.77.0.1', port: 15100, path: '/self' })).status, 403);

    // TCP: ends and resets pass between the two halves.
    scene.lead('itself', [endpoint(SERVER, TCP_PORT, self)], true);
    scene.client.worker.handle({ type: 'pod', pod: itself, listeners: [] });
    const client = await dialAt('10.77.0.1', 15100);
    client.write('PING PING PING');
    const server = await scene.nextAccepted();
    assert.equal(await readSome(server), 'PING PING PING');
    server.resetAndDestroy();
    assert.equal(await readAll(client), '!ECONNRESET');
    const gone = new Promise<void>((resolve) => {
      scene.client.sent.length = 0;
      const look = setInterval(() => {
        if (!scene.client.sent.some((message) => message.type === 'pod-gone')) return;
        clearInterval(look);
        resolve();
      }, 5);
    });
    scene.client.worker.handle({ type: 'pod-removed', uid: itself.uid, ticket: 7 });
    await gone;
  });
});
