// SPDX-License-Identifier: Apache-2.0
// Broken manifests on the command line: exit code 1, a message that names file, document, field and remedy, and
// nothing applied, not even what came before the mistake.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type CommandResult, runCommand } from '../../local/command.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { brokenManifests } from './hostile-manifests.ts';

const MESH = fileURLToPath(new URL('../../bin/mesh', import.meta.url));
const NAME = 'e2e-manifests';
const NAMESPACE = 'apiVersion: v1\nkind: Namespace\nmetadata: { name: half-applied }\n';
const POD = `apiVersion: v1
kind: Pod
metadata: { name: there }
spec: { containers: [{ name: main, command: [sleep, infinity] }] }
`;

describe('broken manifests', () => {
  let mesh: LocalMesh;
  let folder: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-manifests-'));
    mesh = await startMesh({ name: NAME, nodes: 1, mesh: false });
    await mesh.apply(POD);
    await mesh.waitReady();
  });
  after(async () => {
    await mesh?.down();
    rmSync(folder, { recursive: true });
  });

  const apply = (...files: readonly string[]): Promise<CommandResult> =>
    runCommand([MESH, 'local', '--name', NAME, 'apply', ...files.flatMap((file) => ['-f', file])]);
  const write = (name: string, text: string): string => {
    const file = join(folder, name);
    writeFileSync(file, text);
    return file;
  };
  const requireRefused = async (run: CommandResult, says: RegExp): Promise<void> => {
    assert.match(run.stderr, says);
    assert.match(run.stderr, /^mesh: /);
    assert.doesNotMatch(run.stderr, /\n\s+at /, 'a stack is no message');
    assert.equal(run.code, 1);
    assert.equal(run.stdout, '');
    await requireUntouched();
  };
  const requireUntouched = async (): Promise<void> => {
    const names = async (kind: 'Namespace' | 'Pod' | 'Service' | 'Deployment') =>
      (await mesh.list(kind)).map(({ metadata }) => metadata.name);
    assert.deepEqual(await names('Namespace'), ['default']);
    assert.deepEqual(await names('Pod'), ['there']);
    assert.deepEqual([...(await names('Service')), ...(await names('Deployment'))], []);
  };

  // None of them changes anything, so that two at once see the same.
  describe('are refused as a whole', { concurrency: 2 }, () => {
    for (const [index, { name, text, says }] of brokenManifests.entries()) {
      it(name, async () => {
        const file = write(`broken-${index}.yaml`, `${NAMESPACE}---\n${text}\n`);
        const run = await apply(file);
        assert.ok(run.stderr.includes(file), `${file} is not named: ${run.stderr}`);
        await requireRefused(run, says);
      });
    }
  });

  it('the mistake may be in another file', async () => {
    const good = write('good.yaml', NAMESPACE);
    const bad = write('bad.yaml', 'kind: Gateway\n');
    await requireRefused(await apply(good, bad), /bad\.yaml, document 1, kind: unknown kind "Gateway"/);
    await requireRefused(await apply(bad, good), /bad\.yaml, document 1, kind: unknown kind "Gateway"/);
    await requireRefused(
      await apply(good, good),
      /document 1: namespace half-applied is there twice, first in /,
    );
  });

  it('a pod that runs cannot become another one', async () => {
    const file = write('change.yaml', `${NAMESPACE}---\n${POD.replace('infinity', 'forever')}`);
    const says =
      /change\.yaml, document 2: pod default\/there: the spec of a pod cannot change; delete the pod first/;
    await requireRefused(await apply(file), says);
  });

  it('a file that cannot be read', async () => {
    const inside = join(folder, 'folder');
    mkdirSync(inside);
    await requireRefused(
      await apply(join(folder, 'gone.yaml')),
      /gone\.yaml does not exist; give the path of a manifest/,
    );
    await requireRefused(await apply(inside), /folder .*EISDIR.*; give the path of a manifest/);
  });

  it('more than anybody writes', async () => {
    const file = write('huge.yaml', `# ${'x'.repeat(17 * 1024 * 1024)}\n`);
    await requireRefused(await apply(file), /more than 16777216 bytes/);
  });

  it('nothing at all is no mistake', async () => {
    for (const text of ['', '---\n---\n', '# a comment\n']) {
      const run = await apply(write('empty.yaml', text));
      assert.equal(run.code, 0, run.stderr);
    }
    await requireUntouched();
  });

  it('a command line that cannot be understood has exit code 2', async () => {
    for (const args of [
      ['apply'],
      ['apply', '-f'],
      ['aply', '-f', 'x.yaml'],
      ['apply', '--fiel', 'x.yaml'],
    ]) {
      const run = await runCommand([MESH, 'local', '--name', NAME, ...args]);
      assert.equal(run.code, 2, `${args.join(' ')}: ${run.stderr}`);
      assert.notEqual(run.stderr, '');
    }
  });

  it('without a mesh of that name, the command says how to start one', async () => {
    const file = write('good.yaml', NAMESPACE);
    const run = await runCommand([MESH, 'local', '--name', 'e2e-no-such', 'apply', '-f', file]);
    assert.equal(run.code, 1);
    assert.match(run.stderr, /no local mesh "e2e-no-such" is running; start one with "mesh local up"/);
  });

  it('after all that the mesh takes what is right', async () => {
    const file = write('right.yaml', `${NAMESPACE}---\n${POD.replace('there', 'right')}`);
    const run = await apply(file);
    assert.equal(run.stdout, 'namespace half-applied created\npod default/right created\n');
    assert.equal(run.code, 0);
  });
});
