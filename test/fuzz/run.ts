// SPDX-License-Identifier: Apache-2.0
// Feeds the codecs with mutations of the kept corpus for a while: `make fuzz FUZZ_TIME=600`, or
// `node test/fuzz/run.ts SECONDS [TARGET…]` with FUZZ_SEED to repeat a run. Inputs that break a promise are made
// smaller and kept in the corpus; then it ends with 1.

import { keepFinding, seedsOf } from './corpus.ts';
import { mutate, seededRandom } from './mutate.ts';
import { type FuzzTarget, targets } from './targets.ts';

const BATCH = 500;
/** Findings of one target; more are most likely the same. */
const FINDINGS_MAX = 5;
const SHRINK_STEPS_MAX = 2000;

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What is wrong with an input, wherever it is split; or undefined. */
async function problemOf(target: FuzzTarget, bytes: Buffer): Promise<string | undefined> {
  for (let seed = 0; seed < 20; seed++) {
    try {
      await target.run(bytes, seededRandom(seed));
    } catch (error) {
      return messageOf(error);
    }
  }
  return undefined;
}

async function shrink(target: FuzzTarget, bytes: Buffer): Promise<Buffer> {
  let smallest = bytes;
  let steps = 0;
  for (let size = bytes.length >> 1; size > 0; size >>= 1) {
    for (let at = 0; at + size <= smallest.length && steps < SHRINK_STEPS_MAX; steps++) {
      const candidate = Buffer.concat([smallest.subarray(0, at), smallest.subarray(at + size)]);
      if ((await problemOf(target, candidate)) === undefined) at += size;
      else smallest = candidate;
    }
  }
  return smallest;
}

/** Number of findings. */
async function fuzz(target: FuzzTarget, seconds: number, seed: number): Promise<number> {
  const random = seededRandom(seed);
  const corpus = seedsOf(target).map((input) => input.bytes);
  const until = performance.now() + seconds * 1000;
  let inputs = 0;
  let found = 0;
  while (performance.now() < until && found < FINDINGS_MAX) {
    for (let index = 0; index < BATCH && found < FINDINGS_MAX; index++) {
      const bytes = mutate(corpus, target.words, random);
      inputs++;
      try {
        const running = target.run(bytes, random);
        if (running !== undefined) await running;
      } catch (error) {
        found++;
        const small = (await problemOf(target, bytes)) === undefined ? bytes : await shrink(target, bytes);
        const why = (await problemOf(target, small)) ?? messageOf(error);
        console.log(`${target.name}: ${why}\n  kept as ${keepFinding(target.name, small, why)}`);
      }
    }
  }
  console.log(
    `${target.name}: ${inputs} inputs in ${seconds.toFixed(0)} s, ${found} findings (seed ${seed})`,
  );
  return found;
}

const seconds = Number(process.argv[2] ?? 60);
const names = process.argv.slice(3);
const chosen = targets.filter((target) => names.length === 0 || names.includes(target.name));
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 1_000_000_000);
if (!(seconds > 0) || chosen.length === 0) {
  console.error(`usage: run.ts SECONDS [${targets.map((target) => target.name).join('|')}]`);
  process.exitCode = 2;
} else {
  let findings = 0;
  for (const target of chosen) findings += await fuzz(target, seconds / chosen.length, seed);
  process.exitCode = findings === 0 ? 0 : 1;
}
