// SPDX-License-Identifier: Apache-2.0
// What a container runtime does with sandboxes when something goes wrong, call by call through the real shim to the
// real agent: the same one again, one that failed and another in its place, one with IPv4 alone, one without a uid.
// What counts is what listens inside each of them.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { untilReason } from '../e2e/enrolment-status.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { until } from '../faults/until.ts';

const PREFIX = 'cn-sandbox-';
/** More ranges than the kernel's record of a pod has room for. */
const TOO_MANY_PORTS = Array.from({ length: 40 }, (_, index) => 1000 + 2 * index).join(',');
const SKIP = 'config.linkerd.io/skip-outbound-ports';
const PODS = ['again', 'moved', 'anew', 'given-up', 'four', 'nameless'];

interface Sandbox {
  readonly netns: string;
  readonly addresses: readonly string[];
}

interface Answer {
  readonly code?: number;
  readonly msg?: string;
  readonly details?: string;
}

describe('sandboxes', () => {
  let mesh: LocalMesh;
  const made: string[] = [];

  before(async () => {
    for (const line of execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).split('\n')) {
      const name = line.split(' ')[0] ?? '';
      if (name.startsWith(PREFIX)) execFileSync('ip', ['netns', 'del', name]);
    }
    mesh = await startMesh({
      name: 'cn-sandboxes',
      nodes: 1,
      objects: [namespace('shop', meshed), ...PODS.map((name) => pod('shop', name, []))],
    });
    await mesh.waitReady();
  });
  after(async () => {
    for (const name of made) execFileSync('ip', ['netns', 'del', name]);
    await mesh.down();
  });

  const layout = () => mesh.node('node1').layout;

  /** A namespace with an interface as the plugins before ours leave it. */
  function makeSandbox(netns: string, ...addresses: string[]): Sandbox {
    const name = `${PREFIX}${netns}`;
    const ip = (...argv: string[]): void => void execFileSync('ip', ['-n', name, ...argv]);
    execFileSync('ip', ['netns', 'add', name]);
    made.push(name);
    if (!addresses.some((address) => address.includes(':')))
      execFileSync('ip', ['netns', 'exec', name, 'sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1']);
    ip('link', 'set', 'lo', 'up');
    ip('link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'other');
    for (const link of ['other', 'eth0']) ip('link', 'set', link, 'up');
    for (const address of addresses)
      ip('addr', 'add', address, 'dev', 'eth0', ...(address.includes(':') ? ['nodad'] : []));
    return { netns: name, addresses };
  }

  async function call(
    command: 'ADD' | 'DEL',
    name: string,
    { netns, addresses }: Sandbox,
    change: { readonly uid?: string } = {},
  ): Promise<Answer> {
    const uid = change.uid ?? (await mesh.pod(name, 'shop')).metadata.uid;
    const path = `/run/netns/${netns}`;
    const config = {
      cniVersion: '1.0.0',
      name: 'sandboxes',
      type: 'nodemesh-cni',
      socket: join(layout().runDir, 'cni.sock'),
      enrolledList: join(layout().runDir, 'enrolled'),
      tombstones: join(layout().runDir, 'tombstones'),
      prevResult: {
        cniVersion: '1.0.0',
        interfaces: [{ name: 'eth0', sandbox: path }],
        ips: addresses.map((address) => ({ address, interface: 0 })),
      },
    };
    const { stdout } = await mesh.node('node1').exec([join(layout().cniBinDir, 'nodemesh-cni')], {
      env: {
        CNI_COMMAND: command,
        CNI_CONTAINERID: netns,
        CNI_NETNS: path,
        CNI_IFNAME: 'eth0',
        CNI_PATH: layout().cniBinDir,
        CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=${name};K8S_POD_UID=${uid}`,
      },
      input: JSON.stringify(config),
      timeoutMs: 30_000,
    });
    return stdout === '' ? {} : (JSON.parse(stdout) as Answer);
  }

  async function succeeds(command: 'ADD' | 'DEL', name: string, sandbox: Sandbox): Promise<void> {
    const answer = await call(command, name, sandbox);
    assert.equal(answer.code, undefined, JSON.stringify(answer));
  }

  const listeners = ({ netns }: Sandbox): readonly string[] =>
    execFileSync('ip', ['netns', 'exec', netns, 'ss', '-ltnH'], { encoding: 'utf8' })
      .split('\n')
      .flatMap((line) => line.split(/\s+/)[3] ?? []);

  it('AMB-002, AMB-007 the same one twice, and again after its removal: one set of listeners each time', async () => {
    const sandbox = makeSandbox('again', '192.0.2.2/24', '2001:db8::2/64');
    await succeeds('ADD', 'again', sandbox);
    const first = listeners(sandbox);
    assert.ok(first.length >= 4, first.join(' '));
    await succeeds('ADD', 'again', sandbox);
    assert.deepEqual(listeners(sandbox).toSorted(), first.toSorted());
    for (let round = 0; round < 3; round++) {
      await succeeds('DEL', 'again', sandbox);
      assert.deepEqual(listeners(sandbox), []);
      await succeeds('ADD', 'again', sandbox);
      assert.equal(listeners(sandbox).length, first.length);
    }
    await succeeds('DEL', 'again', sandbox);
    assert.deepEqual(listeners(sandbox), []);
  });

  it('AMB-009, AMB-049 another one for the same pod, before the first is removed: the first ends, the other serves', async () => {
    const first = makeSandbox('moved-1', '192.0.2.8/24', '2001:db8::8/64');
    const second = makeSandbox('moved-2', '192.0.2.9/24', '2001:db8::9/64');
    await succeeds('ADD', 'moved', first);
    const serving = listeners(first).length;
    await succeeds('ADD', 'moved', second);
    assert.deepEqual(listeners(first), []);
    assert.equal(listeners(second).length, serving);
    // The runtime removes the first one late, and more than once.
    for (let time = 0; time < 2; time++) await succeeds('DEL', 'moved', first);
    assert.equal(listeners(second).length, serving);
    await succeeds('DEL', 'moved', second);
    assert.deepEqual(listeners(second), []);
  });

  it('AMB-004 one that could not be enrolled, and another in its place: the later one holds', async () => {
    const failed = makeSandbox('anew-1', '192.0.2.3/24', '2001:db8::3/64');
    const later = makeSandbox('anew-2', '192.0.2.4/24', '2001:db8::4/64');
    await mesh.annotate('Pod', 'shop', 'anew', `${SKIP}=${TOO_MANY_PORTS}`);
    const refused = await until('the new annotation counts', 30_000, async () => {
      const answer = await call('ADD', 'anew', failed);
      if (answer.code !== undefined) return answer;
      await call('DEL', 'anew', failed);
      return undefined;
    });
    assert.equal(refused.code, 11);
    assert.match(JSON.stringify(refused), /MESH_LIMIT|port ranges/);
    assert.deepEqual(listeners(failed), []);
    await untilReason(mesh, 'shop', ['anew'], 'MESH_LIMIT');
    // The runtime comes with another sandbox and has not removed the first, while the reason goes away.
    await mesh.annotate('Pod', 'shop', 'anew', `${SKIP}-`);
    await until('the later one is enrolled', 30_000, async () =>
      (await call('ADD', 'anew', later)).code === undefined ? true : undefined,
    );
    const serving = listeners(later);
    assert.ok(serving.length >= 4);
    await untilReason(mesh, 'shop', ['anew'], 'Enrolled');
    // What is late for the first one does not touch the second.
    await succeeds('DEL', 'anew', failed);
    assert.deepEqual(listeners(failed), []);
    assert.deepEqual(listeners(later).toSorted(), serving.toSorted());
    await succeeds('DEL', 'anew', later);
  });

  it('AMB-005 one that could not be enrolled and is removed: nothing is tried with it again', async () => {
    const sandbox = makeSandbox('given-up', '192.0.2.5/24', '2001:db8::5/64');
    await mesh.annotate('Pod', 'shop', 'given-up', `${SKIP}=${TOO_MANY_PORTS}`);
    await until('it cannot be enrolled', 30_000, async () => {
      const { code } = await call('ADD', 'given-up', sandbox);
      if (code !== undefined) return code;
      await call('DEL', 'given-up', sandbox);
      return undefined;
    });
    await untilReason(mesh, 'shop', ['given-up'], 'MESH_LIMIT');
    await succeeds('DEL', 'given-up', sandbox);
    await mesh.annotate('Pod', 'shop', 'given-up', `${SKIP}-`);
    // Its processes run on in the sandbox that they had before: found there, enrolled there.
    await untilReason(mesh, 'shop', ['given-up'], 'Enrolled');
    assert.deepEqual(listeners(sandbox), []);
  });

  it('AMB-056 one where IPv6 is switched off: enrolled with IPv4 alone', async () => {
    const sandbox = makeSandbox('four', '192.0.2.6/24');
    await succeeds('ADD', 'four', sandbox);
    const found = listeners(sandbox);
    assert.ok(found.length >= 2 && found.every((address) => address.startsWith('127.')), found.join(' '));
    await succeeds('DEL', 'four', sandbox);
    assert.deepEqual(listeners(sandbox), []);
  });

  it('AMB-010 without the uid of its pod: an error that says so, and nothing is done', async () => {
    const sandbox = makeSandbox('nameless', '192.0.2.7/24', '2001:db8::7/64');
    const answer = await call('ADD', 'nameless', sandbox, { uid: '' });
    assert.equal(answer.code, 11);
    assert.match(JSON.stringify(answer), /K8S_POD_UID/);
    assert.deepEqual(listeners(sandbox), []);
    assert.equal((await call('DEL', 'nameless', sandbox, { uid: '' })).code, undefined);
  });
});
