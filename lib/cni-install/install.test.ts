// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { type PluginEntry, planConflist } from './conflist.ts';
import { installCni, uninstallCni } from './install.ts';

const entry: PluginEntry = {
  type: 'nodemesh-cni',
  socket: '/run/nodemesh/cni.sock',
  enrolledList: '/var/lib/nodemesh/enrolled',
  tombstones: '/run/nodemesh/tombstones',
  namespace: 'nodemesh',
  excludeNamespaces: [],
};

const list = (name: string, more: object = {}) =>
  JSON.stringify({ cniVersion: '1.0.0', name, plugins: [{ type: 'bridge', 'x-own': [1] }], ...more });

describe('the CNI configuration of the mesh', () => {
  it('is the first usable one of the cluster with our plugin last, unknown fields kept', () => {
    const plan = planConflist(
      [
        { name: '20-late.conflist', text: list('late') },
        { name: '10-main.conflist', text: list('main', { disableCheck: true, 'x-future': { a: 1 } }) },
        { name: '05-broken.conflist', text: '{' },
        { name: '06-empty.conflist', text: '{"plugins":[]}' },
        { name: '07-typeless.conf', text: '{"name":"x"}' },
        { name: '00-nodemesh.conflist', text: list('ours of before') },
        { name: 'README', text: 'hello' },
      ],
      entry,
    );
    assert.equal(plan.name, '00-nodemesh.conflist');
    assert.equal(plan.primary, '10-main.conflist');
    assert.deepEqual(JSON.parse(plan.text), {
      cniVersion: '1.0.0',
      name: 'main',
      disableCheck: true,
      'x-future': { a: 1 },
      plugins: [{ type: 'bridge', 'x-own': [1] }, entry],
    });
    assert.equal(plan.warnings.length, 3);
    assert.match(plan.warnings.join(), /05-broken.conflist: no JSON/);
  });

  it('makes a list of a single plugin', () => {
    const single = { cniVersion: '0.3.1', name: 'net', type: 'ptp', ipam: { type: 'host-local' } };
    const plan = planConflist([{ name: '10-a.conf', text: JSON.stringify(single) }], entry);
    assert.deepEqual(JSON.parse(plan.text), { cniVersion: '0.3.1', name: 'net', plugins: [single, entry] });
  });

  it('replaces an entry of ours in the primary, wherever it stands', () => {
    const old = { type: 'nodemesh-cni', socket: '/old' };
    const plan = planConflist(
      [{ name: '10-a.conflist', text: list('a', { plugins: [old, { type: 'ptp' }, old] }) }],
      entry,
    );
    assert.deepEqual((JSON.parse(plan.text) as { plugins: unknown }).plugins, [{ type: 'ptp' }, entry]);
  });

  it('sorts before the primary, or says that it cannot', () => {
    const nameFor = (name: string) => planConflist([{ name, text: list('x') }], entry).name;
    assert.equal(nameFor('00-multus.conflist'), '00-0-nodemesh.conflist');
    assert.equal(nameFor('00-0-a.conflist'), '0-nodemesh.conflist');
    assert.throws(() => nameFor('-first.conflist'), { code: 'MESH_CONFIG_INVALID' });
  });

  it('waits for the network plugin of the cluster', () => {
    assert.throws(() => planConflist([], entry), { code: 'MESH_NOT_FOUND', retryable: true });
  });
});

describe('installing the CNI plugin', () => {
  let dir: string;
  let confDir: string;
  let binDir: string;
  let shim: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-install-'));
    [confDir, binDir, shim] = [join(dir, 'net.d'), join(dir, 'bin'), join(dir, 'shim')];
    mkdirSync(confDir);
    mkdirSync(binDir);
    writeFileSync(shim, 'binary', { mode: 0o755 });
    writeFileSync(join(confDir, '10-main.conflist'), list('main'), { mode: 0o640 });
    writeFileSync(join(binDir, 'bridge'), 'theirs');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const snapshot = () =>
    [confDir, binDir].map((folder) =>
      readdirSync(folder).map((name) => [
        name,
        readFileSync(join(folder, name), 'utf8'),
        statSync(join(folder, name)).mode,
        statSync(join(folder, name)).ino,
      ]),
    );

  it('puts both files in place, once, and leaves every byte as it was when removed', () => {
    const before = snapshot();
    const first = installCni({ confDir, binDir, shim, entry });
    assert.equal(first.changed, true);
    assert.deepEqual(readdirSync(confDir), ['00-nodemesh.conflist', '10-main.conflist']);
    assert.equal(statSync(first.conflist).mode & 0o777, 0o640);
    assert.equal(statSync(join(binDir, 'nodemesh-cni')).mode & 0o777, 0o755);
    const after = snapshot();
    assert.equal(installCni({ confDir, binDir, shim, entry }).changed, false);
    assert.deepEqual(snapshot(), after);
    uninstallCni({ confDir, binDir });
    assert.deepEqual(snapshot(), before);
    uninstallCni({ confDir, binDir });
  });

  it('follows a changed primary and repairs what was tampered with', () => {
    installCni({ confDir, binDir, shim, entry });
    writeFileSync(join(confDir, '10-main.conflist'), list('renamed'));
    writeFileSync(join(binDir, 'nodemesh-cni'), 'other');
    assert.equal(installCni({ confDir, binDir, shim, entry }).changed, true);
    assert.match(readFileSync(join(confDir, '00-nodemesh.conflist'), 'utf8'), /"renamed"/);
    assert.equal(readFileSync(join(binDir, 'nodemesh-cni'), 'utf8'), 'binary');
  });

  it('cleans up after an installer that was killed, and lets another one finish', () => {
    for (const folder of [confDir, binDir]) {
      for (const name of ['.nodemesh-cni.new', '.nodemesh-cni.0a1b.new'])
        writeFileSync(join(folder, name), 'half');
      utimesSync(join(folder, '.nodemesh-cni.0a1b.new'), 1, 1);
    }
    installCni({ confDir, binDir, shim, entry });
    assert.ok(existsSync(join(confDir, '.nodemesh-cni.new')));
    assert.ok(!existsSync(join(binDir, '.nodemesh-cni.0a1b.new')));
    uninstallCni({ confDir, binDir });
    assert.deepEqual(readdirSync(confDir), ['10-main.conflist']);
    assert.deepEqual(readdirSync(binDir), ['bridge']);
  });

  it('leaves no half-written file when it fails', () => {
    mkdirSync(join(binDir, 'nodemesh-cni')); // a folder cannot be replaced by a file
    assert.throws(() => installCni({ confDir, binDir, shim, entry }), { code: 'MESH_CONFIG_INVALID' });
    assert.deepEqual(readdirSync(binDir), ['bridge', 'nodemesh-cni']);
    assert.deepEqual(readdirSync(confDir), ['10-main.conflist']);
  });

  it('says what is missing', () => {
    rmSync(join(confDir, '10-main.conflist'));
    assert.throws(() => installCni({ confDir, binDir, shim, entry }), { code: 'MESH_NOT_FOUND' });
    assert.throws(() => installCni({ confDir, binDir, shim: join(dir, 'none'), entry }), /none/);
    mkdirSync(join(confDir, '10-folder.conflist'));
    writeFileSync(join(confDir, '20-main.conflist'), list('main'));
    assert.equal(installCni({ confDir, binDir, shim, entry }).primary, join(confDir, '20-main.conflist'));
  });
});
