// SPDX-License-Identifier: Apache-2.0
// Runs the suites one after the other and ends with one summary in the words of node's test runner.
//   node scripts/test.ts [SUITE [FILE…]]
// The unit tests, and those of whole meshes (which wait most of their time, each on a local mesh of its own), run two
// files at a time; everything else under test/ shares the kernel and runs alone. NODEMESH_SOAK=1 (`make soak`): the fault
// tests take hours instead of minutes.

import { globSync, readdirSync } from 'node:fs';
import { basename } from 'node:path';
import { run } from 'node:test';
import { spec, type TestEvent } from 'node:test/reporters';
import { createRunRecorder, readRunRecord, writeRunRecord } from './conformance/run-record.ts';

interface Suite {
  readonly name: string;
  readonly files: readonly string[];
  readonly concurrency: number;
  /** For one file, and for each test in it: past what a machine at a quarter of the usual speed needs. The whole suite gets `limitMs`. */
  readonly timeoutMs: number;
  readonly limitMs: number;
}

/** Their files run two at a time. */
const ofWholeMeshes: ReadonlySet<string> = new Set(['e2e', 'faults']);
/** Needs a cluster that is up: `make cluster-test`. */
const onlyWhenNamed: ReadonlySet<string> = new Set(['cluster']);
const soak = process.env['NODEMESH_SOAK'] === '1';
const counted = ['tests', 'suites', 'passed', 'failed', 'cancelled', 'skipped', 'todo'] as const;
type Counts = Record<(typeof counted)[number], number>;

/** Lines that node's runner prints at the end of each run; one sum of them is printed at the end of all. */
const summaryLine = /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) [\d.]+$/;

function findSuites(): Suite[] {
  const exclude = ['node_modules/**', 'build/**', 'test/**'];
  const found: Suite[] = [
    {
      name: 'unit',
      files: globSync('**/*.test.ts', { exclude }).sort(),
      concurrency: 2,
      timeoutMs: 120_000,
      limitMs: 900_000,
    },
  ];
  for (const name of readdirSync('test').sort()) {
    found.push({
      name,
      files: globSync(`test/${name}/**/*.test.ts`).sort(),
      concurrency: ofWholeMeshes.has(name) ? 2 : 1,
      timeoutMs: soak ? 7_200_000 : name === 'cluster' ? 900_000 : 600_000,
      limitMs: soak ? 21_600_000 : 2_700_000,
    });
  }
  return found.filter((suite) => suite.files.length > 0);
}

function chooseSuites(all: readonly Suite[], wanted: readonly string[]): Suite[] {
  const [name, ...files] = wanted;
  if (name === undefined) return all.filter((suite) => !onlyWhenNamed.has(suite.name));
  const suite = all.find((candidate) => candidate.name === name);
  if (suite === undefined)
    throw new Error(`no suite "${name}"; there are ${all.map((s) => s.name).join(', ')}`);
  if (files.length === 0) return [suite];
  const chosen = suite.files.filter((file) =>
    files.some((part) => file === part || basename(file).includes(part)),
  );
  if (chosen.length === 0) throw new Error(`no file of the suite "${name}" matches ${files.join(' ')}`);
  return [{ ...suite, files: chosen }];
}

const total: Counts = { tests: 0, suites: 0, passed: 0, failed: 0, cancelled: 0, skipped: 0, todo: 0 };
const startedMs = performance.now();
const reporter = new spec();
reporter.pipe(process.stdout);

const wanted = process.argv.slice(2);
const everything = wanted.length === 0;
const recorder = createRunRecorder();
for (const suite of chooseSuites(findSuites(), wanted)) await runSuite(suite);
writeRunRecord(everything ? recorder.record() : { ...readRunRecord(), ...recorder.record() });
// What only a run of everything can show; it reads what was just written.
if (everything) {
  await runSuite({
    name: 'conformance page',
    files: ['scripts/conformance/whole-run.ts'],
    concurrency: 1,
    timeoutMs: 60_000,
    limitMs: 60_000,
  });
}

async function runSuite(suite: Suite): Promise<void> {
  const suiteStartedMs = performance.now();
  // For files that leave something to the next one.
  process.env['NODEMESH_TEST_FILES'] = suite.files.join(':');
  const events: AsyncIterable<TestEvent> = run({
    files: [...suite.files],
    concurrency: suite.concurrency,
    timeout: suite.timeoutMs,
    signal: AbortSignal.timeout(suite.limitMs),
    execArgv: ['--unhandled-rejections=strict'],
  });
  for await (const event of events) {
    recorder.take(event);
    if (event.type === 'test:summary') {
      if (event.data.file !== undefined) continue;
      const counts: Readonly<Record<string, number>> = { ...event.data.counts };
      for (const key of counted) total[key] += counts[key] ?? 0;
    } else if (
      event.type === 'test:diagnostic' &&
      event.data.nesting === 0 &&
      summaryLine.test(event.data.message)
    ) {
      continue;
    } else reporter.write(event);
  }
  const seconds = ((performance.now() - suiteStartedMs) / 1000).toFixed(1);
  note(`suite ${suite.name}: ${suite.files.length} files, ${seconds} s`);
}

for (const key of counted) {
  const word = key === 'passed' ? 'pass' : key === 'failed' ? 'fail' : key;
  note(`${word} ${total[key]}`);
}
note(`duration_ms ${(performance.now() - startedMs).toFixed(3)}`);
reporter.end();
process.exitCode = total.failed + total.cancelled > 0 || total.tests === 0 ? 1 : 0;

function note(message: string): void {
  reporter.write({
    type: 'test:diagnostic',
    data: { nesting: 0, message, level: 'info', column: undefined, file: undefined, line: undefined },
  });
}
