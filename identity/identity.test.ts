// SPDX-License-Identifier: Apache-2.0
// The whole service on loopback: gRPC over mesh TLS, the admin port, and files that change while it runs.
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { join } from 'node:path';
import { afterEach, before, beforeEach, describe, it } from 'node:test';
import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { systemClock, VirtualClock } from '#lib/core/clock.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { createMeshChannel } from '#lib/grpc/client.ts';
import {
  type CertifyRequest,
  type CertifyResponse,
  IdentityClient,
} from '#lib/proto/gen/linkerd/identity.ts';
import type { PodEvent, Registry } from '#lib/registry/registry.ts';
import { createLocalTokenReviewer } from '#lib/registry-folder/token-review.ts';
import { secureMesh } from '#lib/tls/mesh-client.ts';
import { createMeshContext } from '#lib/tls/mesh-context.ts';
import { makeAuthority } from '#lib/x509-authority/make-authority.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { type IdentityOptions, type RunningIdentity, startIdentity } from './identity.ts';
import { idOf, TestCluster } from './test-cluster.ts';

const HOUR_MS = 3_600_000;
const identityName = idOf('linkerd-identity', 'nodemesh');
let authority: TestAuthority;
let other: TestAuthority;

describe('identity', () => {
  let lines: LogLine[] = [];
  let told: PodEvent[] = [];
  let test: TestCluster;
  let identity: RunningIdentity;
  let clients: IdentityClient[] = [];
  const file = (name: string): string => join(test.directory, name);

  before(async () => {
    authority = await makeTestAuthority();
    other = await makeTestAuthority();
  });
  beforeEach(async () => {
    lines = [];
    told = [];
    clients = [];
    test = new TestCluster();
    writeIssuer(authority);
    writeFileSync(file('anchors.pem'), authority.anchorPem);
    identity = await start();
  });
  afterEach(async () => {
    for (const client of clients) client.close();
    await identity.close();
    await test.close();
  });

  function writeIssuer(issuer: { readonly issuerPem: string; readonly issuerKeyPem: string }): void {
    writeFileSync(file('crt.pem'), issuer.issuerPem);
    writeFileSync(file('key.pem'), issuer.issuerKeyPem);
  }

  async function start(options: Partial<IdentityOptions> = {}): Promise<RunningIdentity> {
    const registry = test.registry();
    await registry.synced();
    const running = await startIdentity({
      config: {
        listen: { host: '127.0.0.1', port: 0 },
        adminListen: { host: '127.0.0.1', port: 0 },
        cluster: 'local',
        trustDomain: 'cluster.local',
        identityNamespace: 'linkerd',
        namespace: 'nodemesh',
        agentServiceAccount: 'nodemesh-agent',
        anchorsFile: file('anchors.pem'),
        issuerCertFile: file('crt.pem'),
        issuerKeyFile: file('key.pem'),
        leafLifetimeMs: 24 * HOUR_MS,
        clockSkewMs: 20_000,
      },
      registry,
      reviewer: createLocalTokenReviewer({
        publicKeyPem: test.tokenKey.publicKeyPem,
        registry,
        cluster: 'local',
        clock: systemClock,
      }),
      clock: test.clock,
      random: () => 0.5,
      log: recordingLog(lines),
      tell: (event) => told.push(event),
      ...options,
    });
    return running;
  }

  function client(anchorsPem = authority.anchorPem): IdentityClient {
    const channel = createMeshChannel({
      serverIdentity: identityName,
      material: () => ({ certificate: undefined, anchorsPem }),
    });
    const made = new IdentityClient(
      `127.0.0.1:${identity.address.port}`,
      channel.credentials,
      channel.options,
    );
    clients.push(made);
    return made;
  }

  const certify = (from: IdentityClient, request: CertifyRequest): Promise<CertifyResponse> =>
    new Promise((resolve, reject) => {
      from.certify(request, new Metadata(), { deadline: Date.now() + 10_000 }, (error, response) => {
        if (error === null) resolve(response);
        else reject(error);
      });
    });

  const admin = async (path: string): Promise<Response> =>
    await fetch(`http://127.0.0.1:${identity.adminAddress.port}${path}`);

  async function serverCertificate(anchorsPem: string): Promise<X509Certificate | undefined> {
    const socket = connectTcp(identity.address.port, '127.0.0.1');
    await once(socket, 'connect');
    const encrypted = await secureMesh(socket, {
      context: createMeshContext({ certificate: undefined, anchorsPem }),
      serverIdentity: identityName,
      handshakeTimeoutMs: 5000,
    });
    const certificate = encrypted.getPeerX509Certificate();
    encrypted.destroy();
    return certificate;
  }

  it('certifies an agent’s pods and a pod’s own account to clients without a certificate', async () => {
    const from = client();
    for (const token of [test.agentToken(), test.podToken('web', 'web-1')]) {
      const response = await certify(from, test.request(idOf('web'), token));
      const leaf = new X509Certificate(response.leafCertificate);
      assert.equal(leaf.subjectAltName, `DNS:${idOf('web')}`);
      assert.equal(response.intermediateCertificates.length, 1);
    }
  });

  it('answers a refusal with status, rule and reason, logs who was refused and counts it', async () => {
    const token = test.podToken('web', 'web-1');
    await assert.rejects(certify(client(), test.request(idOf('cart'), token)), (error: ServiceError) => {
      assert.equal(error.code, status.FAILED_PRECONDITION);
      assert.match(error.details, /^own-account-only: the token of shop\/web does not certify cart\.shop/);
      assert.deepEqual(error.metadata.get('nodemesh-rule'), ['own-account-only']);
      return true;
    });
    const line = lines.find(({ message }) => message === 'certificate refused');
    assert.equal(line?.level, 'warn');
    assert.equal(line?.fields['identity'], idOf('cart'));
    assert.match(String(line?.fields['reason']), /shop\/web/);
    const unseen = certify(client(), test.request(idOf('nobody'), test.agentToken()));
    await assert.rejects(unseen, { code: status.UNAVAILABLE });
    await certify(client(), test.request(idOf('web'), test.agentToken()));
    const metrics = await (await admin('/metrics')).text();
    assert.match(metrics, /identity_certify_total\{result="own-account-only"\} 1\n/);
    assert.match(metrics, /identity_certify_total\{result="account-unseen"\} 1\n/);
    assert.match(metrics, /identity_certify_total\{result="issued"\} 1\n/);
    assert.match(metrics, /identity_certify_total\{result="token-invalid"\} 0\n/);
  });

  it('never writes a token or a key into its log', async () => {
    const token = test.agentToken();
    await certify(client(), test.request(idOf('web'), token));
    await assert.rejects(certify(client(), test.request(idOf('out'), token)));
    const text = JSON.stringify(lines);
    assert.ok(!text.includes(token.split('.')[2] ?? token));
    assert.ok(!text.includes('PRIVATE KEY'));
  });

  it('serves /live, /ready and /metrics, and is ready once the cluster has been read', async () => {
    assert.equal((await admin('/live')).status, 200);
    assert.equal((await admin('/ready')).status, 200);
    assert.equal((await admin('/nothing')).status, 404);
    const metrics = await (await admin('/metrics')).text();
    const ttl = Number(/^issuer_cert_ttl_seconds (\S+)$/m.exec(metrics)?.[1]);
    assert.ok(Math.abs(ttl - (authority.issuer.notAfterMs - test.clock.wallMs()) / 1000) < 2, `${ttl}`);
    await identity.close();
    let read: (() => void) | undefined;
    const registry = test.registry();
    const unread: Registry = {
      synced: () => new Promise((resolve) => (read = resolve)),
      list: (kind) => registry.list(kind),
      get: (kind, key) => registry.get(kind, key),
      watch: (kind, handlers) => registry.watch(kind, handlers),
      reportStatus: (pod, report) => registry.reportStatus(pod, report),
      close: () => void registry.close(),
    };
    identity = await start({ registry: unread });
    assert.equal((await admin('/ready')).status, 503);
    read?.();
    await new Promise(setImmediate);
    assert.equal((await admin('/ready')).status, 200);
  });

  it('takes over a new issuer and new anchors, and certifies itself by them', async () => {
    const request = test.request(idOf('web'), test.agentToken());
    const from = client();
    await certify(from, request);
    writeFileSync(file('anchors.pem'), authority.anchorPem + other.anchorPem);
    writeIssuer(other);
    await identity.checkFiles();
    assert.deepEqual(
      told.map(({ type, reason }) => `${type} ${reason}`),
      ['Normal IssuerUpdated', 'Normal TrustAnchorsUpdated'],
    );
    assert.match(told[1]?.message ?? '', /2 certificates/);
    const [der = Buffer.alloc(0)] = (await certify(from, request)).intermediateCertificates;
    assert.equal(new X509Certificate(der).toString(), new X509Certificate(other.issuerPem).toString());
    await certify(client(other.anchorPem), request);
    assert.ok(await serverCertificate(other.anchorPem));
    await assert.rejects(serverCertificate(authority.anchorPem), /TLS with linkerd-identity/);
  });

  it('keeps the old issuer when the new one cannot be used, and says why', async () => {
    const expired = await makeAuthority({
      trustDomain: 'cluster.local',
      notBeforeMs: Date.now() - 48 * HOUR_MS,
      anchorLifetimeMs: 72 * HOUR_MS,
      issuerLifetimeMs: HOUR_MS,
    });
    const leaf = await authority.leaf('no-authority');
    const { anchorPem } = authority;
    for (const [issuer, anchors, reason] of [
      [other, anchorPem, /does not lead to a trust anchor/],
      [{ ...authority, issuerKeyPem: other.issuerKeyPem }, anchorPem, /key does not belong/],
      [{ issuerPem: leaf.chainPem, issuerKeyPem: leaf.keyPem }, anchorPem, /is no certificate authority/],
      [expired, expired.anchorPem, /expired at/],
      [{ ...authority, issuerKeyPem: 'nonsense' }, anchorPem, /key cannot be read/],
      [{ ...authority, issuerPem: 'nonsense' }, anchorPem, /holds no certificate/],
      [authority, 'nonsense', /does not lead to a trust anchor/],
    ] as const) {
      lines.length = 0;
      told.length = 0;
      writeIssuer(issuer);
      writeFileSync(file('anchors.pem'), anchors);
      await identity.checkFiles();
      const line = lines.find(({ level }) => level === 'error');
      assert.match(line?.message ?? '', /the old ones stay in force/);
      assert.match(String(line?.fields['reason']), reason);
      assert.deepEqual(
        told.map(({ type, reason: word }) => `${type} ${word}`),
        ['Warning IssuerUpdateSkipped'],
      );
      assert.match(told[0]?.message ?? '', reason);
      assert.doesNotMatch(told[0]?.message ?? '', /PRIVATE KEY/);
      const response = await certify(client(), test.request(idOf('web'), test.agentToken()));
      const [der = Buffer.alloc(0)] = response.intermediateCertificates;
      assert.equal(new X509Certificate(der).toString(), new X509Certificate(authority.issuerPem).toString());
    }
  });

  it('does not start with an issuer that cannot be used', async () => {
    writeIssuer(other);
    await assert.rejects(start(), /does not lead to a trust anchor/);
  });

  it('renews its own certificate while it serves', async () => {
    await identity.close();
    // A clock that is 17 hours late: the certificate that it renews at 70 % of 24 hours is valid in real time.
    const clock = new VirtualClock(Date.now() - 17 * HOUR_MS);
    identity = await start({ clock });
    const first = await serverCertificate(authority.anchorPem);
    clock.advance(17 * HOUR_MS);
    let second = await serverCertificate(authority.anchorPem);
    while (second?.serialNumber === first?.serialNumber) {
      await new Promise(setImmediate);
      second = await serverCertificate(authority.anchorPem);
    }
    assert.ok((second?.validToDate.getTime() ?? 0) > (first?.validToDate.getTime() ?? Infinity));
  });

  it('outlives garbage on its port, and oversized messages', async () => {
    const garbage = connectTcp(identity.address.port, '127.0.0.1');
    garbage.on('error', () => undefined);
    garbage.resume();
    garbage.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    await once(garbage, 'close');
    const request = test.request(idOf('web'), test.agentToken());
    const large = { ...request, token: Buffer.alloc(65_536) };
    await assert.rejects(certify(client(), large), { code: status.RESOURCE_EXHAUSTED });
    await certify(client(), request);
  });
});
