// SPDX-License-Identifier: Apache-2.0
// The kept corpus, which has what the fuzzer ever found, and some mutations of it that are the same each time.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readCorpus } from './corpus.ts';
import { mutate, seededRandom } from './mutate.ts';
import { targets } from './targets.ts';

const MUTATIONS = 5000;

for (const target of targets) {
  test(`${target.name}: the kept corpus breaks no promise`, () => {
    const corpus = readCorpus(target.name);
    assert.ok(corpus.length > 0);
    for (const { file, bytes } of corpus) {
      for (let seed = 0; seed < 20; seed++)
        assert.doesNotThrow(() => target.run(bytes, seededRandom(seed)), `${file}, seed ${seed}`);
    }
  });

  test(`${target.name}: nor do ${MUTATIONS} mutations of it`, () => {
    const corpus = readCorpus(target.name).map((input) => input.bytes);
    const random = seededRandom(1);
    for (let index = 0; index < MUTATIONS; index++) {
      const bytes = mutate(corpus, target.words, random);
      assert.doesNotThrow(() => target.run(bytes, random), bytes.toString('hex'));
    }
  });
}
