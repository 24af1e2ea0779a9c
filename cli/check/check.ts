// SPDX-License-Identifier: Apache-2.0
// One look at one thing that must hold, and the run of many: in their order, retried while there is time where that can
// help, ended by the first that makes the rest meaningless. Results and their order are Linkerd's (`linkerd check`).

import { errorMessage } from '#lib/core/errors.ts';
import type { Cluster } from '../install/cluster.ts';
import { rememberAnswers } from './remember-answers.ts';

/** What checks look at. */
export interface Scene {
  readonly cluster: Cluster;
  /** Of the control plane. */
  readonly namespace: string;
  /** Of the data plane; '': all. */
  readonly only: string;
  readonly version: string;
  /** The newest version there is, by the command line; '': not said. */
  readonly expectedVersion: string;
  readonly wallMs: () => number;
}

/** `not applicable`: says nothing about this cluster and is left out. */
export type Look = (scene: Scene) => Promise<void | 'not applicable'>;

export interface Check {
  readonly text: string;
  /** Of docs/checks.md. */
  readonly anchor: string;
  /** fatal: nothing after it would mean anything. warning: the mesh works. */
  readonly kind?: 'fatal' | 'warning';
  /** It may come right by itself, as pods start. */
  readonly retry?: true;
  /** Throws what is wrong. */
  readonly look: Look;
}

export interface Category {
  readonly name: string;
  readonly checks: readonly Check[];
}

/** What a check found: a message for the person who runs it. */
export class Problem extends Error {}

/** A problem with a list under it. */
export const listProblem = (title: string, items: readonly string[]): Problem =>
  new Problem([title, ...items.map((item) => `\t* ${item}`)].join('\n'));

export interface CheckResult {
  readonly category: string;
  readonly check: Pick<Check, 'text' | 'anchor'>;
  readonly result: 'success' | 'warning' | 'error';
  readonly error?: string;
}

export interface RunOptions {
  /** For all retried checks together. */
  readonly waitMs: number;
  readonly nowMs: () => number;
  readonly sleep: (ms: number) => Promise<unknown>;
  readonly tell: (result: CheckResult) => void;
}

const RETRY_MS = 5_000;

/** Whether nothing but warnings was found. */
export async function runChecks(
  categories: readonly Category[],
  scene: Scene,
  options: RunOptions,
): Promise<boolean> {
  const deadlineMs = options.nowMs() + options.waitMs;
  const cluster = rememberAnswers(scene.cluster);
  const sleep = (ms: number): Promise<unknown> => options.sleep(ms).then(() => cluster.forget());
  let good = true;
  for (const { name, checks } of categories) {
    for (const check of checks) {
      const outcome = await lookUntil(check, { ...scene, cluster }, deadlineMs, { ...options, sleep });
      if (outcome === 'not applicable') continue;
      if (outcome === undefined) {
        options.tell({ category: name, check, result: 'success' });
        continue;
      }
      const result = check.kind === 'warning' ? 'warning' : 'error';
      options.tell({ category: name, check, result, error: outcome.message });
      if (result === 'error') good = false;
      if (check.kind === 'fatal') return good;
    }
  }
  return good;
}

async function lookUntil(
  check: Check,
  scene: Scene,
  deadlineMs: number,
  { nowMs, sleep }: RunOptions,
): Promise<Problem | 'not applicable' | undefined> {
  for (;;) {
    const outcome = await lookOnce(check, scene);
    if (!(outcome instanceof Problem) || check.retry !== true || nowMs() + RETRY_MS > deadlineMs)
      return outcome;
    await sleep(RETRY_MS);
  }
}

async function lookOnce(check: Check, scene: Scene): Promise<Problem | 'not applicable' | undefined> {
  try {
    return (await check.look(scene)) ?? undefined;
  } catch (error) {
    return error instanceof Problem ? error : new Problem(errorMessage(error));
  }
}
