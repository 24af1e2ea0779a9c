// SPDX-License-Identifier: Apache-2.0
// Coming up and going away: nothing stays behind, also after kill -9; names, detaching and the command line.

import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, test } from 'node:test';
import { takeDown } from '../../local/api-client.ts';
import { leftovers, nothingLeft, startMesh } from '../../local/harness.ts';

const MESH = join(import.meta.dirname, '..', '..', 'bin', 'mesh');
const NAME = 'test-life';
const OTHER = 'test-life-2';

const sleeper = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'sleeper' },
  spec: { containers: [{ name: 'main', command: ['sleep', '1000'] }], terminationGracePeriodSeconds: 0 },
};

const mesh = (...args: readonly string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(MESH, args, { encoding: 'utf8', timeout: 120_000 });

const assertNothingLeft = async (name: string): Promise<void> => {
  const left = await leftovers(name);
  assert.ok(nothingLeft(left), JSON.stringify(left));
};

describe('life of a local mesh', () => {
  afterEach(async () => {
    for (const name of [NAME, OTHER]) await takeDown(name);
  });

  test('down removes everything, and the machine has the links and mounts it had', async () => {
    const look = (): string =>
      execFileSync(
        'sh',
        [
          '-c',
          'ip -o link | cut -d: -f2 | sort; grep -v -e netns -e nodemesh-local /proc/self/mounts | sort',
        ],
        {
          encoding: 'utf8',
        },
      );
    const before = look();
    const running = await startMesh({ name: NAME, mesh: false, objects: [sleeper] });
    assert.equal(nothingLeft(await leftovers(NAME)), false);
    await running.down();
    await assertNothingLeft(NAME);
    assert.equal(look(), before);
  });

  test('after kill -9 of the daemon, down removes everything', async () => {
    const running = await startMesh({ name: NAME, mesh: false, objects: [sleeper] });
    const gone = once(running.process, 'exit');
    running.process.kill('SIGKILL');
    await gone;
    const left = await leftovers(NAME);
    assert.equal(left.daemon, false);
    assert.ok(left.netns.length > 0 && left.processes.length > 0 && left.mounts.length > 0);
    assert.equal(mesh('local', 'down', '--name', NAME).status, 0);
    await assertNothingLeft(NAME);
  });

  test('after kill -9 of the daemon, up begins anew', async () => {
    const killed = await startMesh({ name: NAME, mesh: false, objects: [sleeper] });
    const gone = once(killed.process, 'exit');
    killed.process.kill('SIGKILL');
    await gone;
    const again = await startMesh({ name: NAME, mesh: false });
    assert.deepEqual(await again.pods('default'), []);
    await again.down();
    await assertNothingLeft(NAME);
  });

  test('two meshes run side by side, a second of the same name is refused, and down takes only its own', async () => {
    const [one, two] = await Promise.all([
      startMesh({ name: NAME, nodes: 1, mesh: false, objects: [sleeper] }),
      startMesh({ name: OTHER, nodes: 1, mesh: false, objects: [sleeper] }),
    ]);
    await assert.rejects(startMesh({ name: NAME, nodes: 1, mesh: false }), /is running.*mesh local down/);
    await one.down();
    await assertNothingLeft(NAME);
    assert.equal((await two.exec('sleeper', ['hostname'])).stdout, 'sleeper\n');
    await two.down();
    await assertNothingLeft(OTHER);
  });

  test('up in the foreground removes everything on Ctrl-C and ends with success', async () => {
    const up = spawn(MESH, ['local', 'up', '--name', NAME, '--nodes', '1', '--no-mesh'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = once(up, 'exit');
    for await (const chunk of up.stdout) if (String(chunk).includes('is up')) up.kill('SIGINT');
    assert.deepEqual(await ended, [0, null]);
    await assertNothingLeft(NAME);
  });

  test('what cannot be run is refused before anything is made', async () => {
    const missing = mesh('local', 'up', '--name', NAME, '-f', '/nowhere.yaml', '--no-mesh');
    assert.deepEqual(
      [missing.status, missing.stderr],
      [1, 'mesh: /nowhere.yaml does not exist; give the path of a manifest\n'],
    );
    assert.match(mesh('local', 'up', '--name', 'A/B').stderr, /cannot be the name of a local mesh; use/);
    assert.match(mesh('local', 'up', '--name', NAME, '--nodes', '0', '--no-mesh').stderr, /choose 1 to 50/);
    await assertNothingLeft(NAME);
  });

  test('the command line: up, apply, get, annotate, exec, logs, delete, down', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'mesh-cli-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const file = join(folder, 'pod.yaml');
    writeFileSync(file, JSON.stringify(sleeper));
    const local = (command: string, ...args: readonly string[]) =>
      mesh('local', command, '--name', NAME, ...args);
    const succeed = (command: string, ...args: readonly string[]): string => {
      const result = local(command, ...args);
      assert.equal(result.status, 0, result.stderr);
      return result.stdout;
    };
    assert.match(succeed('up', '--nodes', '1', '--no-mesh', '--detach'), /is up/);
    assert.match(succeed('apply', '-f', file), /pod default\/sleeper created/);
    assert.match(succeed('apply', '-f', file), /unchanged/);
    const piped = spawnSync(MESH, ['local', 'apply', '--name', NAME, '-f', '-'], {
      input: JSON.stringify(sleeper),
      encoding: 'utf8',
    });
    assert.match(piped.stdout, /unchanged/, piped.stderr);
    succeed('annotate', 'pod', 'sleeper', 'a=b');
    const listed = JSON.parse(succeed('get', 'pods', '-o', 'json')) as {
      items: { metadata: { annotations: object } }[];
    };
    assert.deepEqual(listed.items[0]?.metadata.annotations, { a: 'b' });
    assert.match(succeed('get', 'nodes'), /^node1 +Ready/m);
    for (;;) if (/Running/.test(succeed('get', 'pods'))) break;
    const ran = local('exec', 'sleeper', '--', 'sh', '-c', 'echo out; exit 5');
    assert.deepEqual([ran.status, ran.stdout], [5, 'out\n']);
    assert.equal(succeed('logs', 'sleeper'), '');
    assert.equal(local('logs', 'nobody').status, 1);
    assert.equal(local('frob').status, 2);
    assert.equal(local('get', 'pods', '--frob').status, 2);
    assert.match(succeed('delete', '-f', file), /pod default\/sleeper deleted/);
    assert.equal(local('delete', 'pod', 'sleeper').status, 1);
    assert.match(succeed('down'), /removed/);
    assert.match(succeed('down'), /there is no local mesh/);
    const refused = local('get', 'pods');
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /mesh local up/);
    await assertNothingLeft(NAME);
  });
});
