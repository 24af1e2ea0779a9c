// SPDX-License-Identifier: Apache-2.0
// The kept corpus, which has what the fuzzer ever found, and some mutations of it that are the same each time.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { seedsOf } from './corpus.ts';
import { mutate, seededRandom } from './mutate.ts';
import { targets } from './targets.ts';

const MUTATIONS = 5000;

for (const target of targets) {
  test(`${target.name}: the kept corpus breaks no promise`, async () => {
    const corpus = seedsOf(target);
    assert.ok(corpus.length > 0);
    for (const { file, bytes } of corpus) {
      for (let seed = 0; seed < 20; seed++)
        await assert.doesNotReject(
          async () => target.run(bytes, seededRandom(seed)),
          `${file}, seed ${seed}`,
        );
    }
  });

  test(`${target.name}: nor do ${MUTATIONS} mutations of it`, async () => {
    const corpus = seedsOf(target).map((input) => input.bytes);
    const random = seededRandom(1);
    for (let index = 0; index < MUTATIONS; index++) {
      const bytes = mutate(corpus, target.words, random);
      await assert.doesNotReject(async () => target.run(bytes, random), bytes.toString('hex'));
    }
  });
}
