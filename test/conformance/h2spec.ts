// SPDX-License-Identifier: Apache-2.0
// Runs h2spec, which tries an HTTP/2 server case by case, and reads its report.

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { goTool } from '../tools/go-tool.ts';

const run = promisify(execFile);

/** All cases take some seconds; those that fail wait for their time-out. */
const RUN_MS_MAX = 280_000;

export interface H2specCase {
  /** Section, as `http2/6.5.2`. */
  readonly section: string;
  readonly title: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** Of a failed one: what was expected, a line each, and last what came. */
  readonly detail: string;
}

export interface H2specOptions {
  readonly strict: boolean;
  /** Only these sections, as `http2/6.5`; without: all. */
  readonly sections?: readonly string[];
  /** Path of the network namespace to run it in. */
  readonly netns?: string;
  readonly path?: string;
  /** How long a case waits for an answer. */
  readonly timeoutSeconds?: number;
}

/** Every case with its outcome. Rejects only if h2spec itself could not run. */
export async function runH2spec(host: string, port: number, options: H2specOptions): Promise<H2specCase[]> {
  const binary = await goTool('h2spec');
  const directory = await mkdtemp(join(tmpdir(), 'nodemesh-h2spec-'));
  const report = join(directory, 'report.xml');
  const words = [binary, ...(options.sections ?? []), '-h', host, '-p', String(port), '-j', report];
  words.push('-o', String(options.timeoutSeconds ?? 2), '-P', options.path ?? '/');
  if (options.strict) words.push('-S');
  if (options.netns !== undefined) words.unshift('nsenter', `--net=${options.netns}`);
  const [program = binary, ...parameters] = words;
  let said = '';
  try {
    said = (await run(program, parameters, { timeout: RUN_MS_MAX, encoding: 'latin1' })).stdout;
  } catch (error) {
    // It ends with 1 when a case failed; the report says which.
    if (!existsSync(report)) throw error;
  }
  try {
    const cases = parseReport(await readFile(report, 'latin1'));
    if (cases.length === 0) throw new Error(`h2spec ran no case: ${said}`);
    return cases;
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** The cases of a JUnit report as h2spec writes it. */
export function parseReport(report: string): H2specCase[] {
  const cases: H2specCase[] = [];
  for (const match of report.matchAll(/<testcase ([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const [, attributes = '', inner = ''] = match;
    const detail = /<(?:error|failure)[^>]*>([\s\S]*?)<\/(?:error|failure)>/.exec(inner)?.[1];
    const outcome = detail !== undefined ? 'failed' : inner.includes('<skipped') ? 'skipped' : 'passed';
    cases.push({
      section: unescaped(/package="([^"]*)"/.exec(attributes)?.[1] ?? ''),
      title: unescaped(/classname="([^"]*)"/.exec(attributes)?.[1] ?? ''),
      outcome,
      detail: unescaped(detail ?? ''),
    });
  }
  return cases;
}

const entities: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

function unescaped(text: string): string {
  return text.replace(
    /&(?:#(\d+)|#x([0-9a-fA-F]+)|(\w+));/g,
    (whole, decimal?: string, hex?: string, name?: string) => {
      if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
      if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
      return entities[name ?? ''] ?? whole;
    },
  );
}
