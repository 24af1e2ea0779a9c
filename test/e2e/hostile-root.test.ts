// SPDX-License-Identifier: Apache-2.0
// A pod whose processes are root with a container's usual capabilities sees nothing of the mesh that runs beside it:
// neither its folders, keys, tokens and sockets nor its processes and eBPF objects.

import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { errnoName } from '#lib/core/errors.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { attemptFrom } from './hostile-helpers.ts';
import { meshed, namespace, pod, serviceAccount } from './objects.ts';

/** Numbers of capabilities that would be a way out (capabilities(7)). */
const MIGHTY = {
  DAC_READ_SEARCH: 2,
  NET_ADMIN: 12,
  SYS_MODULE: 16,
  SYS_RAWIO: 17,
  SYS_PTRACE: 19,
  SYS_ADMIN: 21,
  PERFMON: 38,
  BPF: 39,
};
const OWN_TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount/token';

/** Undefined for a descriptor that is closed by now. */
function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return undefined;
    throw error;
  }
}

describe('a pod that is root', () => {
  let mesh: LocalMesh;

  before(async () => {
    mesh = await startMesh({
      name: 'e2e-root',
      nodes: 1,
      objects: [
        namespace('mesh', meshed),
        serviceAccount('mesh', 'rooted'),
        pod('mesh', 'rooted', [], { account: 'rooted', securityContext: { runAsUser: 0 } }),
        pod('mesh', 'other', []),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const shell = async (script: string) => mesh.exec('rooted', ['sh', '-c', script], { ns: 'mesh' });

  it('is root, with what containers have by default and no more', async () => {
    const { stdout } = await shell('id -u; grep CapEff /proc/self/status');
    assert.match(stdout, /^0\n/);
    const capabilities = BigInt(`0x${/CapEff:\s*([0-9a-f]+)/.exec(stdout)?.[1]}`);
    assert.notEqual(capabilities & (1n << 1n), 0n, 'DAC_OVERRIDE: files do not say no to it');
    for (const [name, number] of Object.entries(MIGHTY)) {
      assert.equal(capabilities & (1n << BigInt(number)), 0n, name);
    }
  });

  const hidden = (): readonly string[] => {
    const { layout } = mesh;
    const [node] = layout.nodes;
    return [
      layout.dir,
      layout.registryDir,
      layout.keysDir,
      join(layout.keysDir, 'issuer.key'),
      layout.tokensDir,
      layout.logDir,
      layout.socketPath,
      ...(node === undefined
        ? []
        : [
            node.dir,
            node.bpffs,
            node.runDir,
            node.podsDir,
            join(node.runDir, 'agent.sock'),
            join(node.runDir, 'cni.sock'),
          ]),
      '/run/netns',
      '/sys/fs/bpf/nodemesh',
      '/sys/fs/cgroup/nodemesh-local',
      '/sys/fs/cgroup/unified',
    ];
  };
  /** Paths that exist for a shell in the pod, entered by `enter`. */
  const seen = async (paths: readonly string[], enter = 'sh -c'): Promise<string> =>
    (await shell(`${enter} 'for path in ${paths.join(' ')}; do [ ! -e "$path" ] || echo "$path"; done'`))
      .stdout;

  it('finds none of the folders, keys and sockets', async () => {
    assert.notEqual(await seen(['/etc/passwd']), '', 'it can look');
    assert.equal(await seen(hidden()), '');
    assert.equal(await seen(hidden().map((path) => `/proc/1/root${path}`)), '');
    assert.equal((await shell('ls -A /sys/fs/bpf 2>/dev/null; ls -A /sys/fs/cgroup 2>/dev/null')).stdout, '');
  });

  it('finds them as little after it has tried to take the covers away', async () => {
    const tries = [
      'umount /run',
      'umount -l /run',
      'umount /sys',
      'mount --move /run /mnt',
      'mount -t bpf bpf /mnt',
      'mount -t tmpfs tmpfs /mnt',
      'mount -t cgroup2 none /mnt',
      'nsenter --mount=/proc/1/ns/mnt --target 1 umount /run',
      'unshare --mount true',
      'chroot /proc/1/root umount /run',
    ];
    for (const command of tries) {
      const run = await shell(command);
      assert.notEqual(run.code, 0, command);
    }
    assert.equal(await seen(hidden()), '');
    // A user namespace of its own, where the kernel allows one, gives power over nothing that was there before.
    await shell('unshare --user --map-root-user --mount sh -c "umount -l /run; umount -l /sys"');
    assert.equal(await seen(hidden(), 'unshare --user --map-root-user --mount sh -c'), '');
  });

  it('cannot speak with the sockets by their paths', async () => {
    const [node] = mesh.layout.nodes;
    const paths = [
      mesh.layout.socketPath,
      ...['agent.sock', 'cni.sock'].map((name) => join(node?.runDir ?? '', name)),
    ];
    const outcomes = await attemptFrom(
      (argv, options) => mesh.exec('rooted', argv, { ns: 'mesh', ...options }),
      paths.map((to) => ({ to, send: [Buffer.from('GET /state HTTP/1.1\r\n\r\n').toString('base64')] })),
    );
    for (const { ended, error } of outcomes) {
      assert.equal(ended, 'refused');
      assert.match(error, /ENOENT/);
    }
    assert.doesNotMatch((await shell('cat /proc/net/unix')).stdout, /nodemesh/);
  });

  it('sees no process but its own, and nothing of the mesh in them', async () => {
    const { stdout: processes } = await shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert.match(processes, /sleep infinity/);
    assert.doesNotMatch(processes, /main\.ts|dnsmasq|mesh local/);
    // What this process has was inherited by all that it has started, and is nothing of the mesh.
    const ours = readdirSync('/proc/self/fd').map((fd) => linkOf(`/proc/self/fd/${fd}`));
    const { stdout: descriptors } = await shell(
      'cd /proc/1/fd; for fd in *; do echo $fd $(readlink $fd); done',
    );
    for (const line of descriptors.trim().split('\n')) {
      const [fd = '', target = ''] = line.split(' ');
      if (!ours.includes(target)) assert.match(fd, /^[012]$/, `${target} is open`);
    }
    const { stdout: environment } = await shell("tr '\\0' '\\n' </proc/1/environ");
    assert.doesNotMatch(environment, /NODEMESH|TOKEN|KEY/);
  });

  it('cannot use or see eBPF', async () => {
    for (const what of ['map', 'prog', 'link', 'cgroup']) {
      const command = what === 'cgroup' ? 'bpftool cgroup tree' : `bpftool ${what} show`;
      const run = await shell(`PATH=$PATH:/usr/sbin ${command}`);
      assert.doesNotMatch(run.stdout, /nodemesh|connect4|sk_lookup|sockops|sock_ops|name /, command);
    }
    const create = await shell(
      'PATH=$PATH:/usr/sbin bpftool map create /mnt/x type array key 4 value 4 entries 1 name x',
    );
    assert.notEqual(create.code, 0);
  });

  it('has a token of its own account, which is none of the agents', async () => {
    const { stdout } = await shell(`cat ${OWN_TOKEN}`);
    const claims = JSON.parse(Buffer.from(stdout.split('.')[1] ?? '', 'base64url').toString()) as {
      sub: string;
      aud: readonly string[];
    };
    assert.equal(claims.sub, 'system:serviceaccount:mesh:rooted');
    for (const audience of claims.aud) assert.doesNotMatch(audience, /nodemesh\.io/);
    const { stdout: others } = await shell('find /run -name "*token*" -type f 2>/dev/null | sort -u');
    for (const path of others.trim().split('\n'))
      assert.match(path, /^\/(var\/)?run\/secrets\/kubernetes\.io\//);
  });

  it('leaves everything as it was', async () => {
    const { programs } = await mesh.status();
    assert.deepEqual(
      programs.map(({ starts }) => starts),
      programs.map(() => 1),
    );
    assert.equal((await mesh.exec('other', ['true'], { ns: 'mesh' })).code, 0);
  });
});
