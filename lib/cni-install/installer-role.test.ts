// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { takeInstallerRole } from './installer-role.ts';

describe('the role of the installer', () => {
  let dir: string;
  let path: string;
  let nowMs = 1_000_000;
  const take = (owner: string) => takeInstallerRole(path, owner, () => nowMs);
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-role-'));
    path = join(dir, 'run', 'installer');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it('goes to the one that started last, and back when that one ends', () => {
    const old = take('old');
    assert.ok(old.holds());
    const next = take('next');
    assert.ok(!old.holds());
    assert.ok(next.holds());
    next.close();
    assert.ok(old.holds());
    old.close();
    assert.deepEqual(readdirSync(join(dir, 'run')), []);
  });

  it('goes back when the one that started last falls silent, not before', () => {
    const old = take('old');
    const next = take('next');
    nowMs += 50_000;
    assert.ok(next.holds());
    nowMs += 50_000;
    assert.ok(!old.holds());
    nowMs += 20_000;
    assert.ok(old.holds());
    assert.ok(!next.holds());
  });

  it('stays with the new one when the old one ends', () => {
    const old = take('old');
    const next = take('next');
    old.close();
    assert.ok(existsSync(path));
    assert.ok(next.holds());
  });
});
