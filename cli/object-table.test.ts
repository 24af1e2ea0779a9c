// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { age, formatTable } from './object-table.ts';

test('columns are as wide as their widest cell, without blanks at the end', () => {
  assert.equal(
    formatTable(
      ['A', 'B'],
      [
        ['long', ''],
        ['x', 'y'],
      ],
    ),
    'A     B\nlong\nx     y',
  );
});

test('ages are short', () => {
  const now = Date.parse('2026-01-10T00:00:00Z');
  const ages = [
    '2026-01-09T23:59:30Z',
    '2026-01-09T23:50:00Z',
    '2026-01-09T20:00:00Z',
    '2026-01-01T00:00:00Z',
  ];
  assert.deepEqual(
    ages.map((text) => age(text, now)),
    ['30s', '10m', '4h', '9d'],
  );
});
