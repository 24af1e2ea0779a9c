// SPDX-License-Identifier: Apache-2.0
// Wrong certificates and names are refused, in both directions, and the log says who was refused and why.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { netnsPath } from '../../local/layout.ts';
import type { Attempt, Outcome, TlsClient } from './hostile-attempt.ts';
import { type CertificateMaker, certificateMaker, type TlsIdentity } from './hostile-certificates.ts';
import { attemptFrom, base64, LogTail, requireUnharmed, textOf } from './hostile-helpers.ts';
import type { ImpostorLine, ImpostorListener } from './hostile-impostor.ts';
import { meshed, namespace, pod, service, serviceAccount } from './objects.ts';

const MIRROR = fileURLToPath(new URL('programs/mirror.ts', import.meta.url));
const IMPOSTOR = fileURLToPath(new URL('hostile-impostor.ts', import.meta.url));
const HTTP = 8080;
const TCP = 7070;
const MESH_PORT = 4143;
const ALPN = 'transport.l5d.io/v1';
const DAY_MS = 24 * 3_600_000;
const REFUSED = 'a connection to the mesh port is refused';

const identityOf = (account: string, ns = 'mesh'): string =>
  `${account}.${ns}.serviceaccount.identity.linkerd.cluster.local`;
const controlName = (account: string): string => identityOf(account, 'nodemesh');

/** The header of the mesh's wire, made by hand: what it says is what is tested. */
function header(fields: { port?: number; name?: string; http?: boolean }): Buffer {
  const message: number[] = [];
  if (fields.port !== undefined) message.push(0x08, (fields.port & 0x7f) | 0x80, fields.port >> 7);
  if (fields.name !== undefined) message.push(0x12, fields.name.length, ...Buffer.from(fields.name));
  if (fields.http === true) message.push(0x1a, 2, 0x0a, 0);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(message.length);
  return Buffer.concat([Buffer.from(`${ALPN}\r\n\r\n`), length, Buffer.from(message)]);
}

const GET = 'GET /x HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n';

describe('wrong certificates and names', () => {
  let mesh: LocalMesh;
  let make: CertificateMaker;
  let good: TlsIdentity;
  let outsider: string;
  let slow: Promise<readonly Outcome[]>;
  let log: LogTail;
  const addresses = new Map<string, string>();

  before(async () => {
    const server = ['node', MIRROR, String(HTTP), String(TCP)];
    mesh = await startMesh({
      name: 'e2e-certs',
      objects: [
        namespace('mesh', meshed),
        namespace('plain'),
        ...['server', 'denied', 'guarded', 'victim', 'caller'].map((name) => serviceAccount('mesh', name)),
        pod('mesh', 'server', server, { node: 'node1', account: 'server', readinessPort: HTTP }),
        pod('mesh', 'denied', server, {
          node: 'node1',
          account: 'denied',
          readinessPort: HTTP,
          annotations: { 'config.linkerd.io/default-inbound-policy': 'deny' },
        }),
        pod('mesh', 'guarded', server, {
          node: 'node1',
          account: 'guarded',
          readinessPort: HTTP,
          annotations: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
        }),
        pod('mesh', 'victim', server, { node: 'node1', account: 'victim', readinessPort: HTTP }),
        service('mesh', 'victim', HTTP),
        pod('mesh', 'caller', [], { node: 'node2', account: 'caller' }),
        pod('plain', 'outsider', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
    for (const name of ['server', 'denied', 'guarded', 'victim', 'caller']) {
      addresses.set(name, (await mesh.pod(name, 'mesh')).status?.podIP ?? '');
    }
    outsider = (await mesh.pod('outsider', 'plain')).status?.podIP ?? '';
    make = await certificateMaker(mesh.layout.keysDir);
    good = await make.mesh(identityOf('caller'));
    log = new LogTail(agentLog('node1'));
    // These take as long as the agent's patience with silent clients; they wait while the other tests run.
    slow = fromOutsider([
      wire(good, { send: [base64(header({ port: HTTP }).subarray(0, 12))] }),
      { to: { host: addressOf('server'), port: MESH_PORT }, send: [base64(Uint8Array.of(0x16, 3, 1))] },
      { to: { host: addressOf('server'), port: MESH_PORT } },
    ]);
  });
  after(async () => {
    await slow;
    await mesh.down();
  });

  const agentLog = (node: string): string => join(mesh.node(node).layout.logDir, 'agent.log');
  const addressOf = (name: string): string => addresses.get(name) ?? assert.fail(`no pod ${name}`);
  const fromOutsider = (attempts: readonly Attempt[]): Promise<readonly Outcome[]> =>
    attemptFrom((argv, options) => mesh.exec('outsider', argv, { ns: 'plain', ...options }), attempts);
  const fromOutsiderOne = async (attempt: Attempt): Promise<Outcome> =>
    (await fromOutsider([attempt]))[0] ?? assert.fail('no outcome');
  /** A connection to a pod's mesh port as an agent makes it, but for what `tls` changes. */
  const wire = (
    certificate: TlsIdentity | undefined,
    rest: Omit<Attempt, 'to' | 'tls'> = {},
    tls: TlsClient = {},
    target = 'server',
  ): Attempt => ({
    to: { host: addressOf(target), port: MESH_PORT },
    tls: { serverName: identityOf(target), alpn: ALPN, ...certificate, ...tls },
    ...rest,
  });
  const request = base64(Buffer.concat([header({ port: HTTP, http: true }), Buffer.from(GET)]));

  it('the right certificate gets in, under its name: what is refused below is refused for its fault', async () => {
    const outcome = await fromOutsiderOne(wire(good, { send: [request] }));
    assert.match(textOf(outcome), /^HTTP\/1\.1 200 OK\r\n/);
    assert.match(textOf(outcome), new RegExp(`x-client-id: ${identityOf('caller')}\r\n`));
  });

  const refusals: readonly {
    readonly name: string;
    readonly attempt: () => Promise<Attempt> | Attempt;
    /** Whom the log names. */
    readonly presented: string;
    readonly reason: RegExp;
  }[] = [
    {
      name: 'no certificate',
      attempt: () => wire(undefined, { send: [request] }),
      presented: '',
      reason: /must be mutually authenticated/,
    },
    {
      name: "the right name under a foreign mesh's anchor",
      attempt: async () => wire(await make.foreign(identityOf('caller')), { send: [request] }),
      presented: identityOf('caller'),
      reason: /not trusted: (UNABLE_TO|SELF_SIGNED)/,
    },
    {
      name: 'a certificate signed by itself',
      attempt: async () => wire(await make.selfSigned(identityOf('caller')), { send: [request] }),
      presented: identityOf('caller'),
      reason: /not trusted: DEPTH_ZERO_SELF_SIGNED_CERT/,
    },
    {
      name: "a certificate signed with a pod's own",
      attempt: async () => wire(await make.signedBy(good, identityOf('server')), { send: [request] }),
      presented: identityOf('server'),
      reason: /not trusted: /,
    },
    {
      name: 'a certificate without the chain to the anchor',
      attempt: () =>
        wire(
          { ...good, chainPem: good.chainPem.split(/(?<=END CERTIFICATE-----\n)/)[0] ?? '' },
          { send: [request] },
        ),
      presented: identityOf('caller'),
      reason: /not trusted: UNABLE_TO/,
    },
    {
      name: 'an expired certificate',
      attempt: async () =>
        wire(await make.mesh(identityOf('caller'), Date.now() - DAY_MS), { send: [request] }),
      presented: identityOf('caller'),
      reason: /not trusted: CERT_HAS_EXPIRED/,
    },
    {
      name: 'a certificate that is not valid yet',
      attempt: async () =>
        wire(await make.mesh(identityOf('caller'), Date.now() + DAY_MS), { send: [request] }),
      presented: identityOf('caller'),
      reason: /not trusted: CERT_NOT_YET_VALID/,
    },
    {
      name: 'no ALPN',
      attempt: () => {
        const { alpn: _, ...tls } = wire(good).tls ?? {};
        return { ...wire(good, { send: [request] }), tls };
      },
      presented: identityOf('caller'),
      reason: /require transport header negotiation/,
    },
    {
      name: 'another ALPN',
      attempt: () => wire(good, { send: [request] }, { alpn: 'h2' }),
      presented: '',
      reason: /TLS handshake failed: .*(application protocol|ALPN)/i,
    },
    {
      name: 'TLS 1.2',
      attempt: () => wire(good, { send: [request] }, { versionMax: 'TLSv1.2' }),
      presented: '',
      reason: /TLS handshake failed: .*(protocol|version)/i,
    },
    {
      name: "another pod's name as the one asked for",
      attempt: () => wire(good, { send: [request] }, { serverName: identityOf('victim') }),
      presented: '',
      reason: new RegExp(`asked for ${identityOf('victim')}, this is ${identityOf('server')}`),
    },
    {
      name: 'no name asked for',
      attempt: () => {
        const { serverName: _, ...tls } = wire(good).tls ?? {};
        return { ...wire(good, { send: [request] }), tls };
      },
      presented: '',
      reason: new RegExp(`asked for no name, this is ${identityOf('server')}`),
    },
    {
      name: 'plain text',
      attempt: () => ({ to: { host: addressOf('server'), port: MESH_PORT }, send: [base64(GET)] }),
      presented: '',
      reason: /neither TLS nor a voucher/,
    },
    {
      name: 'garbage where the header should be',
      attempt: () => wire(good, { send: [base64(GET)] }),
      presented: identityOf('caller'),
      reason: /no transport header/,
    },
    {
      name: 'a header with a name, as for a gateway',
      attempt: () => wire(good, { send: [base64(header({ port: HTTP, name: 'web.shop' }))] }),
      presented: identityOf('caller'),
      reason: /asked for web\.shop: this is no gateway/,
    },
    {
      name: 'a header without a port',
      attempt: () => wire(good, { send: [base64(header({ http: true }))] }),
      presented: identityOf('caller'),
      reason: /port 0/,
    },
    {
      name: 'a header for the mesh port itself',
      attempt: () => wire(good, { send: [base64(header({ port: MESH_PORT }))] }),
      presented: identityOf('caller'),
      reason: /asked for the mesh port itself/,
    },
    {
      name: 'a header that ends in the middle',
      attempt: () => wire(good, { send: [base64(header({ port: HTTP }).subarray(0, 26))], ending: 'fin' }),
      presented: identityOf('caller'),
      reason: /no transport header/,
    },
  ];
  for (const { name, attempt, presented, reason } of refusals) {
    it(`the mesh port refuses ${name}, and says who and why`, async () => {
      const tail = new LogTail(agentLog('node1'));
      const outcome = await fromOutsiderOne(await attempt());
      assert.notEqual(outcome.ended, 'open');
      assert.equal(outcome.received, '');
      const line = await tail.until({ msg: REFUSED, reason });
      assert.equal(line['pod'], 'mesh/server');
      assert.equal(line['podIdentity'], identityOf('server'));
      assert.equal(line['client'], outsider);
      assert.equal(line['clientIdentity'], presented);
    });
  }

  it('a port that policy denies: a close for TCP, a 403 with the reason for HTTP, both logged with the identity', async () => {
    const tail = new LogTail(agentLog('node1'));
    const [tcp, http] = await fromOutsider([
      wire(good, { send: [base64(header({ port: TCP })), base64('hello')] }, {}, 'denied'),
      wire(good, { send: [request] }, {}, 'denied'),
    ]);
    assert.deepEqual([tcp?.ended === 'open', tcp?.received], [false, '']);
    assert.match(textOf(http ?? assert.fail()), /^HTTP\/1\.1 403 Forbidden\r\nl5d-proxy-error: /);
    const who = {
      pod: 'mesh/denied',
      client: outsider,
      clientIdentity: identityOf('caller'),
      policy: /deny/,
    };
    await tail.until({ ...who, msg: 'connection denied by policy', port: TCP });
    await tail.until({ ...who, msg: 'request denied by policy', port: HTTP });
  });

  it('a port on which nobody listens: an error for TCP, a 502 for HTTP', async () => {
    const [tcp, http] = await fromOutsider([
      wire(good, { send: [base64(header({ port: 9999 })), base64('hello')] }),
      wire(good, { send: [base64(Buffer.concat([header({ port: 9999, http: true }), Buffer.from(GET)]))] }),
    ]);
    assert.equal(tcp?.ended, 'reset');
    assert.match(textOf(http ?? assert.fail()), /^HTTP\/1\.1 502 Bad Gateway\r\nl5d-proxy-error: /);
  });

  it("TLS to an application's port under the pod's name is held to the same certificates", async () => {
    const tail = new LogTail(agentLog('node1'));
    const tls = { serverName: identityOf('guarded') };
    const to = { host: addressOf('guarded'), port: HTTP };
    const [right, foreign, expired, none] = await fromOutsider([
      { to, tls: { ...tls, ...good }, send: [base64(GET)] },
      { to, tls: { ...tls, ...(await make.foreign(identityOf('server'))) }, send: [base64(GET)] },
      {
        to,
        tls: { ...tls, ...(await make.mesh(identityOf('victim'), Date.now() - DAY_MS)) },
        send: [base64(GET)],
      },
      { to, tls, send: [base64(GET)] },
    ]);
    assert.match(textOf(right ?? assert.fail()), new RegExp(`x-client-id: ${identityOf('caller')}\r\n`));
    assert.deepEqual([foreign?.received, expired?.received], ['', '']);
    assert.match(textOf(none ?? assert.fail()), /^HTTP\/1\.1 403 /);
    const who = { msg: 'a TLS client is refused', pod: 'mesh/guarded', port: HTTP, client: outsider };
    await tail.until({ ...who, clientIdentity: identityOf('server'), reason: /not trusted: (UNABLE|SELF)/ });
    await tail.until({ ...who, clientIdentity: identityOf('victim'), reason: /CERT_HAS_EXPIRED/ });
    await tail.until({ msg: 'request denied by policy', pod: 'mesh/guarded', client: outsider });
  });

  it('a meshed application that dials a mesh port itself gets nowhere, not even with a good certificate', async () => {
    const tail = new LogTail(agentLog('node1'));
    const [outcome] = await attemptFrom(
      (argv, options) => mesh.exec('caller', argv, { ns: 'mesh', ...options }),
      [wire(await make.mesh(identityOf('victim')), { send: [request] })],
    );
    assert.equal(outcome?.secured, false);
    assert.equal(outcome?.received, '');
    await tail.until({ msg: REFUSED, clientIdentity: identityOf('caller'), reason: /the mesh port itself/ });
  });

  describe('identity and destination', () => {
    for (const { program, account, port } of [
      { program: 'identity', account: 'linkerd-identity', port: 8080 },
      { program: 'destination', account: 'linkerd-destination', port: 8086 },
    ]) {
      it(`${program} refuses foreign and expired certificates, and says whose`, async () => {
        const tail = new LogTail(join(mesh.layout.logDir, `${program}.log`));
        const to = { host: mesh.layout.controlAddress.v4, port };
        const serverName = controlName(account);
        const agent = identityOf('nodemesh-agent', 'nodemesh');
        const attempts: Attempt[] = [
          { to, tls: { serverName, ...(await make.foreign(agent)) } },
          { to, tls: { serverName, ...(await make.mesh(identityOf('caller'), Date.now() - DAY_MS)) } },
        ];
        const node = mesh.node('node1');
        for (const outcome of await attemptFrom((argv, options) => node.exec(argv, options), attempts)) {
          assert.notEqual(outcome.ended, 'open');
        }
        const who = { msg: 'client refused', client: new RegExp(node.layout.address.v4) };
        await tail.until({ ...who, identity: agent, reason: /UNABLE|SELF_SIGNED/ });
        await tail.until({ ...who, identity: identityOf('caller'), reason: /EXPIRED/ });
      });
    }

    it('destination takes nobody without a certificate', async () => {
      const tail = new LogTail(join(mesh.layout.logDir, 'destination.log'));
      const to = { host: mesh.layout.controlAddress.v4, port: 8086 };
      const tls = { serverName: controlName('linkerd-destination') };
      const [outcome] = await attemptFrom(
        (argv, options) => mesh.node('node1').exec(argv, options),
        [{ to, tls }],
      );
      assert.notEqual(outcome?.ended, 'open');
      await tail.until({ msg: 'client refused', reason: 'no client certificate' });
    });
  });

  describe('an impostor in the place of a meshed pod', () => {
    const TABLE = 'nodemesh_test_impostor';
    const said: ImpostorLine[] = [];
    let impostor: ChildProcess;
    let ports: Readonly<Record<string, number>>;

    before(async () => {
      const { address, netns } = mesh.node('node1').layout;
      const tls: Readonly<Record<string, ImpostorListener['tls']>> = {
        otherPod: { ...(await make.mesh(identityOf('server'))), alpn: ALPN },
        foreign: { ...(await make.foreign(identityOf('victim'))), alpn: ALPN },
        expired: { ...(await make.mesh(identityOf('victim'), Date.now() - DAY_MS)), alpn: ALPN },
        noHeader: await make.mesh(identityOf('victim')),
        plain: undefined,
      };
      ports = Object.fromEntries(Object.keys(tls).map((key, index) => [key, 20_001 + index]));
      const listeners = Object.entries(tls).map(([key, options]) => ({
        host: address.v4,
        port: ports[key] ?? 0,
        ...(options === undefined ? {} : { tls: options }),
      }));
      impostor = spawn('nsenter', [`--net=${netnsPath(netns)}`, '--', process.execPath, IMPOSTOR], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      impostor.stdin?.end(JSON.stringify(listeners));
      await new Promise<void>((resolve, reject) => {
        impostor.once('exit', () => reject(new Error('the impostor ended')));
        createInterface({ input: impostor.stdout ?? assert.fail() }).on('line', (text) => {
          const line = JSON.parse(text) as ImpostorLine;
          said.push(line);
          if (line.kind === 'listening') resolve();
        });
      });
    });
    after(async () => {
      const ended = new Promise((resolve) => impostor.once('exit', resolve));
      impostor.kill('SIGKILL');
      await ended;
    });

    /** Whoever dials the victim's mesh port from another node meets the impostor. */
    const standIn = async (port: number): Promise<void> => {
      const node = mesh.node('node1');
      const rules = [
        `table ip ${TABLE} {}`,
        `delete table ip ${TABLE}`,
        `add table ip ${TABLE}`,
        `add chain ip ${TABLE} pre { type nat hook prerouting priority -150; }`,
        `add rule ip ${TABLE} pre ip daddr ${addressOf('victim')} tcp dport ${MESH_PORT} dnat to ${node.layout.address.v4}:${port}`,
      ];
      const run = await node.exec(['nft', '-f', '-'], { input: `${rules.join('\n')}\n` });
      assert.equal(run.code, 0, run.stderr);
    };

    for (const { name, key, message, reason } of [
      {
        name: "with another pod's certificate",
        key: 'otherPod',
        message: 'certificate does not match TLS identity',
        reason: new RegExp(`expected ${identityOf('victim')}, presented ${identityOf('server')}`),
      },
      {
        name: "with the right name under a foreign mesh's anchor",
        key: 'foreign',
        message: 'TLS handshake with the endpoint failed',
        reason: /unable to (get|verify)|self-signed/,
      },
      {
        name: "with the pod's own certificate after its end",
        key: 'expired',
        message: 'TLS handshake with the endpoint failed',
        reason: /certificate has expired/,
      },
      {
        name: 'that does not speak the header protocol',
        key: 'noHeader',
        message: 'TLS handshake with the endpoint failed',
        reason: /transport header protocol|application protocol/,
      },
      {
        name: 'without TLS',
        key: 'plain',
        message: 'TLS handshake with the endpoint failed',
        reason: /wrong version|packet|record|unexpected/i,
      },
    ] as const) {
      it(`${name} gets no request and no byte; client and log are told`, async () => {
        await standIn(ports[key] ?? 0);
        const tail = new LogTail(agentLog('node2'));
        const curl = [
          'curl',
          '-4',
          '-sS',
          '-i',
          '--max-time',
          '20',
          '-H',
          'x-marker: secret',
          `http://victim:${HTTP}/secret`,
        ];
        const http = await mesh.exec('caller', curl, { ns: 'mesh' });
        assert.match(http.stdout, /^HTTP\/1\.1 502 Bad Gateway\r\n/, http.stderr);
        assert.match(http.stdout, new RegExp(`l5d-proxy-error: ${message}\r\n`));
        const line = await tail.until({ msg: 'TLS with an endpoint failed', reason });
        assert.equal(line['client'], 'mesh/caller');
        assert.equal(line['clientIdentity'], identityOf('caller'));
        assert.equal(line['serverIdentity'], identityOf('victim'));
        assert.equal(line['endpoint'], `${addressOf('victim')}:${MESH_PORT}`);
        const [tcp] = await attemptFrom(
          (argv, options) => mesh.exec('caller', argv, { ns: 'mesh', ...options }),
          [{ to: { host: addressOf('victim'), port: TCP }, send: [base64('secret over TCP')] }],
        );
        assert.deepEqual([tcp?.ended, tcp?.received], ['reset', '']);
        const heard = said.flatMap((one) => (one.kind === 'received' ? [one.text] : [])).join('');
        assert.ok(!/secret|transport\.l5d\.io\/v1\r\n/.test(heard), 'the impostor was told something');
      });
    }

    it('once it is gone, the pod is served again', async () => {
      const gone = await mesh.node('node1').exec(['nft', 'delete', 'table', 'ip', TABLE]);
      assert.equal(gone.code, 0, gone.stderr);
      const curl = ['curl', '-4', '-sS', '-i', '--max-time', '20', `http://victim:${HTTP}/x`];
      assert.match((await mesh.exec('caller', curl, { ns: 'mesh' })).stdout, /^HTTP\/1\.1 200 OK/);
    });
  });

  it('a transport header that was let in is refused when it is replayed after policy has closed its port', async () => {
    const tail = new LogTail(agentLog('node1'));
    const replay = async (): Promise<string> =>
      textOf(await fromOutsiderOne(wire(good, { send: [request] })));
    assert.match(await replay(), /^HTTP\/1\.1 200 /);
    await mesh.annotate('Pod', 'mesh', 'server', 'config.linkerd.io/default-inbound-policy=deny');
    const deadline = performance.now() + 30_000;
    let answer = '';
    while (!answer.startsWith('HTTP/1.1 403 ')) {
      assert.ok(performance.now() < deadline, answer);
      answer = await replay();
    }
    const who = { pod: 'mesh/server', port: HTTP, client: outsider, clientIdentity: identityOf('caller') };
    await tail.until({ ...who, msg: 'request denied by policy', policy: /deny/ });
  });

  it('clients that fall silent in the middle of hello or header are cut off', async () => {
    const [header, hello, nothing] = await slow;
    for (const outcome of [header, hello, nothing]) {
      assert.notEqual(outcome?.ended, 'open');
      assert.equal(outcome?.received, '');
    }
    await log.until({ msg: REFUSED, clientIdentity: identityOf('caller'), reason: 'no header in time' });
    for (const bytes of [0, 3])
      await log.until({
        msg: 'a client of the mesh port sent no TLS hello in time',
        client: outsider,
        bytes,
      });
  });

  it('all that has harmed nobody: no program was started again, no worker replaced', async () => {
    await requireUnharmed(mesh);
  });
});
