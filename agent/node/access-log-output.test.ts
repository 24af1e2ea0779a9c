// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createAccessLogOutput } from './access-log-output.ts';

const failure = (code: string): Error => Object.assign(new Error(code), { code });

test('batches are written one after another, whatever part of a piece is taken at a time', async () => {
  const written: string[] = [];
  const output = createAccessLogOutput(async (bytes) => {
    written.push(bytes.toString('utf8', 0, 2));
    return Math.min(2, bytes.length);
  });
  const done: string[] = [];
  await new Promise<void>((resolve) => {
    output.take(['abc', 'd'], () => done.push('first'));
    output.take(['e'], () => {
      done.push('second');
      resolve();
    });
  });
  assert.equal(written.join(''), 'abcde');
  assert.deepEqual(done, ['first', 'second']);
});

test('a full pipe is waited for, one without a reader loses the piece and holds up nothing', async () => {
  const answers: (number | Error)[] = [failure('EAGAIN'), 1, failure('EPIPE'), 1];
  const output = createAccessLogOutput(async () => {
    const answer = answers.shift() ?? 0;
    if (answer instanceof Error) throw answer;
    return answer;
  });
  await new Promise<void>((resolve) => output.take(['a', 'b', 'c'], resolve));
  assert.equal(output.lost, 1);
  assert.deepEqual(answers, []);
});
