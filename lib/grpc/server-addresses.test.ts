// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { after, afterEach, before, describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Metadata } from '@grpc/grpc-js';
import { VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import { IdentityClient, IdentityService } from '#lib/proto/gen/linkerd/identity.ts';
import type { KeyAndChain } from '#lib/tls/mesh-context.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { createMeshChannel, type DialFailure } from './client.ts';
import { type FullListener, fullListener } from './full-listener.ts';
import { dialOf, firstOf, ServerAddresses, targetOf } from './server-addresses.ts';
import { type GrpcServer, serveGrpc } from './server.ts';

const NAME = 'identity.mesh.svc.cluster.local:8080';

describe('what a failed dial is told as', () => {
  const both = `10.96.0.7:8080,${NAME}`;
  it('the address as listed, or the name with what it was looked up to be, and the next of the list', () => {
    assert.deepEqual(dialOf(both, '10.96.0.7', 8080), { address: '10.96.0.7:8080', next: NAME });
    assert.deepEqual(dialOf(both, '10.96.3.3', 8080), {
      address: `${NAME} (10.96.3.3:8080)`,
      next: '10.96.0.7:8080',
    });
    assert.deepEqual(dialOf('[fd00::7]:8080,[fd00::8]:81', 'fd00::8', 81), {
      address: '[fd00::8]:81',
      next: '[fd00::7]:8080',
    });
    assert.deepEqual(dialOf('10.0.0.1:80', '10.0.0.1', 80), { address: '10.0.0.1:80', next: '10.0.0.1:80' });
    assert.equal(firstOf(both), '10.96.0.7:8080');
    assert.equal(firstOf(NAME), NAME);
  });
});

describe('addresses of a server', () => {
  const clock = new VirtualClock();

  function listed(addresses: string, answers: Readonly<Record<string, readonly string[]>>) {
    const lookups: string[] = [];
    const told: string[] = [];
    const one = new ServerAddresses(
      addresses,
      (found, failures) => told.push(found.map(({ host, port }) => `${host}:${port}`).join(' ') + failures),
      {
        clock,
        lookup: (name) => {
          lookups.push(name);
          const answer = answers[name];
          return answer === undefined ? Promise.reject(new Error('ENOTFOUND')) : Promise.resolve(answer);
        },
      },
    );
    return { one, lookups, told };
  }

  it('those that need no DNS are given at once, without it', async () => {
    const { one, lookups, told } = listed(`10.96.0.7:8080,${NAME}`, {});
    one.update();
    assert.deepEqual(told, [], 'not before who asked has returned');
    await nextTurn();
    assert.deepEqual(told, ['10.96.0.7:8080']);
    assert.deepEqual(lookups, []);
  });

  it('when they are not enough names are looked up, and follow them; what is found twice is given once', async () => {
    const host = NAME.replace(':8080', '');
    for (const [answer, expected] of [
      [['10.96.3.3'], '10.96.0.7:8080 10.96.3.3:8080'],
      [['10.96.0.7', 'fd00::7'], '10.96.0.7:8080 fd00::7:8080'],
    ] as const) {
      const { one, lookups, told } = listed(`10.96.0.7:8080,${NAME}`, { [host]: answer });
      one.update();
      await nextTurn();
      one.update();
      await nextTurn();
      assert.deepEqual(lookups, [host]);
      assert.deepEqual(told.slice(1), [expected]);
    }
  });

  it('a name that cannot be looked up does not take the addresses away, and is told of', async () => {
    const { one, told } = listed('10.96.0.7:8080,nowhere:8080', {});
    one.update();
    await nextTurn();
    one.update();
    await nextTurn();
    assert.deepEqual(told.slice(1), ['10.96.0.7:8080nowhere cannot be looked up: ENOTFOUND']);
  });

  it('asks DNS once in five seconds, however often it is asked', async () => {
    const { one, lookups, told } = listed('here:1', { here: ['10.0.0.1'] });
    for (let index = 0; index < 10; index++) one.update();
    await nextTurn();
    for (let index = 0; index < 10; index++) one.update();
    await nextTurn();
    assert.equal(lookups.length, 1);
    clock.advance(4999);
    assert.equal(lookups.length, 1);
    clock.advance(1);
    await nextTurn();
    assert.equal(lookups.length, 2);
    assert.equal(told.length, 2);
    // Not by itself.
    clock.advance(60_000);
    assert.equal(lookups.length, 2);
  });

  it('says nothing after its channel has gone to rest, and all of it when that begins again', async () => {
    const { one, told } = listed('10.0.0.2:1,here:1', { here: ['10.0.0.1'] });
    one.update();
    one.stop();
    await nextTurn();
    assert.deepEqual(told, []);
    one.update();
    await nextTurn();
    one.update();
    one.stop();
    await nextTurn();
    assert.deepEqual(told, ['10.0.0.2:1']);
    one.update();
    await nextTurn();
    assert.deepEqual(told.slice(1), ['10.0.0.2:1 10.0.0.1:1']);
  });
});

describe('a channel to a server with several addresses', { timeout: 60_000 }, () => {
  const identity = 'linkerd-identity.linkerd.serviceaccount.identity.linkerd.cluster.local';
  let authority: TestAuthority;
  let leaf: KeyAndChain;
  let otherLeaf: KeyAndChain;
  let silent: FullListener;
  let ends: (() => Promise<void> | void)[] = [];

  before(async () => {
    authority = await makeTestAuthority();
    leaf = await authority.leaf(identity);
    otherLeaf = await authority.leaf('web.shop.serviceaccount.identity.linkerd.cluster.local');
    silent = await fullListener();
  });
  after(() => silent.close());
  afterEach(async () => {
    for (const end of ends) await end();
    ends = [];
  });

  /** Answers with `text`. */
  async function serve(
    text: string,
    at: { host: string; port: number },
    certificate = leaf,
  ): Promise<GrpcServer> {
    const server = await serveGrpc({
      ...at,
      certificate,
      anchorsPem: authority.anchorPem,
      clientCertificate: 'optional',
      log: silentLog,
      register: (grpc) =>
        grpc.addService(IdentityService, {
          certify: () => ({
            leafCertificate: Buffer.from(text),
            intermediateCertificates: [],
            validUntil: undefined,
          }),
        }),
    });
    ends.push(async () => server.close());
    return server;
  }

  const elsewhere = () => ({ host: `127.${randomInt(1, 255)}.${randomInt(1, 255)}.1`, port: 0 });
  const addressOf = (server: GrpcServer, { host }: { host: string }) => `${host}:${server.address.port}`;

  /** Nobody listens there now. */
  async function refusing(): Promise<{ host: string; port: number; address: string }> {
    const place = elsewhere();
    const server = await serve('', place);
    await server.close();
    return { ...place, port: server.address.port, address: addressOf(server, place) };
  }

  function client(addresses: string, failures: DialFailure[] = []): IdentityClient {
    const channel = createMeshChannel({
      serverIdentity: identity,
      material: () => ({ certificate: undefined, anchorsPem: authority.anchorPem }),
      connectTimeoutMs: 100,
      reconnectMaxMs: 500,
      onDialFailure: (failure) => failures.push(failure),
    });
    const made = new IdentityClient(targetOf(addresses), channel.credentials, channel.options);
    ends.push(() => made.close());
    return made;
  }

  function ask(from: IdentityClient): Promise<string> {
    const request = { identity: '', token: Buffer.alloc(0), certificateSigningRequest: Buffer.alloc(0) };
    const options = { deadline: Date.now() + 30_000 };
    return new Promise((resolve, reject) => {
      from.certify(request, new Metadata({ waitForReady: true }), options, (error, response) => {
        if (error === null) resolve(response.leafCertificate.toString());
        else reject(error);
      });
    });
  }

  /** The second is dialled, and may answer, before the first has failed. */
  async function failed(failures: readonly DialFailure[], at: string): Promise<DialFailure> {
    for (;;) {
      const found = failures.find(({ address }) => address === at);
      if (found !== undefined) return found;
      await nextTurn();
    }
  }

  it('takes the second where the first refuses, is silent, or is somebody else', async () => {
    const otherPlace = elsewhere();
    const firsts: [string, RegExp][] = [
      [(await refusing()).address, /ECONNREFUSED/],
      [silent.address, /is not connected within 100 ms/],
      [addressOf(await serve('other', otherPlace, otherLeaf), otherPlace), /does not match the identity/],
    ];
    const place = elsewhere();
    const good = addressOf(await serve('good', place), place);
    for (const [first, reason] of firsts) {
      const failures: DialFailure[] = [];
      assert.equal(await ask(client(`${first},${good}`, failures)), 'good');
      const failure = await failed(failures, first);
      assert.equal(failure.next, good);
      assert.match(String(failure.error), reason);
    }
  });

  it('looks up a name and takes it where the address before it does not serve', async () => {
    const { port } = (await serve('by name', { host: '127.0.0.1', port: 0 })).address;
    const failures: DialFailure[] = [];
    const first = (await refusing()).address;
    assert.equal(await ask(client(`${first},localhost:${port}`, failures)), 'by name');
    assert.equal((await failed(failures, first)).next, `localhost:${port}`);
  });

  it('takes the first again when that is there and the second is not any more', async () => {
    const first = await refusing();
    const place = elsewhere();
    const second = await serve('second', place);
    const failures: DialFailure[] = [];
    const from = client(`${first.address},${addressOf(second, place)}`, failures);
    assert.equal(await ask(from), 'second');
    await second.close();
    const answer = ask(from);
    await serve('first', { host: first.host, port: first.port });
    assert.equal(await answer, 'first');
  });

  it('goes on with all of them for as long as none serves', async () => {
    const first = await refusing();
    const failures: DialFailure[] = [];
    const from = client(`${first.address},${silent.address}`, failures);
    const answer = ask(from);
    const dials = (address: string) => failures.filter((failure) => failure.address === address).length;
    while (dials(first.address) < 3 || dials(silent.address) < 3) await nextTurn();
    await serve('late', { host: first.host, port: first.port });
    assert.equal(await answer, 'late');
  });
});
