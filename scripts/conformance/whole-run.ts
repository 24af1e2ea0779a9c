// SPDX-License-Identifier: Apache-2.0
// The end of a run of all tests: what it showed must be what docs/reference/conformance.md says, with no gap where none
// may be. Reads what scripts/test.ts has written just before, so it is no *.test.ts.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { conformanceRows } from '../reference/cni-conformance.ts';
import { note } from '../reference/pages.ts';
import { readCatalogues } from './catalogue.ts';
import { evidenceOfRun } from './evidence.ts';
import { complaints, conformancePage } from './page.ts';
import { readRunRecord } from './run-record.ts';

describe('conformance, by the run of all tests', () => {
  const catalogues = readCatalogues();
  const evidence = evidenceOfRun(readRunRecord());

  it('every named test passed, and no scenario is missing where none may be', () => {
    assert.deepEqual(complaints(catalogues, evidence), []);
  });

  it('every test that the table of the CNI specification names passed', () => {
    const failed = conformanceRows
      .flatMap(({ tests }) => tests)
      .filter(([file, name]) => !evidence.holds({ file, name }));
    assert.deepEqual(failed, []);
  });

  it('docs/reference/conformance.md says what the run showed (make docs writes it)', () => {
    // By the lines that differ: the whole page would bury every other failure of the run.
    const page = readFileSync('docs/reference/conformance.md', 'utf8').split('\n');
    const shown = `${conformancePage(note, catalogues, evidence)}\n`.split('\n');
    const [onPage, inRun] = [new Set(page), new Set(shown)];
    // A test that failed changes the page too; then it is that test which matters, and this says no more.
    if (complaints(catalogues, evidence).length > 0) return assert.ok(page.join() === shown.join());
    assert.deepEqual(
      { onlyOnThePage: page.filter((line) => !inRun.has(line)).map(brief) },
      { onlyOnThePage: [] },
    );
    assert.deepEqual(
      { onlyByTheRun: shown.filter((line) => !onPage.has(line)).map(brief) },
      { onlyByTheRun: [] },
    );
    assert.ok(page.join() === shown.join(), 'the order of its lines is another');
  });
});

const brief = (line: string): string => line.slice(0, 160);
