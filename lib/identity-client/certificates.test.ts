// SPDX-License-Identifier: Apache-2.0
// The keeper of certificates against a scripted identity service over real TLS and gRPC, on virtual time.
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, before, beforeEach, describe, it } from 'node:test';
import 'reflect-metadata';
import { status } from '@grpc/grpc-js';
import { Pkcs10CertificateRequest } from '@peculiar/x509';
import { seededRandom, VirtualClock } from '#lib/core/clock.ts';
import { PatientClock } from '#lib/core/patient-clock.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { type GrpcServer, serveGrpc } from '#lib/grpc/server.ts';
import { CallError } from '#lib/grpc/status.ts';
import {
  type CertifyRequest,
  type CertifyResponse,
  IdentityService,
} from '#lib/proto/gen/linkerd/identity.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import {
  type Certificate,
  type Certificates,
  createCertificates,
  type HeldCertificate,
} from './certificates.ts';
import { createCertifier } from './certify.ts';

const HOUR_MS = 3_600_000;
const identityName = 'linkerd-identity.linkerd.serviceaccount.identity.linkerd.cluster.local';
const idOf = (name: string): string => `${name}.shop.serviceaccount.identity.linkerd.cluster.local`;
const web = idOf('web');
let authority: TestAuthority;
let foreign: TestAuthority;

type Answer = (request: CertifyRequest) => Promise<CertifyResponse>;

class Refused extends Error {
  readonly code: status;
  readonly rule: string;
  constructor(code: status, rule: string) {
    super(rule);
    this.code = code;
    this.rule = rule;
  }
}

describe('certificates', () => {
  let clock = new VirtualClock(Date.now());
  let lines: LogLine[] = [];
  let directory = '';
  let server: GrpcServer;
  let certificates: Certificates;
  let requests: CertifyRequest[] = [];
  let answer: Answer;
  let published: Certificate[] = [];

  /** A certificate for 24 hours of the virtual clock. */
  async function issue(request: CertifyRequest, from = authority): Promise<CertifyResponse> {
    const csr = new Pkcs10CertificateRequest(Uint8Array.from(request.certificateSigningRequest));
    const leaf = await from.issuer.issue({
      publicKeyDer: Buffer.from(csr.publicKey.rawData),
      dnsName: request.identity,
      notBeforeMs: clock.wallMs() - 20_000,
      notAfterMs: clock.wallMs() + 24 * HOUR_MS,
    });
    return {
      leafCertificate: leaf.leafDer,
      intermediateCertificates: [...leaf.intermediatesDer],
      validUntil: undefined,
    };
  }

  before(async () => {
    authority = await makeTestAuthority();
    foreign = await makeTestAuthority();
  });
  beforeEach(async () => {
    clock = new VirtualClock(Date.now());
    lines = [];
    requests = [];
    published = [];
    answer = (request) => issue(request);
    directory = mkdtempSync(join(tmpdir(), 'nodemesh-certificates-'));
    writeFileSync(join(directory, 'token'), 'token-1\n');
    writeFileSync(join(directory, 'anchors.pem'), authority.anchorPem);
    server = await serve(0);
    certificates = keep();
  });
  afterEach(async () => {
    certificates.close();
    await server.close();
    rmSync(directory, { recursive: true });
  });

  async function serve(port: number, name = identityName): Promise<GrpcServer> {
    return await serveGrpc({
      host: '127.0.0.1',
      port,
      certificate: await authority.leaf(name),
      anchorsPem: authority.anchorPem,
      clientCertificate: 'optional',
      log: recordingLog([]),
      register: (grpc) =>
        grpc.addService(IdentityService, {
          async certify(request) {
            requests.push(request);
            try {
              return await answer(request);
            } catch (error) {
              const refusal = error instanceof Refused ? error : new Refused(status.UNKNOWN, String(error));
              const metadata = { 'nodemesh-rule': refusal.rule };
              throw new CallError(refusal.code, `${refusal.rule}: on purpose`, metadata);
            }
          },
        }),
    });
  }

  function keep(restored: readonly HeldCertificate[] = []): Certificates {
    const made = createCertificates({
      restored,
      identityAddress: `127.0.0.1:${server.address.port}`,
      identityName,
      tokenFile: join(directory, 'token'),
      anchorsFile: join(directory, 'anchors.pem'),
      clock,
      random: seededRandom(1),
      log: recordingLog(lines),
    });
    made.onChange((certificate) => published.push(certificate));
    return made;
  }

  const nextCertificate = (): Promise<Certificate> =>
    new Promise((resolve) => {
      const stop = certificates.onChange((certificate) => {
        stop();
        resolve(certificate);
      });
    });

  /** Resolves with the log line of the next failure; the timer of the next try is set by then. */
  async function nextFailure(): Promise<LogLine> {
    const count = failures().length;
    while (failures().length === count) await new Promise(setImmediate);
    return failures()[count] ?? assert.fail();
  }
  const failures = (): LogLine[] =>
    lines.filter(({ message }) => /no certificate yet|not renewed/.test(message));

  it('connects again every second while identity is away: no long back-off comes on top of its own', async () => {
    const connectsMs: number[] = [];
    const time = new PatientClock();
    const broken = createServer((socket) => {
      connectsMs.push(time.nowMs());
      socket.destroy();
    });
    await once(broken.listen(0, '127.0.0.1'), 'listening');
    const certifier = createCertifier({
      identityAddress: `127.0.0.1:${(broken.address() as AddressInfo).port}`,
      identityName,
      tokenFile: join(directory, 'token'),
      anchorsPem: () => authority.anchorPem,
      clock,
    });
    try {
      // A back-off that goes on doubling would have come to pauses of two to four seconds.
      const endMs = time.nowMs() + 6000;
      while (time.nowMs() < endMs) await assert.rejects(certifier.certify(web));
      const pauses = connectsMs.slice(1).map((atMs, index) => atMs - (connectsMs[index] ?? 0));
      assert.ok(pauses.length >= 5 && Math.max(...pauses) < 1700, pauses.map(Math.round).join(' '));
    } finally {
      certifier.close();
      broken.close();
    }
  });

  it('holds a key and chain for a wanted identity, that nobody else has seen', async () => {
    const told = nextCertificate();
    certificates.want(web);
    certificates.want(web);
    assert.equal(certificates.get(web), undefined);
    const certificate = await certificates.ready(web);
    assert.equal(await told, certificate);
    assert.equal(certificates.get(web), certificate);
    assert.equal(requests.length, 1);
    assert.equal(requests[0]?.token.toString(), 'token-1');
    const [leaf, issuer] = certificate.chainPem.split(/(?<=-----END CERTIFICATE-----\n)/);
    assert.equal(new X509Certificate(leaf ?? '').subjectAltName, `DNS:${web}`);
    assert.equal(new X509Certificate(issuer ?? '').ca, true);
    assert.equal(certificate.notAfterMs, new X509Certificate(leaf ?? '').validToDate.getTime());
  });

  it('renews within seconds when the wall clock was set forwards to near the end, and not for less', async () => {
    certificates.want(web);
    const first = await certificates.ready(web);
    clock.setWallBy(HOUR_MS);
    clock.advance(60_000);
    await new Promise(setImmediate);
    assert.equal(requests.length, 1, 'an hour of a day is no reason');
    const renewed = nextCertificate();
    clock.setWallBy(19 * HOUR_MS);
    clock.advance(10_000);
    assert.notEqual(await renewed, first);
    // Backwards: not due for long, by wall time; by the time that has passed it is.
    clock.setWallBy(-20 * HOUR_MS);
    const again = nextCertificate();
    clock.advance(24 * HOUR_MS * 0.76);
    assert.equal(await again, certificates.get(web));
    assert.equal(requests.length, 3);
  });

  it('renews at 70 % of the lifetime with a new key and the newest token', async () => {
    certificates.want(web);
    const first = await certificates.ready(web);
    writeFileSync(join(directory, 'token'), 'token-2\n');
    const second = nextCertificate();
    clock.advance(24 * HOUR_MS * 0.64);
    assert.equal(requests.length, 1);
    assert.equal(certificates.get(web), first);
    clock.advance(24 * HOUR_MS * 0.12);
    assert.equal(certificates.get(web), first, 'the old one stays in use meanwhile');
    const renewed = await second;
    assert.notEqual(renewed.keyPem, first.keyPem);
    assert.equal(certificates.get(web), renewed);
    assert.equal(requests[1]?.token.toString(), 'token-2');
  });

  it('goes on with what an earlier process held, and with its counts', async () => {
    certificates.want(web);
    await certificates.ready(web);
    const held = structuredClone(certificates.held());
    const cameAtMs = clock.wallMs();
    certificates.close();
    clock.advance(HOUR_MS);
    certificates = keep(held);
    certificates.want(web);
    assert.equal(certificates.get(web)?.keyPem, held[0]?.keyPem);
    assert.deepEqual(certificates.refreshes(web), { ok: 1, failed: 0, lastAtMs: cameAtMs });
    assert.equal(requests.length, 1);
    const renewed = nextCertificate();
    clock.advance(24 * HOUR_MS * 0.75);
    await renewed;
    assert.deepEqual(certificates.refreshes(web), { ok: 2, failed: 0, lastAtMs: clock.wallMs() });
  });

  it('keeps the old one to its end when the renewal fails, and says who, why and until when', async () => {
    certificates.want(web);
    const held = await certificates.ready(web);
    answer = () => Promise.reject(new Refused(status.PERMISSION_DENIED, 'account-not-meshed'));
    const failure = nextFailure();
    clock.advance(24 * HOUR_MS * 0.76);
    const line = await failure;
    assert.equal(line.message, 'certificate not renewed, the old one stays in use');
    assert.equal(line.fields['identity'], web);
    assert.match(String(line.fields['reason']), /account-not-meshed: on purpose/);
    assert.equal(line.fields['code'], 'MESH_IDENTITY_REFUSED');
    assert.equal(line.fields['validUntil'], new Date(held.notAfterMs).toISOString());
    assert.equal(certificates.get(web), held);

    const expired = nextFailure();
    clock.advance(24 * HOUR_MS * 0.25);
    assert.equal(certificates.get(web), undefined, 'an expired certificate is nobody’s');
    const end = await expired;
    assert.equal(end.level, 'error');
    assert.match(end.message, /has expired/);

    answer = (request) => issue(request);
    const again = nextCertificate();
    clock.advance(30_000);
    const renewed = await again;
    assert.equal(certificates.get(web), renewed);
  });

  it('tries again soon if it is asked to, slowly after a refusal', async () => {
    answer = () => Promise.reject(new Refused(status.UNAVAILABLE, 'account-unseen'));
    certificates.want(web);
    const delays: number[] = [];
    for (let count = 0; count < 8; count++) {
      const line = await nextFailure();
      assert.equal(line.fields['code'], 'MESH_IDENTITY_RETRY');
      delays.push(Number(line.fields['retryInMs']));
      clock.advance(Number(line.fields['retryInMs']) + 1);
    }
    assert.ok((delays[0] ?? 0) >= 100 && (delays[0] ?? 0) <= 200, `${delays[0]}`);
    assert.ok(
      delays.slice(3).every((delay) => delay >= 500 && delay <= 1000),
      delays.join(),
    );
    answer = () => Promise.reject(new Refused(status.PERMISSION_DENIED, 'own-account-only'));
    for (let count = 0; count < 4; count++) {
      const line = await nextFailure();
      delays.push(Number(line.fields['retryInMs']));
      clock.advance(Number(line.fields['retryInMs']) + 1);
    }
    assert.ok((delays.at(-1) ?? 0) >= 15_000, delays.join());
  });

  it('publishes no certificate for another name, key or anchor, or that is none', async () => {
    const bad: readonly (readonly [Answer, RegExp])[] = [
      [
        async (request) => ({ ...(await issue(request)), leafCertificate: await leafOf(idOf('cart')) }),
        /not for the key/,
      ],
      [(request) => issue({ ...request, identity: idOf('cart') }), /expected web\..*presented cart/],
      [(request) => issue(request, foreign), /does not lead to a trust anchor/],
      [async (request) => ({ ...(await issue(request)), intermediateCertificates: [] }), /does not lead/],
      [
        async (request) => ({ ...(await issue(request)), leafCertificate: Buffer.from('garbage') }),
        /answer cannot be read/,
      ],
    ];
    certificates.want(web);
    for (const [given, message] of bad) {
      answer = given;
      const line = await nextFailure();
      assert.match(String(line.fields['reason']), message);
      assert.equal(certificates.get(web), undefined);
      clock.advance(Number(line.fields['retryInMs']) + 1);
    }
    assert.deepEqual(published, []);
  });

  const leafOf = async (identity: string): Promise<Buffer> =>
    new X509Certificate((await authority.leaf(identity)).chainPem).raw;

  it('asks for so many at once and gets all', async () => {
    let running = 0;
    let most = 0;
    answer = async (request) => {
      most = Math.max(most, ++running);
      await new Promise(setImmediate);
      const response = await issue(request);
      running--;
      return response;
    };
    const identities = Array.from({ length: 30 }, (_, index) => idOf(`app-${index}`));
    for (const identity of identities) certificates.want(identity);
    const all = await Promise.all(identities.map((identity) => certificates.ready(identity)));
    assert.deepEqual(
      all.map(({ identity }) => identity),
      identities,
    );
    assert.ok(most <= 8, `${most}`);
    assert.equal(new Set(all.map(({ keyPem }) => keyPem)).size, 30);
  });

  it('forgets what is dropped, also while it is asked for', async () => {
    let release: (() => void) | undefined;
    const arrived = new Promise<void>((resolve) => {
      answer = async (request) => {
        resolve();
        await new Promise<void>((go) => (release = go));
        return await issue(request);
      };
    });
    certificates.want(web);
    const waiting = assert.rejects(certificates.ready(web), { code: 'MESH_NOT_FOUND' });
    await arrived;
    certificates.drop(web);
    await waiting;
    release?.();
    answer = (request) => issue(request);
    certificates.want(idOf('cart'));
    await certificates.ready(idOf('cart'));
    assert.deepEqual(
      published.map(({ identity }) => identity),
      [idOf('cart')],
    );
    assert.equal(certificates.get(web), undefined);
    await assert.rejects(certificates.ready(web), { code: 'MESH_NOT_FOUND' });
    certificates.drop(idOf('cart'));
    assert.equal(certificates.get(idOf('cart')), undefined);
    clock.advance(48 * HOUR_MS);
    assert.equal(requests.length, 2);
  });

  it('does not believe a service that proves another identity', async () => {
    const impostor = await serve(0, idOf('impostor'));
    const before = certificates;
    const real = server;
    server = impostor;
    certificates = keep();
    certificates.want(web);
    const line = await nextFailure();
    assert.equal(line.fields['code'], 'MESH_IDENTITY_UNAVAILABLE');
    assert.match(String(line.fields['reason']), new RegExp(`expected ${identityName}, presented impostor`));
    assert.equal(requests.length, 0, 'no token is sent to it');
    before.close();
    await real.close();
  });

  it('says that the token cannot be read', async () => {
    rmSync(join(directory, 'token'));
    certificates.want(web);
    assert.match(String((await nextFailure()).fields['reason']), /cannot read .*token/);
  });

  it('takes new anchors over and replaces what does not lead to them; keeps the old ones if new ones are broken', async () => {
    certificates.want(web);
    const old = await certificates.ready(web);
    const told: string[] = [];
    certificates.onAnchors((pem) => told.push(pem));
    const anchorsFile = join(directory, 'anchors.pem');

    writeFileSync(anchorsFile, 'no certificate at all');
    clock.advance(5000);
    while (!lines.some(({ level }) => level === 'error')) await new Promise(setImmediate);
    assert.match(lines.find(({ level }) => level === 'error')?.message ?? '', /old ones stay in use/);
    assert.equal(certificates.anchorsPem(), authority.anchorPem);

    const both = authority.anchorPem + foreign.anchorPem;
    const changed = new Promise<void>((resolve) => certificates.onAnchors(() => resolve()));
    writeFileSync(anchorsFile, both);
    clock.advance(5000);
    await changed;
    await new Promise(setImmediate);
    assert.equal(certificates.anchorsPem(), both);
    assert.deepEqual(told, [both]);
    assert.equal(certificates.get(web), old, 'still leads to one of them');

    answer = (request) => issue(request, foreign);
    const replaced = nextCertificate();
    const only = new Promise<void>((resolve) => certificates.onAnchors(() => resolve()));
    writeFileSync(anchorsFile, foreign.anchorPem);
    clock.advance(5000);
    await only;
    await new Promise(setImmediate);
    // The service's own certificate leads to the old anchor, but the connection to it is open already.
    clock.advance(0);
    assert.notEqual((await replaced).chainPem, old.chainPem);
  });

  it('does not start without anchors', () => {
    writeFileSync(join(directory, 'anchors.pem'), '');
    assert.throws(() => keep(), /holds no trust anchor/);
    rmSync(join(directory, 'anchors.pem'));
    assert.throws(() => keep(), /cannot read the trust anchors/);
  });
});
