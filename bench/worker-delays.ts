// SPDX-License-Identifier: Apache-2.0
// How long the event loops of proxy workers were held up, and when. Preloaded into the agents with BENCH_DELAYS set to a
// folder, each worker looks every millisecond and writes there what came late; `readDelays` reads it.

import { appendFileSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isMainThread, threadId } from 'node:worker_threads';

/** What is shorter is the timer's own. */
const LEAST_MS = 1;
const WRITE_MS = 200;

/** Of one worker: until when (Date.now()) it was held up, and for how long. */
export interface Delay {
  readonly endMs: number;
  readonly ms: number;
}

function watch(dir: string): void {
  const file = join(dir, `${process.pid}-${threadId}`);
  appendFileSync(file, '');
  let late: string[] = [];
  let before = performance.now();
  setInterval(() => {
    const now = performance.now();
    const ms = now - before - 1;
    before = now;
    if (ms > LEAST_MS) late.push(`${Date.now()} ${ms.toFixed(2)}\n`);
  }, 1).unref();
  setInterval(() => {
    if (late.length > 0) appendFileSync(file, late.join(''));
    late = [];
  }, WRITE_MS).unref();
}

export const delaysEnv = (dir: string): Readonly<Record<string, string>> => ({
  BENCH_DELAYS: dir,
  NODE_OPTIONS: `--import=${import.meta.filename}`,
});

/** Of the workers of these processes, once they have written what there is. */
export async function readDelays(dir: string, pids: readonly number[]): Promise<Delay[]> {
  await new Promise((resolve) => setTimeout(resolve, 2 * WRITE_MS));
  const files = readdirSync(dir).filter((name) => pids.includes(Number.parseInt(name, 10)));
  if (files.length === 0) throw new Error('no worker watches its delays');
  return files
    .flatMap((name) => readFileSync(join(dir, name), 'utf8').split('\n'))
    .filter((line) => line !== '')
    .map((line) => {
      const [endMs = Number.NaN, ms = Number.NaN] = line.split(' ').map(Number);
      return { endMs, ms };
    });
}

/** The longest one that fell, in part at least, between the two instants; 0 if there was none. */
export function longestDelay(delays: readonly Delay[], fromMs: number, toMs: number): number {
  let longest = 0;
  for (const { endMs, ms } of delays)
    if (endMs >= fromMs && endMs - ms <= toMs) longest = Math.max(longest, ms);
  return longest;
}

const dir = process.env['BENCH_DELAYS'];
if (dir !== undefined && !isMainThread) watch(dir);
