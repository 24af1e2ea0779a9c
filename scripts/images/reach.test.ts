// SPDX-License-Identifier: Apache-2.0
// What an image takes along, and what it leaves.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { imageLayouts } from './layout.ts';
import { packageFolders, reachOf } from './reach.ts';

const project = join(import.meta.dirname, '../..');
const entriesOf = (name: string): readonly string[] =>
  imageLayouts.find((image) => image.name === name)?.entries ?? assert.fail(name);

describe('an image', () => {
  test("of the agent holds its workers' program, and neither tests nor a Kubernetes client", () => {
    const { files, packages } = reachOf(project, entriesOf('agent'));
    for (const file of ['agent/main.ts', 'agent/proxy/worker.ts', 'daemonset/install.ts'])
      assert.ok(files.includes(file), file);
    assert.deepEqual(
      files.filter((file) => file.endsWith('.test.ts') || !existsSync(join(project, file))),
      [],
    );
    assert.deepEqual(
      files.filter((file) => file.startsWith('lib/registry-kubernetes/')),
      [],
    );
    assert.ok(packages.includes('koffi'));
    assert.ok(!packages.includes('@kubernetes/client-node') && !packages.includes('yargs'));
  });

  test('holds the packages that its packages need, and the native one of this platform', () => {
    const folders = packageFolders(project, ['koffi', '@grpc/grpc-js']);
    assert.ok(folders.includes('node_modules/@grpc/proto-loader'));
    assert.ok(folders.some((folder) => folder.startsWith('node_modules/@koromix/koffi-linux-')));
    assert.ok(!folders.includes('node_modules/typescript'));
    for (const folder of folders) assert.ok(existsSync(join(project, folder)), folder);
  });

  test('says which package is missing', () => {
    assert.throws(
      () => packageFolders(project, ['no-such-package']),
      /no-such-package of the project is not installed/,
    );
  });
});
