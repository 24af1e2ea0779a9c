// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { recordingLog } from '#lib/core/log.ts';
import { installCni } from './install.ts';
import { takeInstallerRole } from './installer-role.ts';
import { finish, type NodeFolders, unchain } from './remove-node.ts';

describe('taking the mesh off a node', () => {
  let dir: string;
  let folders: NodeFolders;
  const tree = (): string[] => readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort();
  const sleep = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-remove-'));
    const at = (...path: string[]) => join(dir, ...path);
    folders = {
      confDir: at('net.d'),
      binDir: at('bin'),
      runDir: at('run', 'nodemesh'),
      stateDir: at('lib', 'nodemesh'),
      pins: at('bpf', 'nodemesh'),
    };
    for (const path of ['net.d', 'bin', 'run', 'lib', 'bpf']) mkdirSync(at(path));
    writeFileSync(at('net.d', '10-main.conflist'), '{"name":"x","plugins":[{"type":"bridge"}]}');
    writeFileSync(at('bin', 'bridge'), 'theirs');
    writeFileSync(at('lib', 'other'), 'theirs');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const install = (): void => {
    const shim = join(dir, 'shim');
    writeFileSync(shim, 'binary');
    installCni({
      ...folders,
      shim,
      entry: {
        type: 'nodemesh-cni',
        socket: '/run/nodemesh/cni.sock',
        enrolledList: '/var/lib/nodemesh/enrolled',
        tombstones: '/run/nodemesh/tombstones',
        namespace: 'nodemesh',
        excludeNamespaces: [],
      },
    });
    rmSync(shim);
    mkdirSync(folders.stateDir);
    writeFileSync(join(folders.stateDir, 'enrolled'), '');
    mkdirSync(join(folders.pins, '1', 'links'), { recursive: true });
    writeFileSync(join(folders.pins, '1', 'links', 'connect4'), '');
  };

  it('leaves it as it was, the plugin out of the chain before the agent ends and everything else after', async () => {
    const before = tree();
    install();
    const installer = takeInstallerRole(join(folders.runDir, 'installer'), 'pod', () => Date.now());
    const agent = createServer((socket) => void socket.destroy());
    await once(agent.listen(join(folders.runDir, 'cni.sock')).unref(), 'listening');

    unchain(folders);
    assert.deepEqual(readdirSync(folders.confDir), ['10-main.conflist']);
    assert.ok(!installer.holds(), 'the installer would put it back');
    assert.ok(existsSync(join(folders.binDir, 'nodemesh-cni')));

    const log = recordingLog();
    const finished = finish(folders, { log, sleep });
    for (const deadline = Date.now() + 20_000; log.lines.length === 0; await sleep())
      assert.ok(Date.now() < deadline, 'it does not wait for the agent');
    assert.match(JSON.stringify(log.lines), /cni\.sock/);
    assert.ok(existsSync(folders.pins));
    agent.close();
    await finished;
    assert.deepEqual(tree(), before);
  });

  it('does it in one go where the agent is gone already, and where nothing is installed', async () => {
    const before = tree();
    install();
    for (let time = 0; time < 2; time++) {
      unchain(folders);
      await finish(folders, { log: recordingLog(), sleep });
      assert.deepEqual(tree(), before);
    }
  });
});
