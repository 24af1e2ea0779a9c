// SPDX-License-Identifier: Apache-2.0
// The installer as its DaemonSet runs it: a process that watches a node's folders, beside other programs that write
// there, beside a second installer, on folders that cannot be written.

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, it } from 'node:test';

const installer = join(import.meta.dirname, '../../daemonset/install.ts');
const OWN = '00-nodemesh.conflist';
const list = (name: string): string =>
  JSON.stringify({ cniVersion: '1.0.0', name, plugins: [{ type: 'bridge', 'x-unknown': [1] }] });

describe('the CNI installer', () => {
  let dir: string;
  let confDir: string;
  let binDir: string;
  let running: ChildProcess[];
  let mounts: string[];
  const env = () => ({
    ...process.env,
    NODEMESH_CNI_CONF_DIR: confDir,
    NODEMESH_CNI_BIN_DIR: binDir,
    NODEMESH_CNI_SHIM: join(dir, 'shim'),
  });
  const run = (verb: string) =>
    spawnSync(process.execPath, [installer, verb], { env: env(), encoding: 'utf8' });
  const watch = (stdout: 'ignore' | 'pipe' = 'ignore'): ChildProcess => {
    const stdio = ['ignore', stdout, 'ignore'] as const;
    const child = spawn(process.execPath, [installer, 'watch'], { env: env(), stdio: [...stdio] });
    running.push(child);
    return child;
  };
  const until = async (what: string, condition: () => boolean): Promise<void> => {
    const deadline = Date.now() + 30_000;
    while (!condition()) {
      assert.ok(Date.now() < deadline, `not within 30 s: ${what}`);
      await sleep(5);
    }
  };
  const text = (path: string): string => (existsSync(path) ? readFileSync(path, 'utf8') : '');
  const readOnly = (folder: string): void => {
    execFileSync('mount', ['--bind', '-o', 'ro', folder, folder]);
    mounts.push(folder);
  };

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-installer-'));
    [confDir, binDir] = [join(dir, 'net.d'), join(dir, 'bin')];
    mkdirSync(confDir);
    mkdirSync(binDir);
    writeFileSync(join(dir, 'shim'), 'binary');
    writeFileSync(join(confDir, '10-main.conflist'), list('main'), { mode: 0o600 });
    writeFileSync(join(binDir, 'bridge'), 'theirs');
    [running, mounts] = [[], []];
  });
  afterEach(async () => {
    for (const child of running) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'close');
    }
    for (const folder of mounts) execFileSync('umount', [folder]);
    rmSync(dir, { recursive: true });
  });

  it('repairs within moments what another program does, and leaves everything in place when it ends', async () => {
    const child = watch();
    const own = join(confDir, OWN);
    await until('the first installation', () => existsSync(own));
    const whole = text(own);
    await until('the binary', () => text(join(binDir, 'nodemesh-cni')) === 'binary');
    for (const harm of [
      () => writeFileSync(own, list('main')),
      () => renameSync(own, join(confDir, 'renamed.bak')),
      () => writeFileSync(own, whole.slice(0, 30)),
    ]) {
      harm();
      await until(`a repair after ${harm.toString()}`, () => text(own) === whole);
    }
    rmSync(join(binDir, 'nodemesh-cni'));
    await until('the binary again', () => text(join(binDir, 'nodemesh-cni')) === 'binary');
    writeFileSync(join(confDir, '00-before.conflist'), list('before'));
    await until('our list to sort first', () => readdirSync(confDir).sort()[0] === '00-0-nodemesh.conflist');
    child.kill('SIGTERM');
    const [code] = (await once(child, 'close')) as [number | null];
    assert.equal(code, 0);
    assert.match(text(join(confDir, '00-0-nodemesh.conflist')), /nodemesh-cni/);
  });

  it('no reader ever meets half a file, with two installers and a program that tampers', async () => {
    const own = join(confDir, OWN);
    watch();
    watch();
    await until('the first installation', () => existsSync(own));
    const whole = text(own);
    for (let round = 0; round < 4; round++) {
      rmSync(own, { force: true });
      await until('a repair', () => {
        const now = text(own);
        assert.ok(now === '' || now === whole, `half a file: ${now}`);
        return now === whole;
      });
    }
    const parallel = Array.from({ length: 6 }, async () => {
      const child = spawn(process.execPath, [installer, 'install'], { env: env(), stdio: 'ignore' });
      const [code] = (await once(child, 'close')) as [number | null];
      return code;
    });
    assert.deepEqual(await Promise.all(parallel), [0, 0, 0, 0, 0, 0]);
    assert.equal(text(own), whole);
    await until('no file under construction', () =>
      readdirSync(confDir).every((name) => !name.startsWith('.')),
    );
  });

  it('names a folder that cannot be written, and what to do', () => {
    readOnly(confDir);
    const refused = run('install');
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /EROFS.*net\.d.*mount the folder writable.*NODEMESH_CNI_CONF_DIR/s);
    // Binary first: a configuration never names what is not there.
    assert.ok(existsSync(join(binDir, 'nodemesh-cni')));
  });

  it('installs nothing into the configuration when the binary cannot be put', () => {
    readOnly(binDir);
    assert.equal(run('install').status, 1);
    assert.deepEqual(readdirSync(confDir), ['10-main.conflist']);
  });

  it('removes the configuration first and the binary last, and nothing of others', () => {
    const before = [confDir, binDir].map((folder) =>
      readdirSync(folder).map((name) => [
        name,
        text(join(folder, name)),
        statSync(join(folder, name)).mtimeMs,
      ]),
    );
    assert.equal(run('install').status, 0);
    readOnly(binDir);
    assert.equal(run('uninstall').status, 1);
    assert.ok(!existsSync(join(confDir, OWN)), 'the configuration goes though the binary cannot');
    execFileSync('umount', [mounts.pop() ?? '']);
    assert.equal(run('install').status, 0);
    readOnly(confDir);
    assert.equal(run('uninstall').status, 1);
    assert.ok(
      existsSync(join(binDir, 'nodemesh-cni')),
      'the binary stays as long as the configuration names it',
    );
    execFileSync('umount', [mounts.pop() ?? '']);
    assert.equal(run('uninstall').status, 0);
    assert.equal(run('uninstall').status, 0);
    const after = [confDir, binDir].map((folder) =>
      readdirSync(folder).map((name) => [
        name,
        text(join(folder, name)),
        statSync(join(folder, name)).mtimeMs,
      ]),
    );
    assert.deepEqual(after, before);
  });

  it('AMB-128 a folder that is not there: it says so, goes on, and installs once the folder is', async () => {
    const wrong = join(dir, 'wrong');
    const right = confDir;
    confDir = wrong;
    const refused = run('install');
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /wrong has no CNI configuration.*NODEMESH_CNI_CONF_DIR/);
    const child = watch('pipe');
    let said = '';
    child.stdout?.on('data', (some: Buffer) => (said += some.toString()));
    await until('the first attempt', () => said.includes('has no CNI configuration'));
    renameSync(right, wrong);
    await until('the installation', () => existsSync(join(wrong, OWN)));
    assert.match(text(join(wrong, OWN)), /nodemesh-cni/);
    assert.equal(text(join(binDir, 'nodemesh-cni')), 'binary');
    assert.equal(child.exitCode, null);
  });

  it('EBPF-045 takes itself out whatever became of the files meanwhile, and leaves those of others', () => {
    const own = join(confDir, OWN);
    const primary = join(confDir, '10-main.conflist');
    const harms: Readonly<Record<string, () => void>> = {
      'our list is half a file': () => writeFileSync(own, text(own).slice(0, 20)),
      'our list has no plugins': () =>
        writeFileSync(own, '{"cniVersion":"1.0.0","name":"main","plugins":[]}'),
      'our list is gone': () => rmSync(own),
      'the binary is gone': () => rmSync(join(binDir, 'nodemesh-cni')),
      "the cluster's list is damaged": () => writeFileSync(primary, '{'),
      "the cluster's list is gone": () => rmSync(primary),
      'both folders are gone': () => {
        for (const folder of [confDir, binDir]) rmSync(folder, { recursive: true });
      },
    };
    for (const [what, harm] of Object.entries(harms)) {
      writeFileSync(primary, list('main'));
      assert.equal(run('install').status, 0, what);
      harm();
      const left = text(primary);
      const removed = run('uninstall');
      assert.equal(removed.status, 0, `${what}: ${removed.stderr}`);
      assert.equal(text(primary), left, what);
      assert.ok(!existsSync(own) && !existsSync(join(binDir, 'nodemesh-cni')), what);
    }
  });
});
