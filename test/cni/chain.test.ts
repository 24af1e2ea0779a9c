// SPDX-License-Identifier: Apache-2.0
// The whole chain as a container runtime runs it: Debian's bridge and host-local, then our installed shim, on a
// node of its own network namespace, with a real socket and a fake node behind it.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog } from '#lib/core/log.ts';
import { installCni, uninstallCni } from '#lib/cni-install/install.ts';
import { type CniServer, serveCni } from '../../cni-plugin/logic/server.ts';
import { fakeNode, listOf } from './fake-node.ts';
import { type CniHost, cniAdd, cniAddresses, cniDel, readConflist } from '../../local/cni-chain.ts';

const root = join(import.meta.dirname, '../..');
const run = (...argv: string[]): string => execFileSync(argv[0] ?? '', argv.slice(1), { encoding: 'utf8' });

describe('the CNI chain', () => {
  const names = { node: `nm-cnitest-node-${process.pid}`, pod: `nm-cnitest-pod-${process.pid}` };
  let dir: string;
  let server: CniServer | undefined;
  let host: CniHost;
  const fake = fakeNode();
  const { added, removed } = fake;
  const call = {
    containerId: 'sandbox-1',
    netnsPath: `/run/netns/${names.pod}`,
    ifname: 'eth0',
    args: { IgnoreUnknown: '1', K8S_POD_NAMESPACE: 'shop', K8S_POD_NAME: 'web', K8S_POD_UID: 'uid-1' },
  };

  const serve = () =>
    serveCni(join(dir, 'run/cni.sock'), fake.node, silentLog, { tombstones: join(dir, 'run/tombstones') });

  before(async () => {
    // What a killed run left.
    for (const line of run('ip', 'netns', 'list').split('\n')) {
      const name = line.split(' ')[0] ?? '';
      if (name.startsWith('nm-cnitest-')) run('ip', 'netns', 'del', name);
    }
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-chain-'));
    run('make', '-s', '-C', join(root, 'cni-plugin/shim'), `OUT=${dir}`);
    for (const name of Object.values(names)) run('ip', 'netns', 'add', name);
    mkdirSync(join(dir, 'net.d'));
    cpSync('/usr/lib/cni', join(dir, 'bin'), { recursive: true });
    writeFileSync(
      join(dir, 'net.d/10-bridge.conflist'),
      JSON.stringify({
        cniVersion: '1.0.0',
        name: 'pods',
        plugins: [
          {
            type: 'bridge',
            bridge: 'cni0',
            isGateway: true,
            ipam: {
              type: 'host-local',
              dataDir: join(dir, 'ipam'),
              ranges: [[{ subnet: '10.77.0.0/24' }], [{ subnet: 'fd00:77::/64' }]],
            },
          },
        ],
      }),
    );
    installCni({
      confDir: join(dir, 'net.d'),
      binDir: join(dir, 'bin'),
      shim: join(dir, 'nodemesh-cni'),
      entry: {
        type: 'nodemesh-cni',
        socket: join(dir, 'run/cni.sock'),
        enrolledList: join(dir, 'run/enrolled'),
        tombstones: join(dir, 'run/tombstones'),
        namespace: 'nodemesh',
        excludeNamespaces: [],
        deadlineMs: 20_000,
      },
    });
    host = {
      binDir: join(dir, 'bin'),
      wrap: (argv) => ['ip', 'netns', 'exec', names.node, ...argv],
      timeoutMs: 30_000,
    };
    server = await serve();
  });
  after(async () => {
    await server?.close();
    for (const name of Object.values(names)) run('ip', 'netns', 'del', name);
    rmSync(dir, { recursive: true });
  });

  const network = async () => {
    const first = readdirSync(join(dir, 'net.d')).sort()[0] ?? '';
    assert.equal(first, '00-nodemesh.conflist');
    return readConflist(join(dir, 'net.d', first));
  };
  /** For calls that nobody answers as they wish. */
  const hasty = async () => {
    const list = await network();
    const plugins = list.plugins.map((plugin) =>
      plugin['type'] === 'nodemesh-cni' ? { ...plugin, deadlineMs: 1000 } : plugin,
    );
    return { ...list, plugins };
  };
  const interfaces = () => run('ip', '-n', names.pod, '-br', 'addr');

  it('makes the interface, then meshes the pod, and hands both addresses on', async () => {
    const result = await cniAdd(host, await network(), call);
    assert.deepEqual(added.at(-1)?.addresses, cniAddresses(result));
    assert.equal(cniAddresses(result).length, 2);
    assert.equal(added.at(-1)?.netnsPath, call.netnsPath);
    assert.match(interfaces(), /eth0.*10\.77\.0\./);
    await cniDel(host, await network(), call, result);
    assert.deepEqual(removed, ['sandbox-1 uid-1']);
    assert.doesNotMatch(interfaces(), /eth0/);
    // A runtime that is not sure asks again, and after the namespace is gone.
    await cniDel(host, await network(), { ...call, netnsPath: '' }, undefined);
    assert.equal(removed.length, 2);
  });

  it('fails the pod with "try again" and takes the interface down', async () => {
    fake.outcome = { outcome: 'try-again', reason: 'no certificate yet' };
    await assert.rejects(cniAdd(host, await hasty(), call), (error: Error) => {
      assert.match(error.message, /nodemesh-cni, ADD: nodemesh: no certificate yet.*code 11/);
      return true;
    });
    fake.outcome = { outcome: 'enrolled' };
    await cniDel(host, await network(), call, undefined);
    assert.doesNotMatch(interfaces(), /eth0/);
  });

  it('starts pods outside the mesh, holds back those of the mesh and notes removals without an agent', async () => {
    await server?.close();
    server = undefined;
    const count = added.length;
    const result = await cniAdd(host, await hasty(), call);
    assert.equal(added.length, count);
    await cniDel(host, await hasty(), call, result);
    assert.deepEqual(readdirSync(join(dir, 'run/tombstones')), ['sandbox-1']);
    writeFileSync(join(dir, 'run/enrolled'), listOf('ns shop'));
    await assert.rejects(cniAdd(host, await hasty(), call), /code 11/);
    await cniDel(host, await hasty(), call, undefined);

    const before = removed.length;
    server = await serve();
    while (removed.length === before) await new Promise(setImmediate);
    assert.equal(removed.at(-1), 'sandbox-1 uid-1');
  });

  it("leaves the cluster's own chain working when it is removed", async () => {
    uninstallCni({ confDir: join(dir, 'net.d'), binDir: join(dir, 'bin') });
    assert.deepEqual(readdirSync(join(dir, 'net.d')), ['10-bridge.conflist']);
    const own = await readConflist(join(dir, 'net.d/10-bridge.conflist'));
    const result = await cniAdd(host, own, call);
    await cniDel(host, own, call, result);
  });
});
