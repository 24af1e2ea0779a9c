// SPDX-License-Identifier: Apache-2.0
// Tokens in the wrong hands: what a pod, a stolen token of an agent and a token of a dead pod get from identity and
// destination over the real network of a local mesh. Which rule applies when is held by identity/service.test.ts.

import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { CertifyRequest } from '#lib/proto/gen/linkerd/identity.ts';
import { FromNode } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { createCertificateRequest } from '#lib/x509/csr.ts';
import { identityOf } from '#lib/x509/names.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { certificateMaker } from '../e2e/hostile-certificates.ts';
import type { TlsClient } from '../e2e/hostile-attempt.ts';
import { attemptFrom, base64, LogTail, textOf } from '../e2e/hostile-helpers.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';

const MESH_DOMAIN = { identityNamespace: 'linkerd', trustDomain: 'cluster.local' };
const named = (name: string, ns = 'shop'): string => identityOf({ name, namespace: ns }, MESH_DOMAIN);

const GRPC_OK = 'grpc-status 0';
const REFUSED = 'certificate refused';

function withToken(object: ReturnType<typeof pod>): object {
  const spec = object['spec'] as { containers: readonly object[] };
  return {
    ...object,
    spec: {
      ...spec,
      containers: spec.containers.map((container) => ({
        ...container,
        volumeMounts: [{ name: 'identity', mountPath: '/var/run/identity' }],
      })),
      volumes: [
        {
          name: 'identity',
          projected: {
            sources: [
              {
                serviceAccountToken: { audience: 'identity.l5d.io', path: 'token', expirationSeconds: 3600 },
              },
            ],
          },
        },
      ],
    },
  };
}

/** One gRPC message. */
function framed(message: Uint8Array): string {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return base64(Buffer.concat([head, message]));
}

describe('credentials in the wrong hands', () => {
  let mesh: LocalMesh;
  let identityLog: LogTail;
  let destinationLog: LogTail;
  let thief = '';
  let ghost = '';

  before(async () => {
    mesh = await startMesh({
      name: 'at-cred',
      nodes: 2,
      objects: [
        namespace('shop', meshed),
        ...['thief', 'ghost', 'victim', 'remote'].map((name) => serviceAccount('shop', name)),
        withToken(pod('shop', 'thief', [], { node: 'node1', account: 'thief' })),
        withToken(pod('shop', 'ghost', [], { node: 'node1', account: 'ghost' })),
        pod('shop', 'victim', [], { node: 'node1', account: 'victim' }),
        pod('shop', 'remote', [], { node: 'node2', account: 'remote' }),
      ],
    });
    await mesh.waitReady();
    const tokenOf = async (name: string): Promise<string> =>
      (await mesh.exec(name, ['cat', '/var/run/identity/token'], { ns: 'shop' })).stdout;
    thief = await tokenOf('thief');
    ghost = await tokenOf('ghost');
    identityLog = new LogTail(join(mesh.layout.logDir, 'identity.log'));
    destinationLog = new LogTail(join(mesh.layout.logDir, 'destination.log'));
  });
  after(async () => mesh.down());

  const agentToken = (node: string, file: string): string =>
    readFileSync(join(mesh.layout.tokensDir, `nodemesh-agent-${node}`, file), 'utf8');

  /** A call from the thief's pod; its grpc-status. */
  async function call(port: number, path: string, account: string, body: string, tls: TlsClient = {}) {
    const attempt = {
      to: { host: mesh.layout.controlAddress.v4, port },
      tls: { serverName: named(account, 'linkerd'), ...tls },
      call: { path, body },
    };
    const [outcome] = await attemptFrom(
      (argv, options) => mesh.exec('thief', argv, { ns: 'shop', ...options }),
      [attempt],
    );
    assert.ok(outcome !== undefined && outcome.secured, outcome?.error ?? 'no outcome');
    return textOf(outcome);
  }

  async function certify(token: string, identity: string): Promise<string> {
    const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const request = CertifyRequest.encode({
      identity,
      token: Buffer.from(token),
      certificateSigningRequest: createCertificateRequest(identity, keys),
    }).finish();
    return call(8080, '/io.linkerd.proxy.identity.Identity/Certify', 'linkerd-identity', framed(request));
  }

  it("a pod's token certifies the pod's own account: what is refused below is refused for its fault", async () => {
    assert.equal(await certify(thief, named('thief')), GRPC_OK);
  });

  it("a pod's own token does not certify a neighbour's account, nor one of another node, nor the agent's", async () => {
    for (const other of [named('victim'), named('remote'), named('nodemesh-agent', 'nodemesh')]) {
      assert.equal(await certify(thief, other), 'grpc-status 9', other);
      await identityLog.until({ msg: REFUSED, identity: other, rule: 'own-account-only' });
    }
  });

  it("an agent's token certifies nothing beyond its node, stolen or not", async () => {
    const stolen = agentToken('node1', 'identity-token');
    assert.equal(
      await certify(stolen, named('victim')),
      GRPC_OK,
      'a stolen token yields its node: SECURITY.md',
    );
    for (const [other, rule, status] of [
      [named('remote'), 'account-unseen', 14],
      [named('linkerd-identity', 'linkerd'), 'account-unseen', 14],
    ] as const) {
      assert.equal(await certify(stolen, other), `grpc-status ${status}`);
      await identityLog.until({ identity: other, rule });
    }
  });

  it("an agent's token for destination is worth nothing at identity", async () => {
    assert.equal(await certify(agentToken('node1', 'destination-token'), named('victim')), 'grpc-status 9');
    await identityLog.until({
      msg: REFUSED,
      identity: named('victim'),
      rule: 'token-invalid',
      reason: /audiences/,
    });
  });

  it('the token of a pod that is dead is worth nothing, though it has not expired', async () => {
    assert.equal(await certify(ghost, named('ghost')), GRPC_OK);
    await mesh.delete({ kind: 'Pod', namespace: 'shop', name: 'ghost' });
    // An authentic answer about a token is kept for some seconds.
    const deadline = performance.now() + 60_000;
    while ((await certify(ghost, named('ghost'))) === GRPC_OK) assert.ok(performance.now() < deadline);
    await identityLog.until({ msg: REFUSED, identity: named('ghost'), rule: 'token-invalid' });
  });

  it("nobody opens another node's stream: not with a pod's certificate, not with another node's token", async () => {
    const make = await certificateMaker(mesh.layout.keysDir);
    const hello = (token: string): string =>
      framed(
        FromNode.encode(
          FromNode.fromPartial({
            message: {
              $case: 'hello',
              hello: { nodeName: 'node2', token: Buffer.from(token), version: '0', instanceId: 'thief' },
            },
          }),
        ).finish(),
      );
    const open = async (who: string, token: string): Promise<string> =>
      call(
        8086,
        '/nodemesh.node.v1.NodeService/Connect',
        'linkerd-destination',
        hello(token),
        await make.mesh(who),
      );
    assert.notEqual(await open(named('thief'), thief), GRPC_OK);
    await destinationLog.until({ msg: 'call refused', reason: /only nodemesh-agent\..* may open it/ });
    const agent = named('nodemesh-agent', 'nodemesh');
    assert.notEqual(await open(agent, agentToken('node1', 'destination-token')), GRPC_OK);
    await destinationLog.until({ msg: 'call refused', reason: /its token is bound to node "node1"/ });
  });
});
