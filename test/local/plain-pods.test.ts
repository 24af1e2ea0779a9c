// SPDX-License-Identifier: Apache-2.0
// A local mesh without agents: what pods, services, names and probes do. One mesh for all of it.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type LocalMesh, type PodObject, startMesh } from '../../local/harness.ts';

const SERVER = [
  // A probe closes without reading: that must not end the server.
  "const say = (socket) => socket.on('error', () => {}).end(`${process.env.POD} ${socket.remoteAddress}\\n`);",
  "require('node:net').createServer(say).listen({ port: 8080, host: '::' });",
  "const udp = require('node:dgram').createSocket({ type: 'udp6' });",
  "udp.on('message', (text, from) => udp.send(`${process.env.POD} ${text}`, from.port, from.address));",
  "udp.bind(8081, '::');",
  "process.on('SIGTERM', () => process.exit(0));",
].join('\n');

const ASK_UDP = [
  'const [host, port] = process.argv.slice(1);',
  "const socket = require('node:dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4');",
  "socket.on('message', (text) => { console.log(String(text)); socket.close(); });",
  "socket.send('hello', Number(port), host);",
  'setTimeout(() => process.exit(1), 3000).unref();',
].join('\n');

const server = (extra: object = {}): object => ({
  name: 'server',
  command: ['node', '-e', SERVER],
  env: [{ name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
  ports: [{ name: 'tcp', containerPort: 8080 }],
  readinessProbe: { tcpSocket: { port: 'tcp' }, periodSeconds: 1 },
  ...extra,
});

const pod = (name: string, node: string, app: string, containers: readonly object[]): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, labels: { app } },
  spec: { nodeName: node, containers, terminationGracePeriodSeconds: 2 },
});

const service = (name: string, app: string, spec: object = {}): object => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name },
  spec: {
    selector: { app },
    ports: [
      { name: 'tcp', port: 80, targetPort: 'tcp' },
      { name: 'udp', port: 81, targetPort: 8081, protocol: 'UDP' },
    ],
    ...spec,
  },
});

const sleeper = (securityContext: object = {}): object => ({
  name: 'sleeper',
  command: ['node', '-e', "process.on('SIGTERM', () => process.exit(0)); setInterval(() => {}, 1000)"],
  securityContext,
});

const tcp = (host: string, port: number): string[] => [
  'socat',
  '-T5',
  'STDIN!!STDOUT',
  `TCP:${host.includes(':') ? `[${host}]` : host}:${port},connect-timeout=5`,
];

describe('plain pods', () => {
  let mesh: LocalMesh;
  const pods = new Map<string, PodObject>();
  const ip = (name: string, family: 4 | 6): string => {
    const found = pods.get(name)?.status.podIPs?.map((entry) => entry.ip);
    return (
      found?.find((address) => address.includes(':') === (family === 6)) ??
      assert.fail(`${name} has no IPv${family}`)
    );
  };
  const say = async (from: string, argv: readonly string[]): Promise<string> => {
    const result = await mesh.exec(from, argv, { timeoutMs: 20_000 });
    assert.equal(result.code, 0, `${argv.join(' ')}: ${result.stdout}${result.stderr}`);
    return result.stdout;
  };

  before(async () => {
    mesh = await startMesh({
      name: 'test-plain',
      mesh: false,
      objects: [
        pod('one', 'node1', 'web', [server()]),
        pod('two', 'node2', 'web', [server()]),
        pod('alone', 'node1', 'alone', [server()]),
        pod('client', 'node1', 'client', [sleeper()]),
        pod('bare', 'node2', 'bare', [
          sleeper({ runAsUser: 1000, capabilities: { drop: ['ALL'] }, allowPrivilegeEscalation: false }),
        ]),
        service('web', 'web'),
        service('alone', 'alone'),
        service('web-headless', 'web', { clusterIP: 'None' }),
        service('nobody', 'nobody'),
      ],
    });
    for (const found of await mesh.pods('default')) pods.set(found.metadata.name, found);
  });
  after(() => mesh?.down());

  for (const family of [4, 6] as const) {
    test(`pods reach pods of the same and of another node with their own address, IPv${family}`, async () => {
      for (const target of ['alone', 'two']) {
        const answer = await say('client', tcp(ip(target, family), 8080));
        assert.match(answer, new RegExp(`^${target} (::ffff:)?${ip('client', family)}$`, 'm'));
      }
    });
  }

  test('a ClusterIP reaches every ready pod, over TCP and UDP, both families, from pods and from nodes', async () => {
    const [web] = (await mesh.list('Service', 'default')).filter((found) => found.metadata.name === 'web');
    const clusterIPs = web?.spec.clusterIPs ?? [];
    assert.equal(clusterIPs.length, 2);
    for (const address of clusterIPs) {
      const seen = new Set<string>();
      for (let round = 0; round < 40 && seen.size < 2; round++) {
        seen.add((await say('client', tcp(address, 80))).split(' ')[0] ?? '');
      }
      assert.deepEqual([...seen].sort(), ['one', 'two']);
      assert.match(await say('client', ['node', '-e', ASK_UDP, address, '81']), /^(one|two) hello$/m);
      for (const node of ['node1', 'node2']) {
        const answer = await mesh.node(node).exec(tcp(address, 80), { timeoutMs: 20_000 });
        assert.match(answer.stdout, /^(one|two) /, answer.stderr);
        const datagram = await mesh.node(node).exec([process.execPath, '-e', ASK_UDP, address, '81']);
        assert.match(datagram.stdout, /^(one|two) hello$/m);
      }
    }
  });

  test('a pod reaches itself through its own service', async () => {
    const [alone] = (await mesh.list('Service', 'default')).filter(
      (found) => found.metadata.name === 'alone',
    );
    for (const address of alone?.spec.clusterIPs ?? []) {
      assert.match(await say('alone', tcp(address, 80)), /^alone /);
    }
  });

  test('a service without ready pods refuses at once', async () => {
    const result = await mesh.exec('client', tcp('nobody', 80), { timeoutMs: 20_000 });
    assert.notEqual(result.code, 0);
    assert.match(result.stderr, /refused/);
  });

  test('names: services, search domains, headless services; unknown names do not exist', async () => {
    const lookup = async (name: string): Promise<string[]> =>
      [
        ...new Set(
          (await say('client', ['getent', 'ahosts', name]))
            .split('\n')
            .filter(Boolean)
            .map((line) => line.split(/\s+/)[0] ?? ''),
        ),
      ].sort();
    const [web] = (await mesh.list('Service', 'default')).filter((found) => found.metadata.name === 'web');
    for (const name of ['web', 'web.default', 'web.default.svc', 'web.default.svc.cluster.local']) {
      assert.deepEqual(await lookup(name), [...(web?.spec.clusterIPs ?? [])].sort());
    }
    assert.deepEqual(
      await lookup('web-headless'),
      [ip('one', 4), ip('one', 6), ip('two', 4), ip('two', 6)].sort(),
    );
    const unknown = await mesh.exec('client', ['getent', 'hosts', 'nowhere.example.com'], {
      timeoutMs: 20_000,
    });
    assert.equal(unknown.code, 2);
  });

  test('no route leads out', async () => {
    const result = await mesh.exec('client', tcp('192.0.2.1', 80), { timeoutMs: 20_000 });
    assert.match(result.stderr, /unreachable/);
  });

  test('exec gives output, error output, input and exit code; logs give what the container wrote', async () => {
    const result = await mesh.exec('client', ['sh', '-c', 'cat; echo bad >&2; exit 7'], { input: 'typed' });
    assert.deepEqual(result, { code: 7, stdout: 'typed', stderr: 'bad\n' });
    await mesh.apply(
      pod('talker', 'node1', 'talker', [
        { ...sleeper(), command: ['sh', '-c', 'echo "it is $HOSTNAME"; exec sleep 1000'] },
      ]),
    );
    await mesh.waitReady();
    let log = '';
    while (!log.endsWith('\n')) log = await mesh.logs('talker');
    assert.equal(log, 'it is talker\n');
    await mesh.delete({ kind: 'Pod', namespace: 'default', name: 'talker' });
  });

  test("a container has containerd's capabilities; drop ALL leaves none, and the user is the one asked for", async () => {
    const capabilities = async (name: string): Promise<Record<string, string>> =>
      Object.fromEntries(
        (await say(name, ['sh', '-c', 'grep -E "^(Cap|NoNew|Uid)" /proc/1/status']))
          .trim()
          .split('\n')
          .map((line) => line.split(/:\s+/, 2) as [string, string]),
      );
    const usual = await capabilities('client');
    assert.equal(usual['CapBnd'], '00000000a80425fb');
    assert.equal(usual['CapEff'], '00000000a80425fb');
    const bare = await capabilities('bare');
    for (const set of ['CapBnd', 'CapEff', 'CapPrm', 'CapAmb', 'CapInh'])
      assert.equal(bare[set], '0000000000000000');
    assert.equal(bare['NoNewPrivs'], '1');
    assert.match(bare['Uid'] ?? '', /^1000\s/);
    assert.match(await say('bare', ['grep', 'CapEff', '/proc/self/status']), /0{16}/);
  });

  test("the mesh's files, cgroups and the processes of others are hidden", async () => {
    const seen = await say('client', [
      'sh',
      '-c',
      'ls /run; ls /sys/fs/cgroup /sys/fs/bpf; grep -c nodemesh-local /proc/self/mountinfo; ls -d /proc/[0-9]* | wc -l; cat /run/secrets/kubernetes.io/serviceaccount/namespace',
    ]);
    const lines = seen.trim().split('\n');
    assert.deepEqual(lines.slice(0, 2), ['lock', 'secrets']);
    assert.ok(Number(lines.at(-2)) < 8, seen);
    assert.equal(lines.at(-1), 'default');
    assert.equal(existsIn(lines, 'nodemesh-local'), false);
  });

  test('the namespaces of pods that are gone are not held by others', async () => {
    await mesh.apply(pod('short', 'node1', 'short', [sleeper()]));
    await mesh.waitReady();
    const holder = pod('later', 'node1', 'later', [sleeper()]);
    await mesh.apply(holder);
    await mesh.waitReady();
    await mesh.delete({ kind: 'Pod', namespace: 'default', name: 'short' });
    assert.doesNotMatch(await say('later', ['cat', '/proc/self/mountinfo']), /nsfs/);
    await mesh.delete({ kind: 'Pod', namespace: 'default', name: 'later' });
  });
});

const existsIn = (lines: readonly string[], text: string): boolean =>
  lines.some((line) => line.includes(text));
