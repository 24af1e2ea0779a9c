// SPDX-License-Identifier: Apache-2.0
// A connection from each pod, as an application would make it: that it comes to the agent proves that hook, programs,
// records and listeners work together. Made by a small program of its own (agent/connect-test), because the hook runs
// for sockets of processes below the pods' cgroup only, and the agent may not be there.

import { spawn } from 'node:child_process';
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';

export interface TestedPod {
  readonly uid: string;
  readonly netnsFd: number;
  readonly family: 4 | 6;
}

export interface TestConnectsOptions {
  /** The program (build/connect-test). */
  readonly program: string;
  /** undefined: the agent is a pod itself, and what it starts is below it as well. */
  readonly podsCgroup: string | undefined;
  readonly log: Log;
}

/** What went wrong, by pod; nothing about pods that could not be tested. */
export type TestConnects = (pods: readonly TestedPod[]) => Promise<ReadonlyMap<string, string>>;

const NOTHING: ReadonlyMap<string, string> = new Map();
/** The program's own limit. */
const PODS_MAX = 1_024;
const PROGRAM_MS = 5_000;
const OUTPUT_MAX = 65_536;

export function createTestConnects(options: TestConnectsOptions): TestConnects {
  const { program, podsCgroup, log } = options;
  let told = '';

  const run = (cgroup: string, pods: readonly TestedPod[]): Promise<readonly string[]> =>
    new Promise((resolve, reject) => {
      const child = spawn(program, [cgroup, ...pods.map(({ family }) => String(family))], {
        stdio: ['ignore', 'pipe', 'pipe', ...pods.map(({ netnsFd }) => netnsFd)],
        timeout: PROGRAM_MS,
        killSignal: 'SIGKILL',
      });
      let [output, complaint] = ['', ''];
      child.stdout?.on('data', (chunk) => (output = (output + String(chunk)).slice(0, OUTPUT_MAX)));
      child.stderr?.on('data', (chunk) => (complaint = (complaint + String(chunk)).slice(0, OUTPUT_MAX)));
      child.once('error', reject);
      child.once('close', (code, signal) => {
        if (code === 0) resolve(output.trim().split('\n'));
        else reject(new Error(complaint.trim() || `it ended with ${signal ?? code}`));
      });
    });

  return async (all) => {
    const pods = all.slice(0, PODS_MAX);
    if (pods.length === 0) return NOTHING;
    const cgroup = podsCgroup === undefined ? undefined : join(podsCgroup, `nodemesh-check-${process.pid}`);
    try {
      if (cgroup !== undefined) mkdirSync(cgroup, { recursive: true });
      const said = await run(cgroup ?? '-', pods);
      told = '';
      return new Map(
        pods.flatMap(({ uid }, at) => (said[at] === 'ok' ? [] : [[uid, said[at] ?? 'no answer'] as const])),
      );
    } catch (error) {
      // Whatever hinders the test says nothing about the pods.
      const message = errorMessage(error);
      if (message !== told) log.warn({ program, error: message }, 'no test connections can be made');
      told = message;
      return NOTHING;
    } finally {
      if (cgroup !== undefined) removeCgroup(cgroup, log);
    }
  };
}

function removeCgroup(path: string, log: Log): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (errnoName(error) !== 'ENOENT')
      log.debug(
        { path, error: errorMessage(error) },
        'the cgroup of the test connections stays until the next',
      );
  }
}
