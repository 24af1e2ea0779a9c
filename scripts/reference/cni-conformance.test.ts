// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { conformanceRows } from './cni-conformance.ts';

describe('the table of the CNI specification', () => {
  it('names only tests that there are', () => {
    const missing = conformanceRows
      .flatMap(({ tests }) => tests)
      .filter(([file, name]) => {
        const text = readFileSync(file, 'utf8').replaceAll("\\'", "'");
        // Up to the name's end; what stands before it in the title may be computed.
        return !["'", '"', '`'].some((quote) => text.includes(`${name}${quote}`));
      });
    assert.deepEqual(missing, []);
  });

  it('has a test for whatever is held, and a reason for whatever is not', () => {
    for (const { rule, verdict, why, tests } of conformanceRows) {
      assert.ok(verdict === 'not applicable' || tests.length > 0, rule);
      assert.equal(verdict === 'held', why === undefined, rule);
    }
    assert.equal(
      new Set(conformanceRows.map(({ section, rule }) => section + rule)).size,
      conformanceRows.length,
    );
  });
});
