// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { afterEach, before, describe, it } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { silentLog } from '#lib/core/log.ts';
import { IdentityClient, IdentityService } from '#lib/proto/gen/linkerd/identity.ts';
import type { KeyAndChain, MeshMaterial } from '#lib/tls/mesh-context.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import type { Handlers } from './call.ts';
import { createMeshChannel } from './client.ts';
import { fullListener } from './full-listener.ts';
import { type GrpcServer, type GrpcServerOptions, serveGrpc } from './server.ts';

const serverName = 'linkerd-identity.linkerd.serviceaccount.identity.linkerd.cluster.local';
const identities = ['web', 'cart'].map(
  (name) => `${name}.shop.serviceaccount.identity.linkerd.cluster.local`,
);
let authority: TestAuthority;
let foreign: TestAuthority;
let serverLeaf: KeyAndChain;
let leaves: KeyAndChain[];

before(async () => {
  authority = await makeTestAuthority();
  foreign = await makeTestAuthority();
  serverLeaf = await authority.leaf(serverName);
  leaves = await Promise.all(identities.map((identity) => authority.leaf(identity)));
});

describe('gRPC over mesh TLS', () => {
  let servers: GrpcServer[] = [];
  let clients: IdentityClient[] = [];
  afterEach(async () => {
    for (const client of clients) client.close();
    for (const server of servers) await server.close();
    servers = [];
    clients = [];
  });

  /** Answers each call with the identity that the handler learned, in `leafCertificate`. */
  const echo: Handlers<typeof IdentityService> = {
    certify: (_, { identity }) => ({
      leafCertificate: Buffer.from(identity ?? 'anonymous'),
      intermediateCertificates: [],
      validUntil: undefined,
    }),
  };

  async function serve(options: Partial<GrpcServerOptions> = {}): Promise<GrpcServer> {
    const server = await serveGrpc({
      host: '127.0.0.1',
      port: 0,
      certificate: serverLeaf,
      anchorsPem: authority.anchorPem,
      clientCertificate: 'optional',
      log: silentLog,
      register: (grpc) => grpc.addService(IdentityService, echo),
      ...options,
    });
    servers.push(server);
    return server;
  }

  function client(port: number, material: () => MeshMaterial, failures: unknown[] = []): IdentityClient {
    const channel = createMeshChannel({
      serverIdentity: serverName,
      material,
      onDialFailure: ({ error }) => failures.push(error),
    });
    const made = new IdentityClient(`127.0.0.1:${port}`, channel.credentials, channel.options);
    clients.push(made);
    return made;
  }

  const as = (certificate: KeyAndChain | undefined) => (): MeshMaterial => ({
    certificate,
    anchorsPem: authority.anchorPem,
  });

  function ask(from: IdentityClient, tokenBytes = 0): Promise<string> {
    return new Promise((resolve, reject) => {
      const request = {
        identity: '',
        token: Buffer.alloc(tokenBytes),
        certificateSigningRequest: Buffer.alloc(0),
      };
      const options = { deadline: Date.now() + 10_000 };
      from.certify(request, new Metadata({ waitForReady: true }), options, (error, response) => {
        if (error === null) resolve(response.leafCertificate.toString());
        else reject(error);
      });
    });
  }

  it('tells each handler the identity of exactly its own connection', async () => {
    const { port } = (await serve()).address;
    const [web, cart] = leaves.map((leaf) => client(port, as(leaf)));
    const anonymous = client(port, as(undefined));
    assert.ok(web !== undefined && cart !== undefined);
    const round = [web, cart, anonymous, cart, web, anonymous];
    const answers = await Promise.all([...round, ...round].map((from) => ask(from)));
    const expected = [0, 1, 2, 1, 0, 2].map((index) => identities[index] ?? 'anonymous');
    assert.deepEqual(answers, [...expected, ...expected]);
  });

  it('connects again with the newest certificate after the server went away', async () => {
    const first = await serve();
    const { port } = first.address;
    let material = as(leaves[0])();
    const from = client(port, () => material);
    assert.equal(await ask(from), identities[0]);
    material = as(leaves[1])();
    assert.equal(await ask(from), identities[0], 'an open connection keeps its identity');
    await first.close();
    await serve({ port });
    assert.equal(await ask(from), identities[1]);
  });

  it('says why it does not connect: another identity, a foreign anchor', async () => {
    const { port } = (await serve({ certificate: leaves[0] ?? serverLeaf })).address;
    const failures: unknown[] = [];
    const refused = new Promise<ServiceError>((resolve) => {
      const request = {
        identity: '',
        token: Buffer.alloc(0),
        certificateSigningRequest: Buffer.alloc(0),
      };
      client(port, as(undefined), failures).certify(request, (error) => error !== null && resolve(error));
    });
    const error = await refused;
    assert.equal(error.code, status.UNAVAILABLE);
    assert.match(error.details, new RegExp(`expected ${serverName}, presented ${identities[0]}`));
    assert.match(String(failures[0]), /does not match the identity/);
  });

  it('gives up a TCP connect that nobody answers', async () => {
    const silent = await fullListener();
    try {
      const channel = createMeshChannel({
        serverIdentity: serverName,
        material: as(undefined),
        connectTimeoutMs: 100,
      });
      const stuck = new IdentityClient(silent.address, channel.credentials, channel.options);
      clients.push(stuck);
      const request = { identity: '', token: Buffer.alloc(0), certificateSigningRequest: Buffer.alloc(0) };
      const error = await new Promise<ServiceError>((resolve) => {
        const deadline = Date.now() + 10_000;
        stuck.certify(
          request,
          new Metadata(),
          { deadline },
          (failure) => failure !== null && resolve(failure),
        );
      });
      assert.match(error.details, /is not connected within 100 ms/);
    } finally {
      silent.close();
    }
  });

  it('lets nobody in without a certificate where one is required', async () => {
    const { port } = (await serve({ clientCertificate: 'required' })).address;
    assert.equal(await ask(client(port, as(leaves[0]))), identities[0]);
    const request = { identity: '', token: Buffer.alloc(0), certificateSigningRequest: Buffer.alloc(0) };
    for (const certificate of [undefined, await foreign.leaf(identities[0] ?? '')]) {
      const code = await new Promise((resolve) =>
        client(port, as(certificate)).certify(request, (error) => resolve(error?.code)),
      );
      assert.equal(code, status.UNAVAILABLE);
    }
  });

  it('takes messages up to its limit and no longer', async () => {
    const { port } = (await serve({ messageBytesMax: 1000 })).address;
    const from = client(port, as(undefined));
    assert.equal(await ask(from, 997), 'anonymous');
    await assert.rejects(ask(from, 998), { code: status.RESOURCE_EXHAUSTED });
  });

  it('limits the streams of one connection', async () => {
    const { port } = (await serve({ streamsPerConnectionMax: 7 })).address;
    const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false });
    await once(socket, 'secureConnect');
    const session = connectHttp2('https://x', { createConnection: () => socket });
    await once(session, 'remoteSettings');
    assert.equal(session.remoteSettings.maxConcurrentStreams, 7);
    session.destroy();
  });

  it('closes within the grace, also with a call that never ends', async () => {
    let begun: (() => void) | undefined;
    const waiting = new Promise<void>((resolve) => (begun = resolve));
    const server = await serve({
      register: (grpc) =>
        grpc.addService(IdentityService, {
          certify() {
            begun?.();
            return new Promise(() => undefined);
          },
        }),
    });
    const pending = assert.rejects(ask(client(server.address.port, as(undefined))));
    await waiting;
    await server.close(50);
    await pending;
  });
});
