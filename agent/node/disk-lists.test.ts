// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { recordingLog, silentLog } from '#lib/core/log.ts';
import { createDiskLists } from './disk-lists.ts';

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
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-lists-'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it('gives a later agent the sandboxes of an earlier one', () => {
    const lists = createDiskLists({ runDir: dir, stateDir: dir, log: silentLog });
    assert.equal(lists.readSandboxes(), undefined);
    lists.setSandboxes([sandbox]);
    lists.flush();
    assert.deepEqual(createDiskLists({ runDir: dir, stateDir: dir, log: silentLog }).readSandboxes(), [
      sandbox,
    ]);
  });

  it('writes the enrolled list for the shim, readable by root only', () => {
    const lists = createDiskLists({ runDir: dir, stateDir: dir, log: silentLog });
    lists.setNamespaces(['shop', 'bank']);
    lists.setEnrolledPods(['u1']);
    lists.flush();
    assert.equal(readFileSync(join(dir, 'enrolled'), 'utf8'), 'ns shop\nns bank\npod u1\n');
    assert.equal(statSync(join(dir, 'enrolled')).mode & 0o777, 0o600);
  });

  it('keeps the namespaces of an earlier agent until destination has spoken', () => {
    writeFileSync(join(dir, 'enrolled'), 'ns shop\npod u0\n');
    const lists = createDiskLists({ runDir: dir, stateDir: dir, log: silentLog });
    lists.setEnrolledPods(['u1']);
    lists.flush();
    assert.equal(readFileSync(join(dir, 'enrolled'), 'utf8'), 'ns shop\npod u1\n');
  });

  it('starts empty from a damaged list and says so', () => {
    writeFileSync(join(dir, 'sandboxes.json'), '[{"containerId":');
    const log = recordingLog();
    assert.equal(createDiskLists({ runDir: dir, stateDir: dir, log }).readSandboxes(), undefined);
    assert.equal(log.lines[0]?.level, 'error');
  });
});
