// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { flattenStrings } from './flat-strings.ts';

it('texts stay what they are, wherever they stand', () => {
  const lone = '\ud800"\n\\';
  const long = 'x'.repeat(1000);
  const value: Record<string, unknown> = { a: lone, list: ['', { b: long }, 1, null, true], c: undefined };
  value['self'] = value;
  const expected: Record<string, unknown> = { a: lone, list: ['', { b: long }, 1, null, true], c: undefined };
  expected['self'] = expected;
  flattenStrings(value);
  assert.deepEqual(value, expected);
});

it('a text that is in use is told from one that is like it', () => {
  const value = Array.from({ length: 40_000 }, (_, index) => `text ${index % 20_000}`);
  const expected = [...value];
  flattenStrings(value);
  assert.deepEqual(value, expected);
});
