// SPDX-License-Identifier: Apache-2.0
// Both halves of the mesh's TLS over real sockets, as a worker uses them: who gets in, and that a connection may be
// reset the moment its handshake is over.

import assert from 'node:assert/strict';
import { connect as connectTcp } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#lib/core/clock.ts';
import { nodeSocket } from '#lib/net/node-socket.ts';
import { listenPlain, type PlainServer } from '#lib/net/plain-fixture.ts';
import { PlainSocket } from '#lib/net/plain-socket.ts';
import { plainReadiness } from '#lib/net/readiness.ts';
import { createMeshContext, type KeyAndChain } from '#lib/tls/mesh-context.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { CLIENT_HELLO_BYTES_MAX, parseClientHello } from '../detect/client-hello.ts';
import { lookAhead } from '../detect/collect.ts';
import { attachDataSource } from '../exchange/byte-source.ts';
import { FAILURE_NONE, FAILURE_TLS_WRONG_IDENTITY } from '../failure.ts';
import { startMeshTls } from './mesh-client.ts';
import { MeshTlsServer, type Secured } from './mesh-server.ts';
import { TRANSPORT_ALPN } from './transport-header.ts';

const SERVER = 'server.mesh.serviceaccount.identity.linkerd.cluster.local';
const CLIENT = 'client.mesh.serviceaccount.identity.linkerd.cluster.local';
/** A use after free does not show every time. */
const TIMES = 50;

interface Accepted {
  readonly secured: Secured | null;
  readonly reason: string;
  readonly presented: string;
}

describe('handshakes of the mesh port', () => {
  let authority: TestAuthority;
  let foreign: TestAuthority;
  let leaf: KeyAndChain;
  let server: PlainServer;
  let known = true;
  /** The name in the last hello. */
  let asked: string | undefined;
  const readiness = plainReadiness();
  /** What is done with an accepted connection at once. */
  let onSecured: (accepted: Accepted, reset: () => void) => void;

  before(async () => {
    authority = await makeTestAuthority();
    foreign = await makeTestAuthority();
    leaf = await authority.leaf(CLIENT);
    const context = createMeshContext({
      certificate: await authority.leaf(SERVER),
      anchorsPem: authority.anchorPem,
    });
    const tls = new MeshTlsServer(() => (known ? context : undefined));
    server = listenPlain(readiness, (fd) => {
      const plain = new PlainSocket(readiness, fd);
      const options = {
        bytesMax: CLIENT_HELLO_BYTES_MAX,
        timeoutMs: 10_000,
        clock: systemClock,
        decide: (bytes: Buffer) => parseClientHello(bytes).kind !== 'partial',
      };
      lookAhead(plain, options, (_outcome, hello, unread) => {
        const read = parseClientHello(hello);
        asked = read.kind === 'hello' ? read.serverName : undefined;
        const raw = nodeSocket(plain.detach());
        raw.on('error', () => raw.destroy());
        tls.accept('direct', raw, unread ? null : hello, (secured, reason, presented) => {
          const reset = (): void => {
            if (secured === null) raw.destroy();
            else attachDataSource(secured.socket, raw).reset();
          };
          onSecured({ secured, reason, presented }, reset);
        });
      });
    });
  });
  after(() => {
    server.listener.close();
    readiness.close();
  });

  const where = () => ({ port: server.port, host: '127.0.0.1' });
  const dial = (certificate: KeyAndChain): TLSSocket => {
    const client = connectTls({
      ...where(),
      servername: SERVER,
      ALPNProtocols: [TRANSPORT_ALPN],
      rejectUnauthorized: false,
      cert: certificate.chainPem,
      key: certificate.keyPem,
    });
    client.on('error', () => client.destroy());
    client.once('secureConnect', () => client.write('as early as possible'));
    return client;
  };
  const accepted = (certificate: KeyAndChain): Promise<Accepted> =>
    new Promise((resolve) => {
      const client = dial(certificate);
      onSecured = (one, reset) => {
        reset();
        client.once('close', () => resolve(one));
      };
    });

  it('a refused client is named, and its connection may be closed at once', async () => {
    const stranger = await foreign.leaf(CLIENT);
    for (let count = 0; count < TIMES; count++) {
      const { secured, reason, presented } = await accepted(stranger);
      assert.equal(secured, null);
      assert.match(reason, /not trusted/);
      assert.equal(presented, CLIENT);
    }
  });

  it('an accepted connection may be reset at once', async () => {
    for (let count = 0; count < TIMES; count++) {
      const { secured, reason } = await accepted(leaf);
      assert.equal(secured?.identity, CLIENT, reason);
    }
  });

  it('a pod without a certificate refuses the handshake', async () => {
    known = false;
    try {
      for (let count = 0; count < TIMES; count++) {
        const { secured, reason } = await accepted(leaf);
        assert.equal(secured, null);
        assert.match(reason, /TLS handshake failed|closed by the client/);
      }
    } finally {
      known = true;
    }
  });

  it('what the client sends right behind its handshake is not lost', async () => {
    const text = await new Promise<string>((resolve) => {
      onSecured = ({ secured }) => {
        const source = attachDataSource((secured ?? assert.fail()).socket);
        source.onBytes = (buffer, length) => {
          resolve(buffer.toString('latin1', 0, length));
          source.socket.destroy();
        };
        source.socket.resume();
      };
      dial(leaf);
    });
    assert.equal(text, 'as early as possible');
  });

  const secure = (
    serverIdentity: string,
    then: (socket: TLSSocket | null, reset: () => void) => void,
    serverName = serverIdentity,
  ) =>
    new Promise<{ failure: number; reason: string }>((resolve) => {
      onSecured = ({ secured }) => secured?.socket.on('error', () => secured.socket.destroy());
      const raw = connectTcp(where(), () => {
        const context = createMeshContext({ certificate: leaf, anchorsPem: authority.anchorPem });
        const options = {
          context,
          serverIdentity,
          serverName,
          header: true,
          timeoutMs: 10_000,
          clock: systemClock,
        };
        startMeshTls(raw, options, (failure, socket, reason) => {
          then(socket, () => {
            if (socket !== null) attachDataSource(socket, raw).reset();
          });
          if (raw.closed) resolve({ failure, reason });
          else raw.once('close', () => resolve({ failure, reason }));
        });
      });
      raw.on('error', () => raw.destroy());
    });

  it('an own connection may be reset the moment it is secured', async () => {
    for (let count = 0; count < TIMES; count++) {
      const { failure, reason } = await secure(SERVER, (_socket, reset) => reset());
      assert.equal(failure, FAILURE_NONE, reason);
    }
  });

  it('a server may be asked for by another name than the one that it must prove', async () => {
    const { failure, reason } = await secure(SERVER, (socket) => socket?.destroy(), 'server.example');
    assert.equal(failure, FAILURE_NONE, reason);
    assert.equal(asked, 'server.example');
  });

  it('a server with another name is told from one that fails', async () => {
    // The name is sent as SNI; this server answers with its certificate whatever is asked for.
    for (let count = 0; count < TIMES; count++) {
      const { failure, reason } = await secure(CLIENT, () => undefined);
      assert.equal(failure, FAILURE_TLS_WRONG_IDENTITY);
      assert.match(reason, new RegExp(`expected ${CLIENT}, presented ${SERVER}`));
    }
  });
});
