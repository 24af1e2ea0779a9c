// SPDX-License-Identifier: Apache-2.0
// A machine outside the cluster with a proxy of its own, which is the peer: an ExternalWorkload stands for it behind a
// Service. Then the mesh gets another trust anchor and another issuer, while the machine keeps the certificate that it has.

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { stringify } from 'yaml';
import { type Authority, makeAuthority } from '#lib/x509-authority/make-authority.ts';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';
import { until } from '../faults/until.ts';
import { machineCertificate } from './machine-certificate.ts';
import { hostOf, identity, program, servicesOf } from './pods.ts';
import { ports, type Protocol } from './talk.ts';

type Heard = Readonly<Record<Protocol, string>>;

const NAME = 'spiffe://root.linkerd.cluster.local/machine';
const SERVER_NAME = 'machine.example';
const HOUR_MS = 3_600_000;
const WAIT_MS = 60_000;
const nodes = ['node1', 'node2'] as const;

describe('a machine outside the cluster', () => {
  let mesh: LocalMesh;
  let folder: string;
  let address: string;
  let next: Authority;

  const agentLog = (node: (typeof nodes)[number]): string =>
    readFileSync(join(mesh.node(node).layout.logDir, 'agent.log'), 'utf8');
  const key = (name: string): string => join(mesh.layout.keysDir, name);
  const external = (name: string, proves: string): void => {
    const object = {
      apiVersion: 'workload.linkerd.io/v1beta1',
      kind: 'ExternalWorkload',
      metadata: { name, namespace: 'shop', uid: `uid-${name}`, labels: { app: name } },
      spec: {
        meshTLS: { identity: proves, serverName: SERVER_NAME },
        ports: [...new Set(Object.values(ports))].map((port) => ({ name: `p${port}`, port })),
        workloadIPs: [{ ip: address }],
      },
      status: { conditions: [{ type: 'Ready', status: 'True' }] },
    };
    const file = join(mesh.layout.registryDir, `externalworkload.shop.${name}.yaml`);
    writeFileSync(`${file}.new`, stringify(object));
    renameSync(`${file}.new`, file);
  };

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-machine-'));
    const leaf = await (await makeTestAuthority()).leaf('application.example');
    writeFileSync(join(folder, 'tls.pem'), leaf.keyPem + leaf.chainPem);
    mesh = await startMesh({
      name: 'p-extern',
      identityEnv: { NODEMESH_LEAF_LIFETIME: '20s', NODEMESH_CLOCK_SKEW: '1s' },
      objects: [
        namespace('shop', meshed),
        namespace('outside'),
        ...['server', 'client'].map((name) => serviceAccount('shop', name)),
        pod(
          'shop',
          'server',
          [process.execPath, program('application.ts'), 'serve', join(folder, 'tls.pem')],
          {
            node: 'node1',
            account: 'server',
            readinessPort: ports.tls,
          },
        ),
        pod('shop', 'client', [], { node: 'node2', account: 'client' }),
        ...['machine', 'stranger'].map(servicesOf),
      ],
    });
    next = await makeAuthority({
      trustDomain: 'cluster.local',
      notBeforeMs: Date.now() - 60_000,
      anchorLifetimeMs: HOUR_MS,
      issuerLifetimeMs: HOUR_MS,
    });
    const [issuerPem, issuerKeyPem] = ['issuer.crt', 'issuer.key'].map((name) =>
      readFileSync(key(name), 'utf8'),
    );
    const own = await machineCertificate(NAME, issuerPem ?? '', issuerKeyPem ?? '');
    writeFileSync(join(folder, 'machine.crt'), own.cert);
    writeFileSync(join(folder, 'machine.key'), own.key);
    // It trusts both from the beginning.
    writeFileSync(join(folder, 'anchors.crt'), readFileSync(key('ca.crt'), 'utf8') + next.anchorPem);
    const serves = [process.execPath, program('machine.ts'), 'serve', folder];
    await mesh.apply(pod('outside', 'machine', serves, { node: 'node1', readinessPort: 4143 }));
    await mesh.waitReady();
    address = (await mesh.pod('machine', 'outside')).status.podIP ?? '';
    external('machine', NAME);
    external('stranger', 'spiffe://root.linkerd.cluster.local/stranger');
  });
  after(async () => {
    await mesh.down();
    rmSync(folder, { recursive: true });
  });

  const run = async (from: string, ns: string, argv: readonly string[]): Promise<Heard> => {
    const { stdout, stderr } = await mesh.exec(from, [process.execPath, ...argv], { ns });
    assert.notEqual(stdout, '', stderr);
    return JSON.parse(stdout) as Heard;
  };
  const call = (to: string): Promise<Heard> =>
    run('client', 'shop', [program('application.ts'), 'call', hostOf(to)]);
  const callFromMachine = async (): Promise<Heard & { readonly issuer: string }> => {
    const { podIP = '' } = (await mesh.pod('server', 'shop')).status;
    const argv = [program('machine.ts'), 'call', folder, podIP, identity('server'), hostOf('server')];
    return (await run('machine', 'outside', argv)) as Heard & { readonly issuer: string };
  };
  const answer = (text: string): Readonly<Record<string, unknown>> => {
    assert.match(text, /^200 .*\{/, text);
    return JSON.parse(text.slice(text.indexOf('{'))) as Readonly<Record<string, unknown>>;
  };
  const assertServed = (heard: Heard): void => {
    for (const protocol of ['http1', 'http2', 'grpc'] as const) {
      const { client, header, authority, body } = answer(heard[protocol]);
      assert.equal(client, identity('client'));
      assert.deepEqual(header, { port: ports[protocol], name: '', session: 'http2' });
      assert.equal(authority, `${hostOf('machine')}:${ports[protocol]}`);
      assert.match(String(body), /a body$/);
    }
    assert.match(heard.websocket, /^101 .*Hello$/);
    assert.deepEqual([heard.tcp, heard.tls], ['some bytes', 'some bytes']);
  };
  const assertServedFromMachine = (heard: Heard): void => {
    const { clientId, body } = answer(heard.http2);
    assert.deepEqual([clientId, body], [NAME, 'a body']);
    assert.equal(heard.tcp, 'some bytes');
  };
  /** What the machine knows of its clients, in their order. */
  const clients = async (): Promise<readonly Record<string, unknown>[]> =>
    (await mesh.logs('machine', { ns: 'outside' }))
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Record<string, unknown>);

  it('is reached behind its service in every protocol, by the name that it is asked for by and the identity that it proves', async () => {
    await until(
      'the service has an endpoint',
      WAIT_MS,
      async () => (await call('machine')).tcp === 'some bytes',
    );
    assertServed(await call('machine'));
    for (const { client, serverName } of await clients())
      assert.deepEqual([client, serverName], [identity('client'), SERVER_NAME]);
  });

  it('gets no byte when it proves another identity than it should', async () => {
    const known = (await clients()).length;
    const heard = await call('stranger');
    for (const protocol of ['http1', 'http2'] as const)
      assert.match(heard[protocol], /^502 /, heard[protocol]);
    for (const protocol of ['grpc', 'websocket', 'tcp', 'tls'] as const)
      assert.doesNotMatch(heard[protocol], /some bytes|^200 [^g].*\{|^101 /, heard[protocol]);
    const named =
      /expected spiffe:\/\/root\.linkerd\.cluster\.local\/stranger, presented spiffe:[^,]*\/machine/;
    await until('the log names both', WAIT_MS, () => named.test(agentLog('node2')));
    // TLS 1.3 shows a server its client before the client knows whom it has met; nothing was said behind it.
    for (const { client } of (await clients()).slice(known)) assert.equal(client, identity('client'));
  });

  it('reaches pods under its identity', async () => assertServedFromMachine(await callFromMachine()));

  it('keeps its certificate through a change of issuer and trust anchors, as long as its anchor is trusted', async () => {
    const anchorsTaken = async (times: number): Promise<void> => {
      const taken = (node: (typeof nodes)[number]): boolean =>
        agentLog(node).split('"trust anchors changed"').length > times;
      await until(`trust anchors changed ${times} times`, WAIT_MS, () => nodes.every(taken));
    };
    writeFileSync(key('ca.crt'), readFileSync(key('ca.crt'), 'utf8') + next.anchorPem);
    await anchorsTaken(1);
    writeFileSync(key('issuer.key'), next.issuerKeyPem);
    writeFileSync(key('issuer.crt'), next.issuerPem);
    const issuer = new X509Certificate(next.issuerPem).fingerprint256;
    await until('the client has a certificate of the new issuer', WAIT_MS, async () => {
      assertServed(await call('machine'));
      return (await clients()).at(-1)?.['issuer'] === issuer;
    });
    // The server's pod, on the other node, renews on its own.
    await until('the server has one, too', WAIT_MS, async () => {
      const heard = await callFromMachine();
      assertServedFromMachine(heard);
      return heard.issuer === issuer;
    });
    assertServed(await call('machine'));

    writeFileSync(key('ca.crt'), next.anchorPem);
    await anchorsTaken(2);
    // An open connection goes on; these are new ones.
    const heard = await call('machine');
    assert.doesNotMatch(heard.tcp, /some bytes/);
    assert.doesNotMatch(heard.websocket, /^101 /);
    const fromMachine = await callFromMachine();
    assert.doesNotMatch(fromMachine.http2, /^200 /);
    assert.doesNotMatch(fromMachine.tcp, /some bytes/);
    const refused =
      /"clientIdentity":"spiffe:[^"]*\/machine","reason":"the client certificate is not trusted: UNABLE_TO_GET_ISSUER_CERT_LOCALLY"/;
    await until('the log says why', WAIT_MS, () => refused.test(agentLog('node1')));
  });
});
