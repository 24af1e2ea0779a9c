// SPDX-License-Identifier: Apache-2.0
// A neighbour that takes a pod's address on the pod network, and local users that are not root at the agent's sockets.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, linkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { podNetns } from '../../local/layout.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { LogTail } from '../e2e/hostile-helpers.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';

const HTTP = 8080;
const NOBODY = 65_534;
const server = ['python3', '-u', '-m', 'http.server', String(HTTP), '--bind', '0.0.0.0'];

/** Gratuitous ARP replies without end: `ip` is at eth0 of this namespace. Raw, as CAP_NET_RAW allows. */
const ANNOUNCE = `
import socket, sys, time
mac = bytes.fromhex(open('/sys/class/net/eth0/address').read().strip().replace(':', ''))
ip = socket.inet_aton(sys.argv[1])
arp = bytes.fromhex('0001080006040002') + mac + ip + b'\\xff' * 6 + ip
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
while True:
    s.send(b'\\xff' * 6 + mac + bytes.fromhex('0806') + arp)
    time.sleep(0.05)
`;

describe('neighbours', () => {
  let mesh: LocalMesh;
  let log: LogTail;
  let victim = '';
  let guarded = '';

  before(async () => {
    mesh = await startMesh({
      name: 'at-near',
      nodes: 1,
      objects: [
        namespace('shop', meshed),
        namespace('plain'),
        ...['victim', 'guarded'].map((name) => serviceAccount('shop', name)),
        pod('shop', 'victim', [], { account: 'victim' }),
        pod('shop', 'guarded', server, {
          account: 'guarded',
          readinessPort: HTTP,
          annotations: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
        }),
        pod('plain', 'thief', []),
      ],
    });
    await mesh.waitReady();
    const addressOf = async (name: string): Promise<string> =>
      (await mesh.pod(name, 'shop')).status?.podIP ?? '';
    victim = await addressOf('victim');
    guarded = await addressOf('guarded');
    log = new LogTail(join(mesh.node('node1').layout.logDir, 'agent.log'));
  });
  after(async () => mesh.down());

  const get = (...more: readonly string[]): readonly string[] =>
    ['curl', '-sS', '-i', '--max-time', '10', more, `http://${guarded}:${HTTP}/`].flat();

  it('the meshed pod is let in under its identity', async () => {
    const answer = await mesh.exec('victim', get(), { ns: 'shop' });
    assert.match(answer.stdout, /^HTTP\/1\.\d 200/, answer.stderr);
  });

  it("a pod that takes its address by ARP is reached under that address, and has none of the pod's rights", async () => {
    const inThief = ['netns', 'exec', podNetns(mesh.name, 'plain', 'thief')];
    const thief = (...argv: readonly string[]): string =>
      spawnSync('ip', [...inThief, ...argv], { encoding: 'utf8' }).stdout;
    thief('ip', 'addr', 'add', `${victim}/32`, 'dev', 'eth0');
    const announcing = spawn('ip', [...inThief, 'python3', '-c', ANNOUNCE, victim], { stdio: 'ignore' });
    try {
      // An answer proves that the address was taken, for the server's packets came here. The pod itself answers ARP
      // requests too, so it takes more than one try.
      let answer = '';
      const deadline = performance.now() + 60_000;
      while (answer === '' && performance.now() < deadline)
        answer = thief(...get('--max-time', '2', '--interface', victim));
      assert.match(answer, /^HTTP\/1\.\d 403/);
      await log.until({ msg: /den/, client: new RegExp(`^${victim.replaceAll('.', '\\.')}`) });
    } finally {
      announcing.kill('SIGKILL');
      thief('ip', 'addr', 'del', `${victim}/32`, 'dev', 'eth0');
    }
  });

  for (const [socket, told] of [
    ['agent.sock', 'an admin caller that is not root was refused'],
    ['cni.sock', 'a CNI caller that is not root was refused'],
  ] as const) {
    it(`a user that is not root gets nothing from ${socket}, not even where the file's mode lets it in`, async () => {
      const path = join(mesh.node('node1').layout.runDir, socket);
      const user = `--reuid=${NOBODY} --regid=${NOBODY} --clear-groups --bounding-set=-all --inh-caps=-all`;
      const request = 'http://agent/state';
      const asNobody = (target: string) =>
        spawnSync(
          'setpriv',
          [...user.split(' '), 'curl', '-sS', '-m', '10', '--unix-socket', target, request],
          {
            encoding: 'utf8',
          },
        );
      assert.match(asNobody(path).stderr, /Could not connect|Couldn't connect|Failed to connect/i);
      const door = `/run/at-near-${socket}`;
      rmSync(door, { force: true });
      linkSync(path, door);
      try {
        chmodSync(door, 0o666);
        const run = asNobody(door);
        assert.notEqual(run.status, 0);
        assert.equal(run.stdout, '');
        await log.until({ msg: told, uid: NOBODY });
      } finally {
        chmodSync(path, 0o600);
        rmSync(door);
      }
      assert.ok(!existsSync(door));
    });
  }
});
