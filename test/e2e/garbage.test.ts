// SPDX-License-Identifier: Apache-2.0
// Garbage to every listener and socket of the mesh: each connection ends, no program ends, no worker is replaced, and
// whoever behaves is served as before.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { type Attempt, type Outcome, tryConnection } from './hostile-attempt.ts';
import { certificateMaker, type TlsIdentity } from './hostile-certificates.ts';
import { attemptFrom, base64, requireUnharmed, textOf } from './hostile-helpers.ts';
import { frames, noise, type Payload, payloads } from './hostile-payloads.ts';
import { meshed, namespace, pod, service } from './objects.ts';
import { scrape, total } from './scrape.ts';

const MIRROR = fileURLToPath(new URL('programs/mirror.ts', import.meta.url));
const HTTP = 8080;
const TCP = 7070;
const OPAQUE = 7071;
/** Longer than any listener waits for somebody who says nothing. */
const SILENCE_MS = 25_000;
/** Far less than that patience: each of these connections is ended by its client. */
const AT_ONCE_MS = 4_000;
const ALERT = '\x15\x03';

type From = 'outsider' | 'client' | 'server' | 'node2' | 'here';

describe('garbage', () => {
  let mesh: LocalMesh;
  let sidecar: TlsIdentity;
  let silence: ReadonlyMap<string, Promise<readonly Outcome[]>>;
  let serverIps: readonly string[];

  before(async () => {
    mesh = await startMesh({
      name: 'e2e-garbage',
      objects: [
        namespace('mesh', meshed),
        namespace('plain'),
        pod('mesh', 'server', ['node', MIRROR, String(HTTP), String(TCP)], {
          node: 'node1',
          readinessPort: HTTP,
        }),
        pod('mesh', 'opaque', ['node', MIRROR, String(OPAQUE), String(TCP)], {
          node: 'node1',
          readinessPort: OPAQUE,
          annotations: { 'config.linkerd.io/opaque-ports': `${OPAQUE},${TCP}` },
        }),
        service('mesh', 'server', HTTP),
        pod('mesh', 'client', [], { node: 'node2' }),
        pod('plain', 'outsider', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
    const { status } = await mesh.pod('server', 'mesh');
    serverIps = status?.podIPs?.map(({ ip }) => ip) ?? [];
    assert.equal(serverIps.length, 2);
    const make = await certificateMaker(mesh.layout.keysDir);
    sidecar = await make.mesh('default.mesh.serviceaccount.identity.linkerd.cluster.local');
    silence = new Map(
      silent().map(({ name, from, to }) => {
        const attempts: Attempt[] = [
          { to, patienceMs: SILENCE_MS },
          { to, patienceMs: SILENCE_MS, send: [base64('GET /x HTTP/1.1\r\nhost: x\r\nx: ')] },
          { to, patienceMs: SILENCE_MS, send: [base64(Uint8Array.of(0x16, 3, 1, 2, 0, 1))] },
        ];
        return [name, attemptAt(from, attempts)];
      }),
    );
  });
  after(async () => {
    await Promise.all(silence.values());
    await mesh.down();
  });

  const attemptAt = (from: From, attempts: readonly Attempt[]): Promise<readonly Outcome[]> => {
    if (from === 'here') return Promise.all(attempts.map(tryConnection));
    if (from === 'node2')
      return attemptFrom((argv, options) => mesh.node('node2').exec(argv, options), attempts);
    const ns = from === 'outsider' ? 'plain' : 'mesh';
    return attemptFrom((argv, options) => mesh.exec(from, argv, { ns, ...options }), attempts);
  };
  const at = (host: string, port: number): Attempt['to'] => ({ host, port });
  const serverAt = (port: number): Attempt['to'] => at(serverIps[0] ?? '', port);
  const nodeAt = (port: number): Attempt['to'] => at(mesh.node('node1').layout.address.v4, port);
  const controlAt = (port: number): Attempt['to'] => at(mesh.layout.controlAddress.v4, port);
  const inRunDir = (name: string): string => join(mesh.node('node1').layout.runDir, name);

  /** Sends all of it at once, sees every connection end, and that nothing else did. */
  const bombard = async (
    from: From,
    to: Attempt['to'],
    what: Readonly<Record<string, Payload>> = payloads,
  ): Promise<ReadonlyMap<string, Outcome>> => {
    const names = Object.keys(what);
    const outcomes = await attemptAt(
      from,
      names.map((name) => ({ to, ...what[name] })),
    );
    const open = names.filter((_, index) => outcomes[index]?.ended === 'open');
    assert.deepEqual(open, [], 'connections that were left open');
    const slow = names.filter((_, index) => (outcomes[index]?.afterMs ?? 0) > AT_ONCE_MS);
    assert.deepEqual(slow, [], 'connections that ended only because somebody lost patience');
    await requireServing();
    return new Map(names.map((name, index) => [name, outcomes[index] ?? assert.fail(name)]));
  };

  const requireServing = async (): Promise<void> => {
    await requireUnharmed(mesh);
    const curl = ['curl', '-sS', '-i', '--max-time', '20', `http://server:${HTTP}/x`];
    const good = await mesh.exec('client', curl, { ns: 'mesh' });
    assert.match(
      good.stdout,
      /^HTTP\/1\.1 200 OK\r\n[\s\S]*x-client-id: default\.mesh\.serviceaccount/,
      good.stderr,
    );
  };

  it('is not needed to reach the server: the good request works', requireServing);

  for (const family of [4, 6]) {
    it(`the mesh port over IPv${family} answers nothing but TLS alerts`, async () => {
      const host = serverIps.find((ip) => ip.includes(':') === (family === 6)) ?? '';
      for (const [name, outcome] of await bombard('outsider', at(host, 4143))) {
        assert.ok(textOf(outcome) === '' || textOf(outcome).startsWith(ALERT), name);
        assert.equal(outcome.secured, false, name);
      }
    });
  }

  it('the tap port answers nothing', async () => {
    for (const [name, outcome] of await bombard('outsider', serverAt(4190))) {
      assert.equal(textOf(outcome), '', name);
    }
  });

  it("the pod's admin port", async () => {
    await bombard('outsider', serverAt(4191));
    await bombard('server', serverAt(4191));
    const curl = ['curl', '-sS', '--max-time', '10', `http://${serverIps[0]}:4191/live`];
    assert.equal((await mesh.exec('outsider', curl, { ns: 'plain' })).stdout, 'live\n');
  });

  it("an application's port, from outside the mesh", async () => {
    const outcomes = await bombard('outsider', serverAt(HTTP));
    assert.match(
      textOf(outcomes.get('a hundred requests at once') ?? assert.fail()),
      /^HTTP\/1\.1 200 OK\r\n/,
    );
    for (const name of ['two lengths', 'length and chunks', 'a chunk of nonsense']) {
      assert.match(textOf(outcomes.get(name) ?? assert.fail()), /^HTTP\/1\.1 400 /, name);
    }
  });

  it("an application's port, from a meshed pod of another node", async () => {
    const outcomes = await bombard('client', serverAt(HTTP));
    assert.match(
      textOf(outcomes.get('a hundred requests at once') ?? assert.fail()),
      /^HTTP\/1\.1 200 OK\r\n/,
    );
    for (const name of ['two lengths', 'length and chunks', 'a chunk of nonsense']) {
      assert.match(textOf(outcomes.get(name) ?? assert.fail()), /^HTTP\/1\.1 400 /, name);
    }
  });

  it("a pod's own port, from inside", async () => {
    await bombard('server', serverAt(HTTP));
  });

  for (const from of ['outsider', 'client'] as const) {
    it(`a port that echoes: every byte comes back (${from})`, async () => {
      const opaque = (await mesh.pod('opaque', 'mesh')).status?.podIP ?? '';
      const what = Object.fromEntries(
        Object.entries(payloads).filter(
          ([, payload]) => payload.tls === undefined && payload.ending === 'fin',
        ),
      );
      for (const [name, outcome] of await bombard(from, at(opaque, TCP), what)) {
        const sent = Buffer.concat((what[name]?.send ?? []).map((piece) => Buffer.from(piece, 'base64')));
        assert.ok(Buffer.from(outcome.received, 'base64').equals(sent), name);
      }
      await bombard(from, at(opaque, OPAQUE));
    });
  }

  it("the node's admin port", async () => {
    await bombard('node2', nodeAt(4191));
    const curl = [
      'curl',
      '-sS',
      '--max-time',
      '10',
      `http://${mesh.node('node1').layout.address.v4}:4191/ready`,
    ];
    assert.equal((await mesh.node('node2').exec(curl)).stdout, 'ready\n');
  });

  it('the listeners inside a pod close what did not come through the kernel', async () => {
    const inside = await mesh.exec('server', ['ss', '-Hltn'], { ns: 'mesh' });
    const listeners = [...inside.stdout.matchAll(/\s(127\.0\.0\.1|\[::1\]):(\d+)\s/g)].map(
      ([, host = '', port]) => at(host.replace(/[[\]]/g, ''), Number(port)),
    );
    // Slots for both directions and families.
    assert.ok(listeners.length >= 4, inside.stdout);
    const few = Object.fromEntries(
      ['nothing', 'noise', 'half a request', 'a hundred requests at once', 'TLS without a name'].map(
        (name) => [name, payloads[name] ?? assert.fail(name)],
      ),
    );
    const attempts = listeners.flatMap((to) => Object.values(few).map((payload) => ({ to, ...payload })));
    for (const [index, outcome] of (await attemptAt('server', attempts)).entries()) {
      assert.notEqual(outcome.ended, 'open', JSON.stringify(attempts[index]?.to));
      assert.equal(textOf(outcome), '', JSON.stringify(attempts[index]?.to));
    }
    const metrics = await scrape(mesh, 'node1');
    for (const reason of ['loopback', 'no_destination']) {
      const refused = total(metrics, 'nodemesh_connections_refused_total', { pod: 'server', reason });
      assert.ok(refused >= attempts.length / 2, `${refused} refused: ${reason}`);
    }
    await requireServing();
  });

  for (const { program, account, port, adminPort, path } of [
    {
      program: 'identity',
      account: 'linkerd-identity',
      port: 8080,
      adminPort: 9990,
      path: '/io.linkerd.proxy.identity.Identity/Certify',
    },
    {
      program: 'destination',
      account: 'linkerd-destination',
      port: 8086,
      adminPort: 9996,
      path: '/io.linkerd.proxy.destination.Destination/Get',
    },
  ]) {
    it(`${program}: the gRPC port and the admin port`, async () => {
      await bombard('node2', controlAt(port));
      await bombard('node2', controlAt(adminPort));
      const curl = [
        'curl',
        '-sS',
        '--max-time',
        '10',
        `http://${mesh.layout.controlAddress.v4}:${adminPort}/ready`,
      ];
      assert.equal((await mesh.node('node2').exec(curl)).stdout, 'ready\n');
    });

    it(`${program}: inside TLS with a good certificate`, async () => {
      const tls = {
        ...sidecar,
        serverName: `${account}.linkerd.serviceaccount.identity.linkerd.cluster.local`,
      };
      const plain = Object.entries(payloads).filter(([, payload]) => payload.tls === undefined);
      await bombard(
        'node2',
        controlAt(port),
        Object.fromEntries(plain.map(([name, payload]) => [name, { ...payload, tls }])),
      );
      const message = (length: number, bytes: Uint8Array): string => {
        const head = Buffer.alloc(5);
        head.writeUInt32BE(length, 1);
        return base64(Buffer.concat([head, bytes]));
      };
      const calls: readonly { readonly path: string; readonly body: string; readonly expect: RegExp }[] = [
        { path: '/no.such.Service/Method', body: message(0, Buffer.alloc(0)), expect: /grpc-status 12/ },
        { path, body: message(0, Buffer.alloc(0)), expect: /grpc-status [1-9]/ },
        { path, body: message(500, noise(500, 41)), expect: /grpc-status [1-9]/ },
        { path, body: message(0x7fff_ffff, noise(500, 43)), expect: /grpc-status [1-9]/ },
        { path, body: base64(noise(3, 47)), expect: /grpc-status [1-9]/ },
        { path, body: message(100, Buffer.alloc(100, 0xff)), expect: /grpc-status [1-9]/ },
      ];
      const outcomes = await attemptAt(
        'node2',
        calls.map(({ expect: _, ...call }) => ({ to: controlAt(port), tls, call })),
      );
      for (const [index, { expect }] of calls.entries()) {
        assert.match(textOf(outcomes[index] ?? assert.fail()), expect, `call ${index}`);
      }
      await requireServing();
    });
  }

  it('the CNI socket answers each broken call with an error', async () => {
    await bombard('here', inRunDir('cni.sock'));
    const outcomes = await bombard('here', inRunDir('cni.sock'), frames);
    for (const [name, outcome] of outcomes) {
      const answer = Buffer.from(outcome.received, 'base64');
      if (name === 'a frame cut short') assert.equal(answer.length, 0);
      else {
        assert.notEqual(answer.readUInt32BE(4), 0, name);
        const { code, msg } = JSON.parse(answer.toString('utf8', 8)) as { code?: unknown; msg?: unknown };
        assert.ok(Number(code) > 0 && String(msg).length > 5, name);
      }
    }
  });

  it("the agent's socket and the one of mesh local", async () => {
    await bombard('here', inRunDir('agent.sock'));
    await bombard('here', mesh.layout.socketPath);
  });

  const silent = (): readonly {
    readonly name: string;
    readonly from: From;
    readonly to: Attempt['to'];
  }[] => [
    { name: 'the mesh port', from: 'outsider', to: serverAt(4143) },
    { name: 'the tap port', from: 'outsider', to: serverAt(4190) },
    { name: "the pod's admin port", from: 'outsider', to: serverAt(4191) },
    { name: "the node's admin port", from: 'node2', to: nodeAt(4191) },
    { name: 'identity', from: 'node2', to: controlAt(8080) },
    { name: "identity's admin port", from: 'node2', to: controlAt(9990) },
    { name: 'destination', from: 'node2', to: controlAt(8086) },
    { name: "destination's admin port", from: 'node2', to: controlAt(9996) },
    { name: 'the CNI socket', from: 'here', to: inRunDir('cni.sock') },
    { name: "the agent's socket", from: 'here', to: inRunDir('agent.sock') },
  ];

  it('whoever connects and falls silent is cut off', async () => {
    const left: string[] = [];
    for (const [name, waiting] of silence) {
      for (const [index, { ended }] of (await waiting).entries()) {
        if (ended === 'open') left.push(`${name} (${['nothing', 'half a request', 'half a hello'][index]})`);
      }
    }
    assert.deepEqual(left, []);
    await requireServing();
  });
});
