// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { linearRegExp } from './linear-regexp.ts';

describe('expressions of linear time', () => {
  test('match whole texts only', () => {
    const digits = linearRegExp('/item/[0-9]+|/x');
    assert.ok(digits.test('/item/17'));
    assert.ok(digits.test('/x'));
    assert.ok(!digits.test('/item/17/'));
    assert.ok(!digits.test('//x'));
  });

  test('take no time that grows with more than the length', () => {
    const began = performance.now();
    assert.ok(!linearRegExp('(a+)+b').test('a'.repeat(20_000)));
    // Backtracking would take longer than the universe is old.
    assert.ok(performance.now() - began < 5_000);
  });

  test('what cannot be run so, or is none, is refused with the reason', () => {
    assert.throws(() => linearRegExp('(a)\\1'), /linear time/);
    assert.throws(() => linearRegExp('(?=a)b'), /linear time/);
    assert.throws(() => linearRegExp('a{1,100000}'), /linear time/);
    assert.throws(() => linearRegExp('('), /Unterminated group/);
    assert.throws(() => linearRegExp('a)(b'), /Unmatched/);
    assert.throws(() => linearRegExp('a'.repeat(4_097)), /longer than 4096/);
  });

  test('work in a worker thread too', async () => {
    const module = JSON.stringify(new URL('linear-regexp.ts', import.meta.url).href);
    const source = `const { linearRegExp } = await import(${module});
      const { parentPort } = await import('node:worker_threads');
      parentPort.postMessage(linearRegExp('(a|aa)+').test('a'.repeat(5000)));`;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`));
    assert.equal(await new Promise((resolve) => worker.once('message', resolve)), true);
  });
});
