// SPDX-License-Identifier: Apache-2.0
// What stays while the agent is away, what a new one takes over, what an uninstall leaves, and what stands in the way.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, rmdirSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { LAYOUT } from '#lib/bpf/abi.ts';
import { MeshError } from '#lib/core/errors.ts';
import { objectsDir, shell, TestNode, type TestPod, until } from './harness.ts';

describe('restart', () => {
  let node: TestNode;
  let pod: TestPod;
  before(() => {
    node = new TestNode('re');
    pod = node.pod('a');
    pod.enrol();
  });
  after(() => node.close());

  /** Ids of those that are pinned for this node. */
  const links = (): number[] => {
    const all = JSON.parse(shell('bpftool', '-j', '-f', 'link')) as {
      readonly id: number;
      readonly pinned?: readonly string[];
    }[];
    return all
      .filter(({ pinned = [] }) => pinned.some((path) => path.startsWith(`${node.bpffs}/`)))
      .map(({ id }) => id)
      .sort((left, right) => left - right);
  };

  it('keeps pods redirected while the agent is away, and refuses rather than letting connections pass', async () => {
    const app = pod.app();
    node.redirection.close();
    await pod.stopListening();
    pod.redirected = undefined;
    const fd = await app.call('socket 4');
    assert.equal(await app.call(`connect ${fd} 10.77.0.1 80`), 'ECONNREFUSED');
    await app.close();
  });

  it('takes the pinned links over in place, with the listening ports, and serves again', async () => {
    const server = pod.app();
    const listener = await server.call('socket 4');
    await server.call(`bind ${listener} 0.0.0.0 8080`);
    await server.call(`listen ${listener}`);
    const before = links();
    assert.ok(before.length > 0);
    node.restart();
    assert.deepEqual(links(), before);
    pod.enrol();
    assert.deepEqual(links(), before);
    const app = pod.app();
    const fd = await app.call('socket 6');
    assert.equal(await app.call(`connect ${fd} fd99::1 80`), '0');
    assert.deepEqual((await pod.next()).record, { kind: 'outbound', ip: 'fd99::1', port: 80, podIndex: 1 });
    const client = node.outsider();
    const to = await client.call('socket 4');
    assert.equal(await client.call(`connect ${to} ${pod.ip4} 8080`), '0');
    await pod.next();
    await server.close();
    const again = await client.call('socket 4');
    assert.equal(await client.call(`connect ${again} ${pod.ip4} 8080`), 'ECONNREFUSED');
    await app.close();
  });

  it('hangs itself anew where the cgroup is another one', () => {
    const other = join(node.nodeCgroup, 'other');
    mkdirSync(other);
    try {
      pod.redirected?.release();
      node.redirection.close();
      node.restart({ podsCgroup: other });
      assert.match(shell('bpftool', 'cgroup', 'show', other), /nm_connect4/);
      assert.doesNotMatch(shell('bpftool', 'cgroup', 'show', node.podsCgroup), /nm_connect4/);
    } finally {
      node.redirection.close();
      node.restart();
      rmdirSync(other);
    }
    assert.match(shell('bpftool', 'cgroup', 'show', node.podsCgroup), /nm_connect4/);
    pod.enrol();
  });

  it('sweeps pods that nobody has prepared again', async () => {
    const lost = node.pod('lost');
    lost.enrol();
    const cookie = String(lost.redirected?.cookie);
    const folder = join(node.bpffs, 'nodemesh', String(LAYOUT), 'pods');
    assert.ok(readdirSync(folder).includes(cookie));
    lost.redirected?.release();
    pod.redirected?.release();
    node.redirection.close();
    await lost.stopListening();
    lost.redirected = undefined;
    node.restart();
    pod.redirected = node.redirection.preparePod(pod.description);
    assert.equal(node.redirection.sweep('dead'), 0);
    assert.equal(node.redirection.sweep('all'), 1);
    assert.deepEqual(readdirSync(folder), [String(pod.redirected.cookie)]);
    const app = lost.app();
    const fd = await app.call('socket 4');
    assert.equal(await app.call(`connect ${fd} 10.77.0.1 80`), 'ECONNREFUSED', 'from the hub itself');
    assert.equal(lost.accepted.length, 0);
    await app.close();
  });

  it('closes a pod whose namespace has gone', async () => {
    const dead = node.pod('dead');
    /** Not armed: an armed one is watched, which would hold the namespace. */
    dead.redirected = node.redirection.preparePod(dead.description);
    dead.listen();
    await dead.vanish();
    const pin = join(node.bpffs, 'nodemesh', String(LAYOUT), 'pods', String(dead.redirected?.cookie), 'link');
    const link = node.loader.openLink(pin);
    await until(() => link?.target() === 0n, 'the namespace is gone');
    link?.close();
    dead.redirected?.close();
    dead.redirected = undefined;
    assert.equal(existsSync(pin), false);
  });

  it('leaves nothing of a pod that is taken out', async () => {
    const gone = node.pod('gone');
    gone.enrol();
    const server = gone.app();
    const fd = await server.call('socket 4');
    await server.call(`bind ${fd} 0.0.0.0 8080`);
    await server.call(`listen ${fd}`);
    const entries = node.listenEntries();
    const before = links().length;
    gone.redirected?.close();
    gone.redirected = undefined;
    assert.equal(node.listenEntries(), entries - 1);
    assert.equal(links().length, before - 1);
    const client = node.outsider();
    const to = await client.call('socket 4');
    assert.equal(await client.call(`connect ${to} ${gone.ip4} 8080`), '0');
    assert.match(await server.call(`accept ${fd}`), / 10\.77\.0\.1 /, 'straight to the application');
    assert.equal(gone.accepted.length, 0);
  });

  it('refuses to prepare one namespace twice', () => {
    assert.throws(
      () => node.redirection.preparePod(pod.description),
      (error) => error instanceof MeshError && error.code === 'MESH_ALREADY_EXISTS',
    );
  });

  it('removes the redirection of another layout when pods are swept, not before', () => {
    const old = join(node.bpffs, 'nodemesh', '0');
    mkdirSync(join(old, 'links'), { recursive: true });
    pod.redirected?.release();
    node.redirection.close();
    shell('bpftool', 'prog', 'load', join(objectsDir, 'sockops.bpf.o'), join(old, 'program'));
    node.restart();
    pod.redirected = node.redirection.preparePod(pod.description);
    assert.equal(existsSync(old), true);
    node.redirection.sweep('all');
    assert.equal(existsSync(old), false);
  });
});

describe('what stands in the way', () => {
  let node: TestNode;
  before(() => {
    node = new TestNode('way');
    node.redirection.uninstall();
  });
  after(async () => {
    node.restart();
    await node.close();
  });

  it('leaves no pin, link or program after an uninstall', () => {
    assert.equal(existsSync(join(node.bpffs, 'nodemesh')), false);
    assert.doesNotMatch(shell('bpftool', 'cgroup', 'tree', node.nodeCgroup), /nm_/);
  });

  it('names a pinned map of another shape', () => {
    const maps = join(node.bpffs, 'nodemesh', String(LAYOUT), 'maps');
    mkdirSync(maps, { recursive: true });
    const pin = join(maps, 'nm_pods');
    shell(
      'bpftool',
      'map',
      'create',
      pin,
      'type',
      'hash',
      'key',
      '8',
      'value',
      '4',
      'entries',
      '16',
      'name',
      'nm_pods',
    );
    assert.throws(
      () => node.restart(),
      (error) => error instanceof MeshError && error.code === 'MESH_BPF_LOAD' && error.message.includes(pin),
    );
    unlinkSync(pin);
  });

  it('names a foreign program that excludes others, wherever above it hangs', () => {
    const pin = join(node.bpffs, 'foreign');
    const source = join(objectsDir, 'foreign.bpf.c');
    const object = join(objectsDir, 'foreign.bpf.o');
    writeFileSync(
      source,
      '__attribute__((section("cgroup/connect4"), used)) int foreign_hook(void *ctx) { return 1; }\nchar _license[] __attribute__((section("license"), used)) = "GPL";\n',
    );
    shell('clang', '-target', 'bpf', '-g', '-O2', '-c', source, '-o', object);
    shell('bpftool', 'prog', 'load', object, pin);
    shell('bpftool', 'cgroup', 'attach', node.nodeCgroup, 'connect4', 'pinned', pin);
    try {
      assert.throws(
        () => node.restart(),
        (error) =>
          error instanceof MeshError &&
          error.code === 'MESH_BPF_ATTACH' &&
          error.message.includes('"foreign_hook"') &&
          error.message.includes(node.nodeCgroup),
      );
    } finally {
      shell('bpftool', 'cgroup', 'detach', node.nodeCgroup, 'connect4', 'pinned', pin);
      for (const path of [pin, source, object]) unlinkSync(path);
    }
  });

  it("puts the verifier's log into the error", () => {
    const source = join(objectsDir, 'refused.bpf.c');
    const object = join(objectsDir, 'refused.bpf.o');
    writeFileSync(
      source,
      '__attribute__((section("sk_lookup"), used)) int refused(long *ctx) { return *(int *)ctx[0]; }\nchar _license[] __attribute__((section("license"), used)) = "GPL";\n',
    );
    shell('clang', '-target', 'bpf', '-g', '-O2', '-c', source, '-o', object);
    try {
      assert.throws(
        () => node.loader.load(object, { pins: new Map() }),
        (error) =>
          error instanceof MeshError &&
          error.code === 'MESH_BPF_LOAD' &&
          error.message.includes(object) &&
          /processed \d+ insns/.test(error.message),
      );
    } finally {
      for (const path of [source, object]) unlinkSync(path);
    }
  });

  it('says what is missing: objects, a bpffs, a cgroup', () => {
    for (const [options, code] of [
      [{ objectsDir: '/nonexistent' }, 'MESH_BPF_LOAD'],
      [{ bpffs: '/tmp' }, 'MESH_HOST_UNFIT'],
      [{ podsCgroup: '/tmp' }, 'MESH_HOST_UNFIT'],
      [{ slots: 17 }, 'MESH_CONFIG_INVALID'],
    ] as const)
      assert.throws(
        () => node.restart(options),
        (error) => error instanceof MeshError && error.code === code,
      );
  });
});
