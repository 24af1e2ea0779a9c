// SPDX-License-Identifier: Apache-2.0
// Who is let in, by address and by proved identity, for requests and connections; and what happens when that changes.

import 'reflect-metadata';
import { strict as assert } from 'node:assert';
import { createPrivateKey, webcrypto } from 'node:crypto';
import { after, before, beforeEach, describe } from 'node:test';
import { connect as dialTls } from 'node:tls';
import { SubjectAlternativeNameExtension, X509Certificate, X509CertificateGenerator } from '@peculiar/x509';
import { RawPeer } from '../../agent/proxy/exchange/raw-peers.ts';
import type { Authorization } from '../../agent/proxy/model.ts';
import { errnoName } from '#lib/core/errors.ts';
import { encodeTransportHeader, TRANSPORT_ALPN } from '../../agent/proxy/tls/transport-header.ts';
import { anyone, identityOf, meshedOnly, until, untilMetric } from '../proxy/harness.ts';
import { dialAt, SERVER } from '../proxy/scene.ts';
import { APP_PORT, createStage, OPAQUE_PORT, type Stage, statusOf, test } from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const WEB = identityOf('web');
const SPIFFE = 'spiffe://root.local/ns/shop/sa/web';
const HOUR_MS = 3_600_000;

const allows = (identities: readonly string[], suffixes: readonly string[] = []): Authorization => ({
  ...meshedOnly,
  authentication: { kind: 'tls', identities, suffixes },
});

describe('authorization', () => {
  let stage: Stage;
  before(async () => {
    stage = await createStage();
  });
  beforeEach(() => {
    stage.fresh();
    stage.setPod({});
  });
  after(async () => stage.close());

  /** Whether a request of a client with this identity reaches the application. */
  const passes = async (authorization: Authorization, dial: () => Promise<RawPeer>): Promise<boolean> => {
    stage.setPod({}, { authorizations: [authorization] });
    const client = await dial();
    client.write('GET / HTTP/1.1\r\nHost: policy\r\nConnection: close\r\n\r\n');
    await until(
      () => client.received !== '' || stage.app.connections.some((one) => one.received !== ''),
      'an answer, or the request at the application',
    );
    const server = stage.app.connections.find((one) => one.received !== '');
    if (server === undefined) {
      assert.equal(statusOf(await client.head()), 403);
      await client.close();
      return false;
    }
    await server.head();
    server.write(OK);
    assert.equal(statusOf(await client.take('ok')), 200);
    await client.close();
    server.socket.destroy();
    await until(() => server.closed, 'the end of the application’s connection');
    return true;
  };
  const meshed = async (): Promise<RawPeer> => stage.meshed(APP_PORT, 'http1');
  /** A client that proves a SPIFFE name. */
  const spiffe = async (): Promise<RawPeer> => {
    const { authority } = stage.scene;
    const algorithm = { name: 'ECDSA', namedCurve: 'P-256' };
    const issuer = new X509Certificate(authority.issuerPem);
    const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
    const issuerKey = createPrivateKey(authority.issuerKeyPem).export({ type: 'pkcs8', format: 'der' });
    const certificate = await X509CertificateGenerator.create({
      issuer: issuer.subject,
      publicKey: keys.publicKey,
      signingKey: await webcrypto.subtle.importKey('pkcs8', issuerKey, algorithm, false, ['sign']),
      signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
      notBefore: new Date(Date.now() - HOUR_MS),
      notAfter: new Date(Date.now() + HOUR_MS),
      extensions: [new SubjectAlternativeNameExtension([{ type: 'url', value: SPIFFE }], true)],
    });
    const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
    const socket = dialTls({
      socket: await dialAt(SERVER, 4143),
      ca: authority.anchorPem,
      servername: identityOf('api'),
      ALPNProtocols: [TRANSPORT_ALPN],
      cert: `${certificate.toString('pem')}\n${authority.issuerPem}`,
      key: `-----BEGIN PRIVATE KEY-----\n${key}\n-----END PRIVATE KEY-----\n`,
    });
    socket.write(encodeTransportHeader(APP_PORT, 'http1'));
    return new RawPeer(socket);
  };

  test('C-199 a rule for a SPIFFE name lets that name in', async () =>
    assert.equal(await passes(allows([SPIFFE]), spiffe), true));
  test('C-200 not another SPIFFE name', async () =>
    assert.equal(await passes(allows(['spiffe://root.local/ns/shop/sa/other']), spiffe), false));
  test('C-201 a rule for a name lets that name in', async () =>
    assert.equal(await passes(allows([WEB]), meshed), true));
  test('C-202 not another name', async () =>
    assert.equal(await passes(allows([identityOf('other')]), meshed), false));
  test('C-203 a rule for a suffix lets its names in', async () =>
    assert.equal(
      await passes(allows([], ['shop.serviceaccount.identity.linkerd.cluster.local']), meshed),
      true,
    ));
  test('C-204 not names of another suffix, nor half a label', async () => {
    assert.equal(await passes(allows([], ['other.cluster.local']), meshed), false);
    assert.equal(
      await passes(allows([], ['op.serviceaccount.identity.linkerd.cluster.local']), meshed),
      false,
    );
  });
  test('C-205 a suffix never matches a SPIFFE name', async () => {
    assert.equal(await passes(allows([], ['']), spiffe), false);
    assert.equal(await passes(allows([], ['sa/web', 'web']), spiffe), false);
  });
  test('C-206 one of several SPIFFE names is enough', async () =>
    assert.equal(await passes(allows(['spiffe://root.local/x', SPIFFE]), spiffe), true));
  test('C-207 one of several names is enough', async () =>
    assert.equal(await passes(allows([identityOf('other'), WEB]), meshed), true));

  /** Whether bytes of a client reach the application on the opaque port. */
  const connects = async (authorization: Authorization, dial: () => Promise<RawPeer>): Promise<boolean> => {
    stage.setPod({}, { authorizations: [authorization] });
    const before = stage.opaqueApp.connections.length;
    // The reset of a denied one may be there before its dialler has looked.
    const client = await dial().catch((error: unknown) => {
      if (errnoName(error) === 'ECONNRESET') return null;
      throw error;
    });
    if (client === null) {
      assert.equal(stage.opaqueApp.connections.length, before);
      return false;
    }
    client.write('hello\n');
    await until(
      () => client.ended || client.closed || stage.opaqueApp.connections.length > before,
      'an end, or a connection',
    );
    const through = stage.opaqueApp.connections.length > before;
    if (through) assert.equal(await (await stage.opaqueApp.accept()).take('\n'), 'hello\n');
    await client.close();
    return through;
  };
  const plain = async (): Promise<RawPeer> => stage.opaqueClient();
  const secured = async (): Promise<RawPeer> => stage.meshed(OPAQUE_PORT, undefined);

  test('C-216 TCP of an address in the network is allowed, and counted with the rule', async () => {
    const network = (net: string): Authorization => ({
      ...anyone,
      networks: [{ net, except: [] }],
      labels: { group: 'policy.linkerd.io', kind: 'authorizationpolicy', name: 'network' },
    });
    assert.equal(await connects(network('10.77.0.0/16'), plain), true);
    assert.equal(await connects(network('192.0.2.0/24'), plain), false);
    await untilMetric(
      stage.scene.server,
      /inbound_tcp_authz_allow_total\{[^}]*authz_group="policy.linkerd.io",authz_kind="authorizationpolicy",authz_name="network"[^}]*\} 1/,
    );
    await untilMetric(stage.scene.server, /inbound_tcp_authz_deny_total\{[^}]*\} 1/);
  });
  test('C-217 TCP of an identity', async () => {
    assert.equal(await connects(allows([WEB]), secured), true);
    assert.equal(await connects(allows([identityOf('other')]), secured), false);
    assert.equal(await connects(allows([WEB]), plain), false);
  });
  test('C-218 TCP of an identity by its suffix', async () => {
    assert.equal(await connects(allows([], ['cluster.local']), secured), true);
    assert.equal(await connects(allows([], ['example']), secured), false);
  });
  test('C-219 TLS is enough where that is the rule, plain text is not', async () => {
    const tls: Authorization = { ...meshedOnly, authentication: { kind: 'tls-unauthenticated' } };
    assert.equal(await connects(tls, secured), true);
    assert.equal(await connects(tls, plain), false);
  });

  test('C-440 a policy changes to deny: the next request on a kept connection is refused, a TCP stream is cut', async () => {
    const { client, server } = await stage.exchange('in', 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
    server.write(OK);
    await client.take('ok');
    const stream = await stage.opaqueClient();
    stream.write('hello\n');
    const other = await stage.opaqueApp.accept();
    await other.take('\n');
    stage.setPod({}, { authorizations: [] });
    client.write('GET / HTTP/1.1\r\nHost: kept\r\n\r\n');
    assert.equal(statusOf(await client.head()), 403);
    assert.equal(await stream.gone(), 'RST');
    await until(() => other.closed || other.ended, 'the end at the application');
  });
});
