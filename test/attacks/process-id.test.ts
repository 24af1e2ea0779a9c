// SPDX-License-Identifier: Apache-2.0
// The agent was killed and a process of a pod has its process id now, as forking gets it to sooner or later (the
// numbers are few): it is redirected as any other, gets no more of its neighbours, and nothing from the sockets.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { requireCgroup2 } from '../../local/cgroups.ts';
import { podNetns } from '../../local/layout.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { LogTail } from '../e2e/hostile-helpers.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';
import { scrape, total } from '../e2e/scrape.ts';
import { until } from '../faults/until.ts';

const TAKE = fileURLToPath(new URL('take-pid.py', import.meta.url));
const MIRROR = fileURLToPath(new URL('../e2e/programs/mirror.ts', import.meta.url));
const HTTP = 8080;
const TCP = 7070;
const MESH_PORT = 4143;
const NOBODY = 65_534;
/** take-pid.py: somebody else was given the number. */
const TAKEN = 75;
const thiefIdentity = 'thief.shop.serviceaccount.identity.linkerd.cluster.local';

interface Ran {
  /** The process id that the program had. */
  readonly id: number;
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

describe("a dead agent's process id", () => {
  let mesh: LocalMesh;
  let log: LogTail;
  let keeperLog: LogTail;
  const addresses = new Map<string, string>();
  before(async () => {
    const server = ['node', MIRROR, String(HTTP), String(TCP)];
    mesh = await startMesh({
      name: 'c-pid',
      nodes: 1,
      objects: [
        namespace('shop', meshed),
        ...['thief', 'guarded', 'closed'].map((name) => serviceAccount('shop', name)),
        pod('shop', 'thief', [], { account: 'thief' }),
        pod('shop', 'guarded', server, {
          account: 'guarded',
          readinessPort: HTTP,
          annotations: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
        }),
        pod('shop', 'closed', server, {
          account: 'closed',
          readinessPort: HTTP,
          annotations: { 'config.linkerd.io/default-inbound-policy': 'deny' },
        }),
      ],
    });
    await mesh.waitReady();
    for (const name of ['guarded', 'closed'])
      addresses.set(name, (await mesh.pod(name, 'shop')).status?.podIP ?? '');
    const { logDir } = mesh.node('node1').layout;
    log = new LogTail(join(logDir, 'agent.log'));
    keeperLog = new LogTail(join(logDir, 'keeper.log'));
  });
  after(async () => mesh.down());

  /** The application itself, not what started it. */
  const podProcess = (): number =>
    Number(
      execFileSync('ip', ['netns', 'pids', podNetns(mesh.name, 'shop', 'thief')], { encoding: 'utf8' })
        .trim()
        .split('\n')
        .at(-1),
    );

  async function killAgent(): Promise<number> {
    const node = mesh.node('node1');
    const id = await node.agentPid();
    await node.killAgent();
    await until('the next agent', 30_000, async () => ((await node.agentPid()) !== id ? true : undefined));
    await node.agentReady();
    return id;
  }

  let dead: number | undefined;
  /** Runs the program under the process id of an agent that was killed. */
  async function asDeadAgent(where: 'pod' | 'node', argv: readonly string[]): Promise<Ran> {
    const process = podProcess();
    const cgroup = join(
      requireCgroup2(),
      /^0::(.*)$/m.exec(readFileSync(`/proc/${process}/cgroup`, 'utf8'))?.[1] ?? '',
    );
    const place = where === 'pod' ? ['--pod', String(process), '--cgroup', cgroup] : [];
    return until('an agent whose number is free', 60_000, async () => {
      const id = (dead ??= await killAgent());
      const run = spawnSync('python3', [TAKE, ...place, '--id', String(id), '--', ...argv], {
        encoding: 'utf8',
        timeout: 30_000,
      });
      if (run.status !== TAKEN) return { id, ...run };
      dead = undefined;
      return undefined;
    });
  }
  const unprivileged = ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs'];
  const get = (to: string, port: number): readonly string[] => [
    ...unprivileged,
    'curl',
    '-sS',
    '-i',
    '--max-time',
    '20',
    `http://${addresses.get(to) ?? ''}:${port}/x`,
  ];
  const outbound = async (port: number): Promise<number> =>
    total(await scrape(mesh, 'node1'), 'tcp_open_total', {
      pod: 'thief',
      direction: 'outbound',
      peer: 'src',
      target_port: String(port),
    });

  it('is had by a process in the namespaces and the cgroup of the pod', async () => {
    const script = 'readlink /proc/$$/ns/net /proc/$$/ns/pid; cat /proc/$$/cgroup';
    const { status, stdout, stderr } = await asDeadAgent('pod', ['sh', '-c', script]);
    assert.equal(status, 0, stderr);
    const [net, pids] = stdout.split('\n');
    const like = podProcess();
    assert.equal(net, readlinkSync(`/proc/${like}/ns/net`));
    assert.equal(pids, readlinkSync(`/proc/${like}/ns/pid`));
  });

  it('takes no connection past the agent: under its own identity to those who ask for one, and counted', async () => {
    const { status, stdout, stderr } = await asDeadAgent('pod', get('guarded', HTTP));
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^HTTP\/1\.1 200 OK/);
    assert.match(stdout, new RegExp(`x-client-id: ${thiefIdentity}\r`));
    assert.ok((await outbound(HTTP)) >= 1, 'the agent has not seen the connection');
  });

  it('opens no port that policy closes', async () => {
    const { stdout } = await asDeadAgent('pod', get('closed', HTTP));
    assert.match(stdout, /^HTTP\/1\.1 403 /);
    await log.until({ msg: 'request denied by policy', pod: 'shop/closed', clientIdentity: thiefIdentity });
  });

  it("reaches no mesh port as agents do: the connection is the pod's", async () => {
    const { stdout } = await asDeadAgent('pod', get('guarded', MESH_PORT));
    assert.doesNotMatch(stdout, /^HTTP\/1\.1 200/);
    await log.until({
      msg: 'a connection to the mesh port is refused',
      clientIdentity: thiefIdentity,
      reason: /the mesh port itself/,
    });
  });

  for (const [socket, told] of [
    ['agent.sock', 'an admin caller that is not root was refused'],
    ['cni.sock', 'a CNI caller that is not root was refused'],
    ['keeper.sock', 'refused'],
  ] as const) {
    it(`is no key to ${socket}: in the pod it is not there, elsewhere the uid counts`, async () => {
      const path = join(mesh.node('node1').layout.runDir, socket);
      const inPod = await asDeadAgent('pod', [
        'sh',
        '-c',
        `[ ! -e ${path} ] && grep -c nodemesh /proc/net/unix`,
      ]);
      assert.equal(inPod.stdout.trim(), '0', inPod.stderr);

      const door = `/run/c-pid-${socket}`;
      rmSync(door, { force: true });
      const user = [...unprivileged, `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'];
      // By the time it runs the next agent has put its own socket there.
      const script = `import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if 'keeper' in sys.argv[1] else socket.SOCK_STREAM)
s.settimeout(10)
s.connect(sys.argv[1])
try:
    if 'keeper' not in sys.argv[1]: s.send(b'GET /state HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')
    print(s.recv(4096))
except ConnectionError as e:
    print(e)
`;
      const opened = `ln -f ${path} ${door} && chmod 666 ${door} && exec ${user.join(' ')} python3 -c "$0" ${door}`;
      try {
        const { id, stdout, stderr, status } = await asDeadAgent('node', ['sh', '-c', opened, script]);
        assert.equal(status, 0, stderr);
        assert.doesNotMatch(stdout, /HTTP\/1\.1 200|\{/);
        if (socket === 'keeper.sock') await keeperLog.until({ msg: told, pid: id, reason: 'foreign uid' });
        else await log.until({ msg: told, uid: NOBODY });
      } finally {
        chmodSync(path, 0o600);
        rmSync(door, { force: true });
      }
    });
  }
});
