// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { evidenceOfSources } from '../conformance/evidence.ts';
import { namedTests } from './named-tests.ts';

describe('SECURITY.md', () => {
  const text = readFileSync('SECURITY.md', 'utf8');

  it('names only tests that there are', () => {
    const named = namedTests(text);
    assert.ok(named.length >= 40, `${named.length} tests are named`);
    const evidence = evidenceOfSources();
    assert.deepEqual(
      named.filter((test) => !evidence.holds(test)),
      [],
    );
  });

  it('mentions no test file without a name of a test in it', () => {
    const mentioned = text.match(/`[\w./-]+\.test\.ts`/g) ?? [];
    assert.equal(mentioned.length, namedTests(text).length);
  });

  it('names a test for each limit', () => {
    const blast = text.slice(text.indexOf('## Who yields what'), text.indexOf('## What attacks leave'));
    const limits = blast.split(/\n\* /).slice(1);
    assert.ok(limits.length >= 25, `${limits.length} limits`);
    for (const limit of limits) assert.ok(namedTests(limit).length > 0, limit);
  });

  it('a test that is gone or renamed is noticed', () => {
    const [first] = namedTests(
      '* It holds.\n  Held by `scripts/tidy/named-tests.test.ts`: "no such\n  test at all".',
    );
    assert.deepEqual(first, { file: 'scripts/tidy/named-tests.test.ts', name: 'no such test at all' });
    const evidence = evidenceOfSources(['scripts/tidy/named-tests.test.ts']);
    assert.ok(evidence.holds({ file: first.file, name: 'names only tests that there are' }));
    assert.ok(
      !evidence.holds({ file: 'scripts/tidy/none.test.ts', name: 'names only tests that there are' }),
    );
  });
});
