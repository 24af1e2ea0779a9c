// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { it } from 'node:test';

it('says in one line what it is not given', () => {
  const { status, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, 'main.ts')], {
    env: {},
    encoding: 'utf8',
  });
  assert.equal(status, 1);
  assert.match(stderr, /^agent: NODEMESH_NODE_NAME is not set [^\n]*\n$/);
});
