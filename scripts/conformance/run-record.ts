// SPDX-License-Identifier: Apache-2.0
// What the last runs of the tests showed, file by file: build/test-results.json. scripts/test.ts writes it, the page of
// conformance is checked against it. A run replaces what was known of the files that it ran.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { TestEvent } from 'node:test/reporters';

export interface TestResult {
  /** Names of the suites around the test, outermost first, and its own. */
  readonly path: readonly string[];
  readonly outcome: 'passed' | 'failed' | 'skipped';
}

/** Results by file, relative to the repository. */
export type RunRecord = Readonly<Record<string, readonly TestResult[]>>;

const recordFile = 'build/test-results.json';

export function readRunRecord(): RunRecord {
  let text: string;
  try {
    text = readFileSync(recordFile, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return {};
    throw error;
  }
  return JSON.parse(text) as RunRecord;
}

export function writeRunRecord(record: RunRecord): void {
  mkdirSync('build', { recursive: true });
  writeFileSync(recordFile, `${JSON.stringify(record, null, 1)}\n`);
}

export interface RunRecorder {
  take(event: TestEvent): void;
  record(): RunRecord;
}

export function createRunRecorder(root: string = process.cwd()): RunRecorder {
  const paths = new Map<string, readonly string[]>();
  const files: Record<string, TestResult[]> = {};
  return {
    take(event) {
      if (event.type !== 'test:start' && event.type !== 'test:pass' && event.type !== 'test:fail') return;
      const { data } = event;
      const entry = data.entryFile ?? data.file;
      if (entry === undefined) return;
      const file = relative(root, entry);
      if (event.type === 'test:start') {
        const around = data.parentId === undefined ? [] : (paths.get(`${file}#${data.parentId}`) ?? []);
        paths.set(`${file}#${data.testId}`, [...around, data.name]);
        return;
      }
      const path = paths.get(`${file}#${data.testId}`) ?? [data.name];
      const results = (files[file] ??= []);
      // A suite is its tests, unless it fails by itself, in a hook.
      if (event.type === 'test:fail') results.push({ path, outcome: 'failed' });
      else if (event.data.skip !== undefined || event.data.todo !== undefined)
        results.push({ path, outcome: 'skipped' });
      else if (event.data.details.type !== 'suite') results.push({ path, outcome: 'passed' });
    },
    record: () => files,
  };
}
