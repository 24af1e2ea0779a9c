// SPDX-License-Identifier: Apache-2.0
// For tests of unwelcome clients: makes their attempts from a pod or a node, and reads what the programs of the mesh
// logged about them.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { LocalMesh } from '../../local/harness.ts';
import type { CommandOptions, CommandResult } from '../../local/command.ts';
import type { Attempt, Outcome } from './hostile-attempt.ts';

const CLIENT = fileURLToPath(new URL('hostile-client.ts', import.meta.url));
const LOG_PATIENCE_MS = 30_000;
const LOG_POLL_MS = 20;

type Exec = (argv: readonly string[], options: CommandOptions) => Promise<CommandResult>;

/** Makes all attempts at once, from where `exec` runs programs. */
export async function attemptFrom(exec: Exec, attempts: readonly Attempt[]): Promise<readonly Outcome[]> {
  const run = await exec(['node', CLIENT], { input: JSON.stringify(attempts), timeoutMs: 60_000 });
  assert.equal(run.code, 0, run.stderr);
  return JSON.parse(run.stdout) as readonly Outcome[];
}

export type LogRecord = Readonly<Record<string, unknown>>;

export const base64 = (bytes: string | Uint8Array): string =>
  (typeof bytes === 'string' ? Buffer.from(bytes) : Buffer.from(bytes)).toString('base64');
export const textOf = ({ received }: Outcome): string => Buffer.from(received, 'base64').toString('latin1');

/** The JSON lines of a log file from a moment on. */
export class LogTail {
  readonly #file: string;
  #from: number;

  constructor(file: string) {
    this.#file = file;
    this.#from = readFileSync(file).length;
  }

  lines(): readonly LogRecord[] {
    const text = readFileSync(this.#file).subarray(this.#from).toString();
    return text
      .slice(0, text.lastIndexOf('\n') + 1)
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as LogRecord);
  }

  /** The first line that has these values (a RegExp is matched); rejects with all lines if none comes in time. */
  async until(wanted: Readonly<Record<string, unknown>>): Promise<LogRecord> {
    const fits = (line: LogRecord): boolean =>
      Object.entries(wanted).every(([key, value]) =>
        value instanceof RegExp ? value.test(String(line[key])) : line[key] === value,
      );
    const deadline = performance.now() + LOG_PATIENCE_MS;
    for (;;) {
      const lines = this.lines();
      const found = lines.find(fits);
      if (found !== undefined) return found;
      if (performance.now() > deadline) {
        const shown = lines.map((line) => JSON.stringify(line)).join('\n');
        assert.fail(`no line with ${Object.entries(wanted).map(String).join('; ')} in:\n${shown}`);
      }
      await delay(LOG_POLL_MS);
    }
  }
}

/** What `GET /state` of an agent says. */
export function agentState(mesh: LocalMesh, node: string): Promise<Readonly<Record<string, unknown>>> {
  const socketPath = join(mesh.node(node).layout.runDir, 'agent.sock');
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, path: '/state', agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        if (response.statusCode === 200) resolve(JSON.parse(text) as Readonly<Record<string, unknown>>);
        else reject(new Error(`agent.sock answered ${response.statusCode}: ${text}`));
      });
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}

/** Every program of the mesh still is the process that was started, and every proxy worker the first of its place. */
export async function requireUnharmed(mesh: LocalMesh): Promise<void> {
  const { programs } = await mesh.status();
  for (const { name, starts, pid } of programs) {
    assert.equal(starts, 1, `${name} was started ${starts} times`);
    assert.notEqual(pid, undefined, `${name} is away`);
  }
  for (const { name } of mesh.layout.nodes) {
    const { workersReplaced } = await agentState(mesh, name);
    assert.deepEqual(workersReplaced, { exited: 0, silent: 0 }, `workers of ${name} were replaced`);
  }
}
