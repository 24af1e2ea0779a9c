// SPDX-License-Identifier: Apache-2.0
// The file system of the agent's state is full: the list of the mesh stays whole as it was, the agent says so and
// counts it, goes on, and writes what is outstanding once there is space.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { errnoName } from '#lib/core/errors.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { createDiskLists } from '../../agent/node/disk-lists.ts';
import { readEnrolledList } from '../../cni-plugin/logic/enrolled-list.ts';
import { until } from './until.ts';

let dir = '';
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'nodemesh-full-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'nodemesh-full', dir]);
});
after(() => {
  execFileSync('umount', [dir]);
  rmSync(dir, { recursive: true });
});

const namespacesOnDisk = (): readonly string[] => {
  const list = readEnrolledList(join(dir, 'enrolled'));
  assert.equal(list.state, 'whole');
  return list.state === 'whole' ? list.namespaces : [];
};

function fill(): void {
  try {
    for (;;) writeFileSync(join(dir, 'filler'), Buffer.alloc(4096), { flag: 'a' });
  } catch (error) {
    assert.equal(errnoName(error), 'ENOSPC');
  }
}

it('keeps the list that it has, says what is missing, and writes the new one when there is space', async () => {
  const lines: LogLine[] = [];
  const lists = createDiskLists({ runDir: dir, stateDir: dir, log: recordingLog(lines) });
  lists.setNamespaces(['shop']);
  await until('the first list', 10_000, () => (readdirSync(dir).includes('enrolled') ? true : undefined));

  fill();
  lists.setNamespaces(['shop', 'bank']);
  lists.setSandboxes([]);
  await until('both writes have failed', 10_000, () => (lists.failures >= 2 ? true : undefined));
  const said = JSON.stringify(lines);
  assert.match(said, /a list cannot be written and is tried again; free space or permissions are missing/);
  assert.match(said, /ENOSPC/);
  assert.deepEqual(namespacesOnDisk(), ['shop']);

  rmSync(join(dir, 'filler'));
  await until('the new list', 20_000, () => (namespacesOnDisk().length === 2 ? true : undefined));
  assert.deepEqual([...namespacesOnDisk()].sort(), ['bank', 'shop']);
  await until('the sandboxes', 10_000, () => (lists.readSandboxes() !== undefined ? true : undefined));
  lists.flush();
  assert.deepEqual(
    readdirSync(dir).filter((name) => name.endsWith('.new')),
    [],
    'something half-written stays behind',
  );
});
