// SPDX-License-Identifier: Apache-2.0
// The CNI project's own runtime library (its program cnitool) drives the whole chain of a node - Debian's bridge and
// host-local, our shim - against the real agent: add, check, gc, status, del, in every version that it speaks.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { goTool } from '../tools/go-tool.ts';
import { containerId, writeNewerBridge } from './cnitool.ts';

const NAME = 'cn-tool';
const VERSIONS = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'];

interface Answer {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface NetworkList {
  readonly plugins: readonly (Readonly<Record<string, unknown>> & { readonly type: string })[];
}

describe('cnitool', () => {
  let mesh: LocalMesh;
  let cnitool: string;
  let dir: string;
  const made: string[] = [];

  before(async () => {
    cnitool = await goTool('cnitool');
    for (const line of execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).split('\n')) {
      if (line.startsWith('cn-tool-')) execFileSync('ip', ['netns', 'del', line.split(' ')[0] ?? '']);
    }
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-cnitool-'));
    for (const folder of ['net.d', 'bin', 'var/cni']) mkdirSync(join(dir, folder), { recursive: true });
    mesh = await startMesh({
      name: NAME,
      nodes: 1,
      objects: [
        namespace('shop', meshed),
        namespace('plain'),
        ...VERSIONS.map((version) => pod('shop', podName(version), [])),
        pod('plain', 'outside', []),
      ],
    });
    await mesh.waitReady();
    writeNewerBridge(join(dir, 'bin'), join(layout().cniBinDir, 'bridge'));
    for (const version of VERSIONS) writeList(version);
  });
  after(async () => {
    for (const name of made) execFileSync('ip', ['netns', 'del', name]);
    await mesh?.down();
    rmSync(dir, { recursive: true });
  });

  const layout = () => mesh.node('node1').layout;
  const podName = (version: string): string => `v${version.replaceAll('.', '-')}`;
  const listName = (version: string): string => `cn-${version}`;

  /** The node's own list, in another version and under another name. */
  function writeList(
    version: string,
    change: Readonly<Record<string, unknown>> = {},
    name = listName(version),
  ): void {
    const path = join(layout().cniConfDir, readdirSync(layout().cniConfDir).sort()[0] ?? '');
    const list = JSON.parse(readFileSync(path, 'utf8')) as NetworkList;
    const plugins = list.plugins.map((plugin) => {
      if (plugin.type === 'nodemesh-cni') return { ...plugin, ...change };
      return plugin.type === 'bridge' && version === '1.1.0' ? { ...plugin, type: 'bridge-1.1' } : plugin;
    });
    writeFileSync(
      join(dir, 'net.d', `${name}.conflist`),
      JSON.stringify({ cniVersion: version, name, plugins }),
    );
  }

  function makeNamespace(name: string): string {
    execFileSync('ip', ['netns', 'add', name]);
    made.push(name);
    // As every runtime does before it calls the chain.
    execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    return `/run/netns/${name}`;
  }

  /** As a container runtime would call it: in the node's network namespace, with a /var/lib of its own. */
  async function tool(verb: string, list: string, netns: string, args = ''): Promise<Answer> {
    const enter = ['nsenter', `--net=/run/netns/${layout().netns}`, 'unshare', '-m', 'sh', '-ec'];
    const script = `mount --bind '${join(dir, 'var')}' /var/lib; exec "$@"`;
    return mesh.node('node1').exec([...enter, script, 'sh', cnitool, verb, list, netns], {
      env: {
        PATH: process.env['PATH'],
        NETCONFPATH: join(dir, 'net.d'),
        CNI_PATH: `${join(dir, 'bin')}:${layout().cniBinDir}`,
        CNI_ARGS: args,
      },
      timeoutMs: 60_000,
    });
  }

  const argumentsOf = async (name: string, ns = 'shop'): Promise<string> => {
    const { metadata } = await mesh.pod(name, ns);
    return `IgnoreUnknown=1;K8S_POD_NAMESPACE=${ns};K8S_POD_NAME=${name};K8S_POD_UID=${metadata.uid}`;
  };

  interface AgentState {
    readonly pods: readonly {
      readonly uid: string;
      readonly phase: string;
      readonly addresses: readonly string[];
    }[];
  }
  async function addressesOf(name: string): Promise<readonly string[] | undefined> {
    const { metadata } = await mesh.pod(name, 'shop');
    const text = execFileSync(
      'curl',
      ['-s', '--unix-socket', join(layout().runDir, 'agent.sock'), 'http://x/state'],
      {
        encoding: 'utf8',
      },
    );
    const { pods } = JSON.parse(text) as AgentState;
    return pods.find(({ uid, phase }) => uid === metadata.uid && phase === 'enrolled')?.addresses;
  }

  for (const version of VERSIONS) {
    it(`adds, checks and deletes a pod of the mesh in ${version}`, async () => {
      const name = podName(version);
      const list = listName(version);
      const netns = makeNamespace(`cn-tool-${name}`);
      const args = await argumentsOf(name);

      const added = await tool('add', list, netns, args);
      assert.equal(added.code, 0, added.stderr);
      const result = JSON.parse(added.stdout) as { cniVersion: string; ips: { address: string }[] };
      assert.equal(result.cniVersion, version);
      const addresses = result.ips.map(({ address }) => address.split('/')[0]);
      assert.equal(addresses.length, 2);
      assert.deepEqual(await addressesOf(name), addresses, 'the agent has the pod in this sandbox');

      const checked = await tool('check', list, netns, args);
      if (version === '0.3.1') {
        assert.match(checked.stderr, /does not support the CHECK/);
      } else {
        assert.equal(checked.code, 0, checked.stderr);
        execFileSync('ip', [
          '-n',
          netns.slice(11),
          'addr',
          'del',
          result.ips[0]?.address ?? '',
          'dev',
          'eth0',
        ]);
        const broken = await tool('check', list, netns, args);
        assert.equal(broken.code, 1);
        execFileSync('ip', [
          '-n',
          netns.slice(11),
          'addr',
          'add',
          result.ips[0]?.address ?? '',
          'dev',
          'eth0',
        ]);
      }

      for (const time of ['first', 'second']) {
        const deleted = await tool('del', list, netns, args);
        assert.equal(deleted.code, 0, `${time}: ${deleted.stderr}`);
        assert.equal(await addressesOf(name), undefined, 'the agent has let the pod go');
      }
      assert.doesNotMatch(execFileSync('ip', ['-n', netns.slice(11), 'addr'], { encoding: 'utf8' }), /eth0/);
    });
  }

  it('lets a pod outside the mesh pass', async () => {
    const netns = makeNamespace('cn-tool-outside');
    const args = await argumentsOf('outside', 'plain');
    for (const verb of ['add', 'check', 'del']) {
      const answer = await tool(verb, listName('1.0.0'), netns, args);
      assert.equal(answer.code, 0, `${verb}: ${answer.stderr}`);
    }
  });

  it('refuses an address that is not in the pod, and takes the interface down again', async () => {
    // A plugin between the two that claims another address than the pod has.
    writeFileSync(
      join(dir, 'bin/cn-liar'),
      `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
ADD) cat >/dev/null; echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.9.9.9/24","interface":0}]}' ;;
*) cat >/dev/null ;;
esac
`,
      { mode: 0o755 },
    );
    const path = join(dir, 'net.d', `${listName('1.0.0')}.conflist`);
    const list = JSON.parse(readFileSync(path, 'utf8')) as NetworkList;
    const [bridge, ours] = list.plugins;
    writeFileSync(
      join(dir, 'net.d/cn-liar.conflist'),
      JSON.stringify({ cniVersion: '1.0.0', name: 'cn-liar', plugins: [bridge, { type: 'cn-liar' }, ours] }),
    );
    const netns = makeNamespace('cn-tool-liar');
    const args = await argumentsOf(podName('1.0.0'));
    const added = await tool('add', 'cn-liar', netns, args);
    assert.equal(added.code, 1);
    assert.match(added.stderr + added.stdout, /does not have the address 10\.9\.9\.9/);
    assert.equal((await tool('del', 'cn-liar', netns, args)).code, 0);
  });

  it('asks for the status, and collects garbage of its own network only', async () => {
    const status = await tool('status', listName('1.1.0'), '/run/netns/none');
    assert.equal(status.code, 0, status.stderr);
    writeList('1.1.0', {}, 'cn-garbage');
    const netns = makeNamespace('cn-tool-garbage');
    const args = await argumentsOf(podName('1.1.0'));
    assert.equal((await tool('add', 'cn-garbage', netns, args)).code, 0);
    const other = makeNamespace('cn-tool-stays');
    assert.equal((await tool('add', listName('1.0.0'), other, await argumentsOf(podName('1.0.0')))).code, 0);

    assert.equal((await tool('gc', 'cn-garbage', netns)).code, 0);
    assert.equal(await addressesOf(podName('1.1.0')), undefined);
    assert.notEqual(await addressesOf(podName('1.0.0')), undefined);

    // What the runtime itself has forgotten: no DEL, only the list of what is still there.
    assert.equal((await tool('add', 'cn-garbage', netns, args)).code, 0);
    assert.equal(await gc('cn-garbage', [{ containerID: containerId(netns), ifname: 'eth0' }]), '');
    assert.notEqual(await addressesOf(podName('1.1.0')), undefined);
    assert.equal(await gc('cn-garbage', []), '');
    assert.equal(await addressesOf(podName('1.1.0')), undefined);
    assert.notEqual(await addressesOf(podName('1.0.0')), undefined);
    for (const [list, path] of [
      ['cn-garbage', netns],
      [listName('1.0.0'), other],
    ] as const) {
      assert.equal((await tool('del', list, path, args)).code, 0);
    }
  });

  async function gc(network: string, valid: readonly object[]): Promise<string> {
    const path = join(dir, 'net.d', `${network}.conflist`);
    const { plugins } = JSON.parse(readFileSync(path, 'utf8')) as NetworkList;
    const config = {
      ...plugins.at(-1),
      cniVersion: '1.1.0',
      name: network,
      'cni.dev/valid-attachments': valid,
    };
    const { stdout } = await mesh.node('node1').exec([join(layout().cniBinDir, 'nodemesh-cni')], {
      env: { CNI_COMMAND: 'GC', CNI_PATH: layout().cniBinDir },
      input: JSON.stringify(config),
      timeoutMs: 30_000,
    });
    return stdout;
  }

  it('without an agent: no pod of the mesh starts, status says 50, removals are noted and taken up', async () => {
    const name = podName('0.4.0');
    const netns = makeNamespace('cn-tool-away');
    const args = await argumentsOf(name);
    assert.equal((await tool('add', listName('0.4.0'), netns, args)).code, 0);
    await mesh.node('node1').stopAgent();
    const folder = join(layout().runDir, 'tombstones');

    const status = await tool('status', listName('1.1.0'), netns);
    assert.equal(status.code, 1);
    assert.match(status.stderr, /cannot be reached/);
    assert.equal((await tool('del', listName('0.4.0'), netns, args)).code, 0);
    assert.deepEqual(readdirSync(folder), [containerId(netns)]);

    const held = await tool('add', listName('0.4.0'), netns, args);
    assert.equal(held.code, 1);
    assert.match(held.stderr, /a pod of the mesh does not start without it/);
    assert.equal((await tool('del', listName('0.4.0'), netns, args)).code, 0);
    const outside = makeNamespace('cn-tool-unlisted');
    const free = await argumentsOf('outside', 'plain');
    assert.equal((await tool('add', listName('1.0.0'), outside, free)).code, 0);
    assert.equal((await tool('del', listName('1.0.0'), outside, free)).code, 0);

    await mesh.node('node1').startAgent();
    const deadline = Date.now() + 40_000;
    while (existsSync(folder) && readdirSync(folder).length > 0) {
      assert.ok(Date.now() < deadline, 'tombstones stay');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.equal(await addressesOf(name), undefined);
    assert.equal((await tool('add', listName('0.4.0'), netns, args)).code, 0);
    assert.notEqual(await addressesOf(name), undefined);
    assert.equal((await tool('del', listName('0.4.0'), netns, args)).code, 0);
  });
});
