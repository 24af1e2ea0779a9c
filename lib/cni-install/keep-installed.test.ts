// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import type { PluginEntry } from './conflist.ts';
import { uninstallCni } from './install.ts';
import { keepInstalled, type KeptInstallation } from './keep-installed.ts';

const entry: PluginEntry = {
  type: 'nodemesh-cni',
  socket: '/run/nodemesh/cni.sock',
  enrolledList: '/var/lib/nodemesh/enrolled',
  tombstones: '/run/nodemesh/tombstones',
  namespace: 'nodemesh',
  excludeNamespaces: [],
};
const list = (name: string): string =>
  JSON.stringify({ cniVersion: '1.0.0', name, plugins: [{ type: 'bridge' }] });

describe('keeping the CNI plugin installed', () => {
  let dir: string;
  let confDir: string;
  let binDir: string;
  let clock: VirtualClock;
  let log: ReturnType<typeof recordingLog>;
  let changed: () => void;
  let kept: KeptInstallation;
  const own = (): string => join(confDir, '00-nodemesh.conflist');
  const network = (): string => (JSON.parse(readFileSync(own(), 'utf8')) as { name: string }).name;
  /** Another program does something, and it is announced. */
  const other = (act: () => void): void => {
    act();
    changed();
    clock.advance(60);
  };
  const messages = (level: string): number => log.lines.filter((line) => line.level === level).length;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-keep-'));
    [confDir, binDir] = [join(dir, 'net.d'), join(dir, 'bin')];
    mkdirSync(confDir);
    writeFileSync(join(dir, 'shim'), 'binary');
    writeFileSync(join(confDir, '10-main.conflist'), list('main'));
    clock = new VirtualClock();
    log = recordingLog();
    kept = keepInstalled({
      confDir,
      binDir,
      shim: join(dir, 'shim'),
      entry,
      clock,
      log,
      watchFolders: (_folders, report) => {
        changed = report;
        return () => undefined;
      },
    });
  });
  afterEach(() => {
    kept.close();
    rmSync(dir, { recursive: true });
  });

  it('repairs whatever is done to its files, counts it and leaves the others as they are', () => {
    const whole = readFileSync(own(), 'utf8');
    const harms: (() => void)[] = [
      () => writeFileSync(own(), list('main')), // our entry taken out
      () => writeFileSync(own(), whole.slice(0, 40)), // written half
      () => writeFileSync(own(), ''),
      () => rmSync(own()),
      () => renameSync(own(), `${own()}.bak`),
    ];
    for (const [index, harm] of harms.entries()) {
      other(harm);
      assert.equal(readFileSync(own(), 'utf8'), whole, String(index));
      assert.equal(kept.repairs, index + 1);
      clock.advance(120_000);
    }
    for (const harm of [
      () => writeFileSync(join(binDir, 'nodemesh-cni'), 'foreign'),
      () => rmSync(join(binDir, 'nodemesh-cni')),
      () => rmSync(binDir, { recursive: true }),
    ]) {
      other(harm);
      assert.equal(readFileSync(join(binDir, 'nodemesh-cni'), 'utf8'), 'binary');
      clock.advance(120_000);
    }
    assert.equal(kept.repairs, 8);
    assert.equal(readFileSync(join(confDir, '10-main.conflist'), 'utf8'), list('main'));
    assert.ok(existsSync(`${own()}.bak`));
  });

  it("follows the cluster's own configuration, which is no repair", () => {
    other(() => writeFileSync(join(confDir, '10-main.conflist'), list('other')));
    assert.equal(network(), 'other');
    other(() => writeFileSync(join(confDir, '00-first.conflist'), list('first')));
    const names = readdirSync(confDir).sort();
    assert.deepEqual(names, ['00-0-nodemesh.conflist', '00-first.conflist', '10-main.conflist']);
    assert.equal(kept.repairs, 0);
  });

  it('finds out what nobody announced', () => {
    rmSync(own());
    clock.advance(10_000);
    assert.equal(kept.repairs, 1);
  });

  it('waits while the primary is half-written, and takes no other one for it', () => {
    writeFileSync(join(confDir, '20-late.conflist'), list('late'));
    other(() => writeFileSync(join(confDir, '10-main.conflist'), list('next').slice(0, 20)));
    assert.equal(network(), 'main');
    // Our own file is repaired all the same, from what it was.
    other(() => rmSync(own()));
    assert.equal(network(), 'main');
    assert.equal(kept.repairs, 1);
    other(() => writeFileSync(join(confDir, '10-main.conflist'), list('next')));
    assert.equal(network(), 'next');
    other(() => writeFileSync(join(confDir, '10-main.conflist'), '{'));
    clock.advance(12_000);
    assert.equal(network(), 'late');
  });

  it('goes when the network plugin of the cluster goes for good, and comes back with it', () => {
    other(() => rmSync(join(confDir, '10-main.conflist')));
    clock.advance(5_000);
    assert.ok(existsSync(own()));
    clock.advance(7_000);
    assert.deepEqual(readdirSync(confDir), []);
    assert.equal(messages('error'), 1);
    clock.advance(60_000);
    assert.equal(messages('error'), 1); // said once
    other(() => writeFileSync(join(confDir, '10-new.conflist'), list('new')));
    assert.equal(network(), 'new');
  });

  it('does not fight for ever: repairs become rare, and the log says so', () => {
    // A program that undoes every repair at once, for an hour.
    for (let second = 0; second < 3600; second++) {
      rmSync(own(), { force: true });
      changed();
      clock.advance(1000);
    }
    assert.ok(kept.repairs >= 10 && kept.repairs < 30, `${kept.repairs} repairs`);
    assert.ok(log.lines.some((line) => String(line.fields['remedy']).includes('cni.exclusive')));
    // It is given up at last: one repair more, then peace; later troubles are mended at once again.
    clock.advance(600_000);
    assert.ok(existsSync(own()));
    const before = kept.repairs;
    clock.advance(600_000);
    assert.equal(kept.repairs, before);
    other(() => rmSync(own()));
    assert.ok(existsSync(own()));
  });

  it('says once what is wrong and goes on trying', () => {
    rmSync(join(dir, 'shim'));
    other(() => rmSync(join(binDir, 'nodemesh-cni')));
    clock.advance(60_000);
    assert.equal(messages('error'), 1);
    assert.ok(kept.failures > 3);
    writeFileSync(join(dir, 'shim'), 'binary');
    clock.advance(10_000);
    assert.ok(existsSync(join(binDir, 'nodemesh-cni')));
  });

  it('leaves everything in place when it ends', () => {
    kept.close();
    rmSync(own());
    clock.advance(60_000);
    assert.ok(!existsSync(own()));
    uninstallCni({ confDir, binDir });
    assert.deepEqual(readdirSync(confDir), ['10-main.conflist']);
  });

  it('leaves its files to another installer of the node while that one works', () => {
    kept.close();
    let holds = true;
    kept = keepInstalled({
      confDir,
      binDir,
      shim: join(dir, 'shim'),
      entry,
      clock,
      log,
      holds: () => holds,
      watchFolders: (_folders, report) => {
        changed = report;
        return () => undefined;
      },
    });
    holds = false;
    const shim = join(binDir, 'nodemesh-cni');
    other(() => writeFileSync(shim, 'newer'));
    clock.advance(60_000);
    assert.equal(readFileSync(shim, 'utf8'), 'newer');
    holds = true;
    clock.advance(11_000);
    assert.equal(readFileSync(shim, 'utf8'), 'binary');
    assert.equal(kept.repairs, 0);
  });
});
