// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import {
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
import { VirtualClock } from '#lib/core/clock.ts';
import { recordingLog, silentLog } from '#lib/core/log.ts';
import { createDiskLists, type DiskLists } from './disk-lists.ts';

const sandbox = {
  containerId: 'c1',
  uid: 'u1',
  namespace: 'shop',
  name: 'web',
  netnsPath: '/run/netns/x',
  addresses: ['10.0.0.1'],
};

describe('lists on disk', () => {
  let dir: string;
  const lists = (): DiskLists => createDiskLists({ runDir: dir, stateDir: dir, log: silentLog });
  const enrolled = (): string => readFileSync(join(dir, 'enrolled'), 'utf8');
  const entries = (): string[] => enrolled().split('\n').slice(1, -2);
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-lists-'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it('gives a later agent the sandboxes of an earlier one', () => {
    const first = lists();
    assert.equal(first.readSandboxes(), undefined);
    first.setSandboxes([sandbox]);
    first.flush();
    assert.deepEqual(lists().readSandboxes(), [sandbox]);
  });

  it('leaves both lists to the other agent of the node while that one has the role', () => {
    const ours = lists();
    ours.setActive(false);
    ours.setSandboxes([sandbox]);
    ours.setNamespaces(['shop']);
    ours.flush();
    assert.deepEqual(readdirSync(dir), []);
    ours.setActive(true);
    ours.flush();
    assert.deepEqual(lists().readSandboxes(), [sandbox]);
    assert.deepEqual(entries(), ['ns shop']);
  });

  it('has written everything when it gives the role up: the other agent reads it then', async () => {
    const ours = lists();
    ours.setSandboxes([]);
    ours.setNamespaces(['old']);
    await new Promise(setImmediate); // the writes have begun
    ours.setSandboxes([sandbox]);
    ours.setNamespaces(['shop']);
    ours.setActive(false);
    for (let turn = 0; turn < 200; turn++) {
      assert.deepEqual(lists().readSandboxes(), [sandbox]);
      assert.deepEqual(entries(), ['ns shop']);
      await new Promise(setImmediate);
    }
  });

  it('holds up nobody with a busy disk: no list is written on this thread', async () => {
    const ours = lists();
    ours.setSandboxes([sandbox]);
    ours.setNamespaces(['shop']);
    await new Promise(setImmediate); // the writes have begun
    assert.deepEqual(
      readdirSync(dir).filter((name) => !name.endsWith('.new')),
      [],
    );
    const deadline = Date.now() + 20_000;
    while (readdirSync(dir).sort().join() !== 'enrolled,sandboxes.json') {
      assert.ok(Date.now() < deadline, 'the lists were not written');
      await new Promise(setImmediate);
    }
    assert.deepEqual(lists().readSandboxes(), [sandbox]);
  });

  it('writes the enrolled list for the plugin, readable by root only, whole or not at all', () => {
    const first = lists();
    assert.equal(first.earlier.state, 'missing');
    first.setNamespaces(['shop', 'bank']);
    first.podsChanged(() => ['u1']);
    first.flush();
    assert.equal(enrolled(), 'nodemesh-enrolled 1\nns shop\nns bank\npod u1\nend 3\n');
    assert.equal(statSync(join(dir, 'enrolled')).mode & 0o777, 0o600);
    assert.deepEqual(lists().earlier, { state: 'whole', namespaces: ['shop', 'bank'], pods: ['u1'] });
  });

  it('writes without being asked to, the newest state last', async () => {
    const first = lists();
    for (let round = 0; round < 50; round++) {
      first.setNamespaces([`shop-${round}`]);
      if (round % 7 === 0) await new Promise(setImmediate);
    }
    const deadline = Date.now() + 20_000;
    while (!readdirSync(dir).includes('enrolled') || entries()[0] !== 'ns shop-49') {
      assert.ok(Date.now() < deadline, 'the list was not written');
      await new Promise(setImmediate);
    }
    assert.deepEqual(readdirSync(dir), ['enrolled']);
  });

  it('lets no write under way overtake the last one', async () => {
    const first = lists();
    first.setNamespaces(['old']);
    await new Promise(setImmediate); // the write has begun
    first.setNamespaces(['new']);
    first.flush();
    for (let turn = 0; turn < 200; turn++) await new Promise(setImmediate);
    assert.deepEqual(entries(), ['ns new']);
  });

  it('keeps what an earlier agent knew until destination has told namespaces and every pod', () => {
    const before = lists();
    before.setNamespaces(['shop']);
    before.podsChanged(() => ['u0']);
    before.flush();
    const later = lists();
    later.podsChanged(() => ['u1']);
    later.flush();
    assert.deepEqual(entries(), ['ns shop', 'pod u0', 'pod u1']);
    later.setNamespaces(['bank']);
    later.forgetEarlierPods();
    later.flush();
    assert.deepEqual(entries(), ['ns bank', 'pod u1']);
  });

  it('leaves a damaged list as it is, which holds pods back, until destination has told the namespaces', () => {
    for (const damaged of [
      '',
      'nodemesh-enrolled 1\nns shop\n',
      'nodemesh-enrolled 1\nend 1\n',
      '\0\0\0\0',
    ]) {
      writeFileSync(join(dir, 'enrolled'), damaged);
      const log = recordingLog();
      const later = createDiskLists({ runDir: dir, stateDir: dir, log });
      assert.equal(later.earlier.state, 'damaged', damaged);
      assert.equal(log.lines[0]?.level, 'error');
      later.podsChanged(() => ['u1']);
      later.flush();
      assert.equal(enrolled(), damaged);
      later.setNamespaces([]);
      later.flush();
      assert.deepEqual(entries(), ['pod u1']);
    }
  });

  it('tries again what could not be written, and counts it', async () => {
    const clock = new VirtualClock();
    const log = recordingLog();
    const stateDir = join(dir, 'state');
    mkdirSync(stateDir);
    const later = createDiskLists({ runDir: dir, stateDir, log, clock });
    rmSync(stateDir, { recursive: true });
    later.setNamespaces(['shop']);
    while (later.failures === 0) await new Promise(setImmediate);
    assert.equal(log.lines[0]?.level, 'error');
    mkdirSync(stateDir);
    mkdirSync(join(stateDir, 'enrolled'));
    clock.advance(5_000);
    while (later.failures === 1) await new Promise(setImmediate);
    assert.deepEqual(readdirSync(stateDir), ['enrolled'], 'nothing half-written stays behind');
    rmSync(join(stateDir, 'enrolled'), { recursive: true });
    clock.advance(5_000);
    const deadline = Date.now() + 20_000;
    while (!readdirSync(stateDir).includes('enrolled') && Date.now() < deadline)
      await new Promise(setImmediate);
    assert.match(readFileSync(join(stateDir, 'enrolled'), 'utf8'), /ns shop/);
  });

  it('removes what a killed agent left half-written, not what another one is writing', () => {
    for (const list of ['enrolled', 'sandboxes.json']) {
      for (const agent of ['1', '2']) writeFileSync(join(dir, `${list}.${agent}-0-1.new`), 'half');
      utimesSync(join(dir, `${list}.1-0-1.new`), 1, 1);
    }
    lists();
    assert.deepEqual(readdirSync(dir).sort(), ['enrolled.2-0-1.new', 'sandboxes.json.2-0-1.new']);
  });

  it('starts empty from a damaged list of sandboxes and says so', () => {
    writeFileSync(join(dir, 'sandboxes.json'), '[{"containerId":');
    const log = recordingLog();
    assert.equal(createDiskLists({ runDir: dir, stateDir: dir, log }).readSandboxes(), undefined);
    assert.equal(log.lines[0]?.level, 'error');
  });
});
