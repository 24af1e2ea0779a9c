// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { proxyVerdicts } from '../../test/conformance/catalogue/proxy-verdicts.ts';
import { parseCatalogue, readCatalogues } from './catalogue.ts';
import { evidenceOfRun, evidenceOfSources } from './evidence.ts';
import { complaints, conformancePage, judge } from './page.ts';
import type { RunRecord } from './run-record.ts';

const text = `# Others: their tests
> Introduction.

## All of it
AMB-001 first
  test test/a.test.ts: holds \${what}
AMB-002 second
  different: "the sentence"
  test test/a.test.ts: another way
AMB-003 third
  not applicable: there is none
AMB-004 fourth

## Some of it (open)
planned: later
AMB-005 fifth
AMB-006 sixth
  test test/a.test.ts: was not run
`;

const passed = (...path: string[]) => ({ path, outcome: 'passed' }) as const;
const failed = (...path: string[]) => ({ path, outcome: 'failed' }) as const;
const complete: RunRecord = {
  'test/a.test.ts': [
    passed('suite', 'holds water'),
    passed('suite', 'holds |air|'),
    passed('another way (backwards)'),
    passed('was not run'),
  ],
  'test/b.test.ts': [passed('AMB-004, AMB-005 by their names')],
};

const judged = (record: RunRecord): Record<string, string> => {
  const evidence = evidenceOfRun(record);
  const scenarios = parseCatalogue(text, 'x').groups.flatMap((group) => group.scenarios);
  return Object.fromEntries(scenarios.map((one) => [one.id.slice(-1), judge(one, evidence).status]));
};

describe('a catalogue', () => {
  it('refuses what it does not understand, with its line', () => {
    for (const [line, what] of [
      ['AMB-001 again', 'x:12: is there twice'],
      ['AMB-1 short', 'x:12: is neither a scenario'],
      ['  tests test/a.test.ts: name', 'x:12: is neither a test nor a reason'],
      ['  planned: too', 'x:12: is a second reason'],
    ]) {
      const wrong = text
        .split('\n')
        .toSpliced(11, 0, line ?? '')
        .join('\n');
      assert.throws(() => parseCatalogue(wrong, 'x'), { message: new RegExp(`^${what}`) });
    }
  });

  it('of each source can be read', () => {
    const ids = readCatalogues().flatMap(({ groups }) =>
      groups.flatMap(({ scenarios }) => scenarios.map(({ id }) => id)),
    );
    assert.equal(new Set(ids).size, ids.length);
    assert.ok(ids.length > 400);
    assert.deepEqual(
      proxyVerdicts.map(({ id }) => id).filter((id) => !ids.includes(id)),
      [],
    );
  });
});

describe('the judgement by a run', () => {
  it('passed, different, not applicable, planned', () => {
    assert.deepEqual(judged(complete), {
      1: 'passed',
      2: 'different',
      3: 'not applicable',
      4: 'passed',
      5: 'passed',
      6: 'passed',
    });
    assert.deepEqual(complaints([parseCatalogue(text, 'x')], evidenceOfRun(complete)), []);
  });

  it('a test that failed, was skipped or not run makes it missing, and is named', () => {
    const broken: RunRecord = {
      'test/a.test.ts': [passed('suite', 'holds water'), failed('suite', 'holds |air|')],
      'test/b.test.ts': [{ path: ['AMB-004'], outcome: 'skipped' }],
    };
    const expected = {
      1: 'missing',
      2: 'missing',
      3: 'not applicable',
      4: 'missing',
      5: 'planned',
      6: 'missing',
    };
    assert.deepEqual(judged(broken), expected);
    assert.deepEqual(
      complaints([parseCatalogue(text, 'x')], evidenceOfRun(broken)).map((one) => one.slice(0, 7)),
      ['AMB-001', 'AMB-002', 'AMB-004', 'AMB-006'],
    );
  });

  it('planned is a complaint where everything must be there, missing in an open group is none', () => {
    const catalogue = parseCatalogue('## A\nAMB-001 x\n  planned: y\n## B (open)\nAMB-002 z', 'x');
    assert.deepEqual(complaints([catalogue], evidenceOfRun({})), ['AMB-001 (A) is only planned']);
  });
});

describe('the page', () => {
  it('names tests that there are, and lacks nothing where nothing may be missing', () => {
    assert.deepEqual(complaints(readCatalogues(), evidenceOfSources()), []);
  });

  it('is the same by the sources as by a run in which everything passed', () => {
    const folder = mkdtempSync(join(tmpdir(), 'nodemesh-conformance-'));
    const here = process.cwd();
    process.chdir(folder);
    try {
      const quoted = (path: readonly string[]): string =>
        `it('${path.at(-1)?.replace('holds |air|', 'x')}');`;
      const { 'test/a.test.ts': first = [], 'test/b.test.ts': second = [] } = complete;
      mkdirSync('test');
      writeFileSync(
        'test/a.test.ts',
        `it(\`holds \${what}\`);\n${first
          .map(({ path }) => quoted(path))
          .join('\n')
          .replace(' (backwards)', '')}`,
      );
      writeFileSync('test/b.test.ts', second.map(({ path }) => quoted(path)).join('\n'));
      const catalogues = [parseCatalogue(text, 'x')];
      const bySources = conformancePage('note', catalogues, evidenceOfSources());
      assert.equal(bySources, conformancePage('note', catalogues, evidenceOfRun(complete)));
      assert.match(
        bySources,
        /\| AMB-002 \| second \| different: "the sentence" \| `test\/a\.test\.ts`: another way \|/,
      );
      assert.match(bySources, /\| all \| 4 \| 1 \| 1 \|  \|  \|/);
    } finally {
      process.chdir(here);
      rmSync(folder, { recursive: true });
    }
  });
});

describe('the record of a run', () => {
  it('has each test under its suites, by its file, and how it ended', () => {
    const folder = mkdtempSync(join(tmpdir(), 'nodemesh-conformance-'));
    try {
      const tests = `import { describe, it, test } from 'node:test';
        describe('outer', () => { describe('inner', () => { it('good', () => {}); it('bad', () => { throw new Error(); }); }); });
        describe('skipped', { skip: true }, () => { it('unseen', () => {}); });
        test('alone', () => {}); it('todo', { todo: true }, () => {});`;
      writeFileSync(join(folder, 'a.test.mjs'), tests);
      const program = `import { run } from 'node:test';
        import { createRunRecorder } from '${join(import.meta.dirname, 'run-record.ts')}';
        const recorder = createRunRecorder(process.cwd());
        for await (const event of run({ files: ['a.test.mjs'] })) recorder.take(event);
        console.log(JSON.stringify(recorder.record()));`;
      const { NODE_TEST_CONTEXT: _, ...env } = process.env;
      writeFileSync(join(folder, 'run.mjs'), program);
      const said = execFileSync(process.execPath, ['run.mjs'], { cwd: folder, env });
      const results = (JSON.parse(String(said)) as RunRecord)['a.test.mjs'] ?? [];
      assert.deepEqual(
        results.map(({ path, outcome }) => `${path.join(' > ')}: ${outcome}`),
        [
          'outer > inner > good: passed',
          'outer > inner > bad: failed',
          'outer > inner: failed',
          'outer: failed',
          'skipped: skipped',
          'alone: passed',
          'todo: skipped',
        ],
      );
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
