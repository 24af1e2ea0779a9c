// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { referencePages } from './pages.ts';

for (const [path, text] of referencePages()) {
  test(`docs/reference/${path} is what the code says (make docs writes it)`, () => {
    assert.equal(readFileSync(`docs/reference/${path}`, 'utf8'), text);
  });
}
