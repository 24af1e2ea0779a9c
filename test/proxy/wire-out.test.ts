// SPDX-License-Identifier: Apache-2.0
// The wire to an endpoint on another node, byte for byte, against a server made of node:tls; and every way in which
// the endpoint is not who it should be: never plain text, 502, and a log line that names who and why.

import { strict as assert } from 'node:assert';
import type { TLSSocket } from 'node:tls';
import { after, before, describe, test } from 'node:test';
import { endpoint, identityOf, serveIn, untilMetric } from './harness.ts';
import {
  ALPN,
  type FakePod,
  HTTP_HEADER,
  makeTestAuthority,
  material,
  OPAQUE_HEADER,
  readBytes,
  startFakePod,
} from './peers.ts';
import { createScene, dial, get, PEER, readAll, readSome, type Scene, TCP_PORT } from './scene.ts';

const DAY_MS = 86_400_000;

describe('the wire to an endpoint', () => {
  let scene: Scene;
  before(async () => {
    // An endpoint whose agent takes HTTP/1 only.
    scene = await createScene({ http2: false });
  });
  after(async () => scene.close());

  const withPod = async <T>(
    options: Parameters<typeof startFakePod>[2],
    run: (pod: FakePod) => Promise<T>,
  ): Promise<T> => {
    const pod = await startFakePod(scene.home, scene.authority.anchorPem, options);
    try {
      return await run(pod);
    } finally {
      pod.close();
    }
  };
  const good = async (): Promise<{ cert: string; key: string; ALPNProtocols: string[] }> => ({
    ...(await material({ authority: scene.authority, identity: identityOf('api') })),
    ALPNProtocols: [ALPN],
  });

  test('HTTP: TLS 1.3, SNI, ALPN, the pod’s certificate, header with port and protocol, then the request', async () => {
    await withPod(await good(), async (pod) => {
      const answer = get('peer', '/wire');
      const socket = await pod.nextConnection();
      assert.equal(socket.getProtocol(), 'TLSv1.3');
      assert.equal((socket as TLSSocket & { servername: string }).servername, identityOf('api'));
      assert.equal(socket.alpnProtocol, ALPN);
      assert.equal(socket.isSessionReused(), false);
      assert.equal(socket.getPeerX509Certificate()?.subjectAltName, `DNS:${identityOf('web')}`);
      const text = await readBytes(socket, HTTP_HEADER.length + 10);
      assert.equal(text.slice(0, HTTP_HEADER.length), HTTP_HEADER);
      assert.match(text.slice(HTTP_HEADER.length), /^GET \/wire HTTP\/1\.1\r\n/);
      socket.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi');
      assert.equal((await answer).text, 'hi');
    });
  });

  test('opaque: a header without a protocol, then the bytes; the end is close_notify', async () => {
    await withPod(await good(), async (pod) => {
      const client = await dial('peerTcp');
      client.end('bytes');
      const socket = await pod.nextConnection();
      assert.equal(await readAll(socket), `${OPAQUE_HEADER}bytes`);
      socket.end('answer');
      assert.equal(await readAll(client), 'answer');
    });
  });

  test('every connection is a full handshake', async () => {
    await withPod(await good(), async (pod) => {
      for (let round = 0; round < 3; round++) {
        const client = await dial('peerTcp');
        client.write('x');
        const socket = await pod.nextConnection();
        assert.equal(socket.isSessionReused(), false);
        client.destroy();
        socket.destroy();
      }
    });
  });

  test('an external workload is asked for by the name of its server, and proves its identity', async () => {
    const named = (serverName?: string): void => {
      const more = { identity: identityOf('api'), inboundPort: 4143, ...(serverName && { serverName }) };
      scene.lead('peerTcp', [endpoint(PEER, TCP_PORT, more)], true);
    };
    named('vm.example');
    try {
      await withPod(await good(), async (pod) => {
        const client = await dial('peerTcp');
        client.end('bytes');
        const socket = await pod.nextConnection();
        assert.equal((socket as TLSSocket & { servername: string }).servername, 'vm.example');
        assert.equal(await readAll(socket), `${OPAQUE_HEADER}bytes`);
        socket.end();
        await readAll(client);
      });
    } finally {
      named();
    }
  });

  const refused = async (
    options: Parameters<typeof startFakePod>[2],
    reason: RegExp,
    error: string,
  ): Promise<void> => {
    const lines = scene.client.log.lines.length;
    await withPod(options, async () => {
      const answer = await get('peer', '/refused');
      assert.equal(answer.status, 502);
      assert.equal(answer.headers['l5d-proxy-error'], error);
      const line = scene.client.log.lines
        .slice(lines)
        .find(({ message }) => message === 'TLS with an endpoint failed');
      assert.equal(line?.fields['client'], 'shop/web-0');
      assert.equal(line?.fields['clientIdentity'], identityOf('web'));
      assert.equal(line?.fields['endpoint'], '10.77.0.3:4143');
      assert.equal(line?.fields['serverIdentity'], identityOf('api'));
      assert.match(String(line?.fields['reason']), reason);
    });
  };
  const HANDSHAKE = 'TLS handshake with the endpoint failed';

  test('a server with another identity is refused', async () => {
    const shown = await material({ authority: scene.authority, identity: identityOf('thief') });
    await refused(
      { ...shown, ALPNProtocols: [ALPN] },
      /expected api\.shop.*presented thief\.shop/,
      'certificate does not match TLS identity',
    );
  });

  test('a server of a foreign anchor is refused', async () => {
    const foreign = await makeTestAuthority();
    const shown = await material({ authority: foreign, identity: identityOf('api') });
    await refused({ ...shown, ALPNProtocols: [ALPN] }, /certificate|issuer|verify/i, HANDSHAKE);
  });

  test('a server with an expired certificate is refused', async () => {
    const wallMs = Date.now() - DAY_MS / 2;
    const shown = await material({ authority: scene.authority, identity: identityOf('api'), wallMs });
    await refused({ ...shown, ALPNProtocols: [ALPN] }, /expired/, HANDSHAKE);
  });

  test('a server without the protocol is refused', async () => {
    const { cert, key } = await good();
    await refused({ cert, key }, /transport header/, HANDSHAKE);
  });

  test('a server of TLS 1.2 is refused', async () => {
    await refused({ ...(await good()), maxVersion: 'TLSv1.2' }, /./, HANDSHAKE);
  });

  test('an endpoint that speaks no TLS is never spoken to in plain text', async () => {
    const plain = await serveIn(scene.home, '10.77.0.3', 4143, (socket) => {
      socket.on('error', () => socket.destroy());
      void readSome(socket).then((text) => {
        seen.push(text);
        socket.end('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
      });
    });
    const seen: string[] = [];
    const answer = await get('peer', '/secret-path');
    assert.equal(answer.status, 502);
    assert.equal(seen.length, 1);
    assert.ok(!seen[0]?.includes('secret-path'));
    plain.close();
  });

  test('an endpoint where nobody listens is 502, and counted', async () => {
    const answer = await get('peer', '/');
    assert.equal(answer.status, 502);
    await untilMetric(scene.client, /outbound_http_errors_total\{error="i\/o"[^}]*\} [1-9]/);
    await untilMetric(
      scene.client,
      /response_total\{direction="outbound",authority="peer[^}]*status_code="502",classification="failure"\} [1-9]/,
    );
  });

  test('a new certificate is used by new connections, old ones go on', async () => {
    await withPod(await good(), async (pod) => {
      const before = await dial('peerTcp');
      before.write('one');
      const first = await pod.nextConnection();
      await readBytes(first, OPAQUE_HEADER.length + 3);
      const serial = first.getPeerX509Certificate()?.serialNumber;
      const identity = identityOf('web');
      scene.client.worker.handle({
        type: 'certificate',
        certificate: { identity, ...(await scene.authority.leaf(identity)) },
      });
      const later = await dial('peerTcp');
      later.write('two');
      const second = await pod.nextConnection();
      assert.notEqual(second.getPeerX509Certificate()?.serialNumber, serial);
      before.write('more');
      assert.equal(await readSome(first), 'more');
      for (const socket of [before, later, first, second]) socket.destroy();
    });
  });

  test('new trust anchors hold for new connections', async () => {
    const next = await makeTestAuthority();
    scene.client.worker.handle({ type: 'anchors', pem: next.anchorPem });
    await refused(await good(), /certificate|issuer|verify/i, HANDSHAKE);
    scene.client.worker.handle({
      type: 'anchors',
      pem: `${next.anchorPem}${scene.authority.anchorPem}`,
    });
    await withPod(await good(), async (pod) => {
      const answer = get('peer', '/both');
      const socket = await pod.nextConnection();
      await readBytes(socket, HTTP_HEADER.length + 1);
      socket.end('HTTP/1.1 204 No Content\r\n\r\n');
      assert.equal((await answer).status, 204);
    });
  });
});
