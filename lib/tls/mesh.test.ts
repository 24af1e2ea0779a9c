// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { afterEach, before, describe, it } from 'node:test';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { secureMesh } from './mesh-client.ts';
import { createMeshContext, type KeyAndChain } from './mesh-context.ts';
import { listenMesh, type MeshServer, type MeshServerOptions } from './mesh-server.ts';

const HOUR_MS = 3_600_000;
const serverName = 'linkerd-identity.linkerd.serviceaccount.identity.linkerd.cluster.local';
const web = 'web.shop.serviceaccount.identity.linkerd.cluster.local';
let authority: TestAuthority;
let foreign: TestAuthority;
let serverLeaf: KeyAndChain;
let webLeaf: KeyAndChain;

before(async () => {
  authority = await makeTestAuthority();
  foreign = await makeTestAuthority();
  serverLeaf = await authority.leaf(serverName);
  webLeaf = await authority.leaf(web);
});

interface Accepted {
  readonly socket: TLSSocket;
  readonly identity: string | undefined;
}

class Harness {
  readonly lines: LogLine[] = [];
  readonly accepted: Accepted[] = [];
  readonly #arrivals: ((accepted: Accepted) => void)[] = [];
  readonly #sockets: { destroy(): unknown }[] = [];
  server: MeshServer | undefined;

  async listen(options: Partial<MeshServerOptions> = {}): Promise<number> {
    this.server = await listenMesh({
      host: '127.0.0.1',
      port: 0,
      certificate: serverLeaf,
      anchorsPem: authority.anchorPem,
      clientCertificate: 'optional',
      connectionsMax: 100,
      handshakeTimeoutMs: 5000,
      log: recordingLog(this.lines),
      onConnection: (socket, identity) => {
        this.#sockets.push(socket);
        socket.resume();
        const accepted = { socket, identity };
        this.accepted.push(accepted);
        this.#arrivals.shift()?.(accepted);
      },
      ...options,
    });
    return this.server.address.port;
  }

  next(): Promise<Accepted> {
    return new Promise((resolve) => this.#arrivals.push(resolve));
  }

  async connect(
    certificate: KeyAndChain | undefined,
    expected = serverName,
    anchorsPem = authority.anchorPem,
  ): Promise<TLSSocket> {
    const socket = connectTcp(this.server?.address.port ?? 0, '127.0.0.1');
    this.#sockets.push(socket);
    await once(socket, 'connect');
    return await secureMesh(socket, {
      context: createMeshContext({ certificate, anchorsPem }),
      serverIdentity: expected,
      handshakeTimeoutMs: 5000,
    });
  }

  /** A TLS client that nobody restrains. */
  async foreignClient(options: ConnectionOptions): Promise<TLSSocket> {
    const socket = connectTls({
      port: this.server?.address.port ?? 0,
      host: '127.0.0.1',
      servername: serverName,
      rejectUnauthorized: false,
      ...options,
    });
    this.#sockets.push(socket);
    await once(socket, 'secureConnect');
    return socket;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await this.server?.close();
  }
}

describe('mesh TLS', () => {
  let harness = new Harness();
  afterEach(async () => {
    await harness.close();
    harness = new Harness();
  });

  /** The client believes in the connection until the server closes it: TLS 1.3 has no answer to a certificate. */
  async function closedByServer(certificate: KeyAndChain | undefined): Promise<LogLine | undefined> {
    const socket = await harness.connect(certificate);
    socket.on('error', () => undefined);
    socket.resume();
    await once(socket, 'close');
    assert.equal(harness.accepted.length, 0);
    return harness.lines.find((line) => line.level === 'warn');
  }

  it('tells the server who the client is, and sends the expected identity as server name', async () => {
    await harness.listen();
    const arrival = harness.next();
    const client = await harness.connect(webLeaf);
    const { identity, socket } = await arrival;
    assert.equal(identity, web);
    assert.equal(socket.servername, serverName);
    assert.equal(client.getProtocol(), 'TLSv1.3');
    assert.equal(client.alpnProtocol, false);
  });

  it('lets a client without a certificate in where that is optional', async () => {
    await harness.listen();
    const arrival = harness.next();
    await harness.connect(undefined);
    assert.equal((await arrival).identity, undefined);
  });

  it('turns a client without a certificate away where one is required', async () => {
    await harness.listen({ clientCertificate: 'required' });
    const line = await closedByServer(undefined);
    assert.equal(line?.fields['reason'], 'no client certificate');
  });

  it('never takes a bad certificate for no certificate: foreign anchor', async () => {
    await harness.listen();
    const line = await closedByServer(await foreign.leaf(web));
    assert.equal(line?.message, 'client refused');
    assert.equal(line?.fields['identity'], web);
    assert.match(String(line?.fields['reason']), /UNABLE_TO_GET_ISSUER|UNABLE_TO_VERIFY|SELF_SIGNED/);
  });

  it('turns an expired client certificate away', async () => {
    await harness.listen();
    const line = await closedByServer(await authority.leaf(web, Date.now() - 3 * HOUR_MS));
    assert.match(String(line?.fields['reason']), /EXPIRED/);
  });

  it('ends with an error that names the expected and the presented identity', async () => {
    await harness.listen();
    await assert.rejects(harness.connect(webLeaf, web), (error: Error) => {
      assert.match(error.message, new RegExp(`expected ${web}, presented ${serverName}`));
      return true;
    });
  });

  it('ends with an error when the server leads to a foreign anchor or has expired', async () => {
    await harness.listen();
    await assert.rejects(
      harness.connect(undefined, serverName, foreign.anchorPem),
      /TLS with linkerd-identity/,
    );
    await harness.close();
    harness = new Harness();
    await harness.listen({ certificate: await authority.leaf(serverName, Date.now() - 3 * HOUR_MS) });
    await assert.rejects(harness.connect(undefined), /expired/i);
  });

  it('speaks TLS 1.3 only', async () => {
    await harness.listen();
    await assert.rejects(harness.foreignClient({ maxVersion: 'TLSv1.2' }), /alert|version/i);
  });

  it('takes clients that offer ALPN and clients that do not', async () => {
    await harness.listen();
    assert.equal((await harness.foreignClient({ ALPNProtocols: ['h2'] })).alpnProtocol, false);
    assert.equal((await harness.foreignClient({})).alpnProtocol, false);
  });

  it('resumes no session: each connection proves its identity anew', async () => {
    await harness.listen();
    const sessions: Buffer[] = [];
    const first = harness.next();
    const options = { cert: webLeaf.chainPem, key: webLeaf.keyPem };
    const client = await harness.foreignClient(options);
    client.on('session', (session) => sessions.push(session));
    const { socket } = await first;
    client.resume();
    socket.end('bye');
    await once(client, 'end');
    const session = sessions[0] ?? client.getSession();
    const second = harness.next();
    const again = await harness.foreignClient({
      ...options,
      ...(session === undefined ? {} : { session }),
    });
    assert.equal(again.isSessionReused(), false);
    assert.equal((await second).identity, web);
  });

  it('uses new material for new connections and leaves the old ones alone', async () => {
    await harness.listen();
    const arrival = harness.next();
    const old = await harness.connect(webLeaf);
    const { socket } = await arrival;
    harness.server?.setMaterial({
      certificate: await foreign.leaf(serverName),
      anchorsPem: foreign.anchorPem,
    });
    await assert.rejects(harness.connect(webLeaf), /TLS with/);
    const next = harness.next();
    await harness.connect(await foreign.leaf(web), serverName, foreign.anchorPem);
    assert.equal((await next).identity, web);
    socket.write('still here');
    const [data] = (await once(old, 'data')) as [Buffer];
    assert.equal(data.toString(), 'still here');
  });

  it('trusts both anchors while one of the same name replaces the other', async () => {
    // Also when the files were joined without a line feed between them.
    const anchorsPem = foreign.anchorPem.trim() + authority.anchorPem.trim();
    await harness.listen({ anchorsPem });
    for (const leaf of [webLeaf, await foreign.leaf(web)]) {
      const arrival = harness.next();
      await harness.connect(leaf, serverName, anchorsPem);
      assert.equal((await arrival).identity, web);
    }
  });

  it('is not held up by a client that stops in the middle of its handshake', async () => {
    const port = await harness.listen();
    const stalled = connectTcp(port, '127.0.0.1');
    await once(stalled, 'connect');
    stalled.write(Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00]));
    const arrival = harness.next();
    await harness.connect(webLeaf);
    assert.equal((await arrival).identity, web);
    stalled.destroy();
  });

  it('closes the connection of a client that does not finish its handshake', async () => {
    const port = await harness.listen({ handshakeTimeoutMs: 50 });
    for (const said of [[], [0x16, 0x03, 0x01, 0x02, 0x00]]) {
      const stalled = connectTcp(port, '127.0.0.1');
      stalled.on('error', () => undefined);
      stalled.write(Buffer.from(said));
      stalled.resume();
      await once(stalled, 'close');
    }
  });

  it('survives garbage', async () => {
    const port = await harness.listen();
    const garbage = connectTcp(port, '127.0.0.1');
    garbage.on('error', () => undefined);
    garbage.resume();
    garbage.write('GET / HTTP/1.1\r\n\r\n');
    await once(garbage, 'close');
    const arrival = harness.next();
    await harness.connect(undefined);
    await arrival;
  });

  it('gives up on a server that says nothing', async () => {
    const { createServer } = await import('node:net');
    const silent = createServer((socket) => socket.resume());
    silent.listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const address = silent.address();
    const socket = connectTcp(typeof address === 'object' ? (address?.port ?? 0) : 0, '127.0.0.1');
    await once(socket, 'connect');
    await assert.rejects(
      secureMesh(socket, {
        context: createMeshContext({ certificate: undefined, anchorsPem: authority.anchorPem }),
        serverIdentity: serverName,
        handshakeTimeoutMs: 50,
      }),
      /took too long/,
    );
    assert.ok(socket.destroyed);
    silent.close();
  });
});
