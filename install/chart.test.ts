// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { globSync, readFileSync, statSync } from 'node:fs';
import { test } from 'node:test';
import { chartFiles } from './chart.ts';

const found = globSync('charts/**/*').filter((path) => statSync(path).isFile());

test('charts/ holds what install/ says (make docs writes it)', () => {
  const files = chartFiles();
  assert.deepEqual(found.sort(), [...files.keys()].map((path) => `charts/${path}`).sort());
  for (const [path, text] of files) assert.equal(readFileSync(`charts/${path}`, 'utf8'), text, path);
});
