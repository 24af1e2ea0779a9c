// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { byWeight, firstAvailable } from './distribution.ts';

const backend = (name: string, weight: number, available = true) => ({ name, weight, available });

describe('sharing between backends', () => {
  test('C-297 nobody: nothing is picked', () => {
    assert.equal(firstAvailable([]), undefined);
    assert.equal(
      byWeight([], () => 0),
      undefined,
    );
    assert.equal(
      byWeight([backend('a', 1, false)], () => 0),
      undefined,
    );
    assert.equal(
      byWeight([backend('a', 0)], () => 0),
      undefined,
    );
  });

  test('C-297 the first available in their order', () => {
    const backends = [backend('a', 1, false), backend('b', 0), backend('c', 5)];
    assert.equal(firstAvailable(backends)?.name, 'b');
  });

  test('C-297 at random by weight, then by availability; the same may stand there twice', () => {
    const shares = (backends: readonly ReturnType<typeof backend>[]): Record<string, number> => {
      const counts: Record<string, number> = {};
      for (let draw = 0; draw < 1_000; draw++) {
        const name = byWeight(backends, () => (draw + 0.5) / 1_000)?.name ?? 'none';
        counts[name] = (counts[name] ?? 0) + 1;
      }
      return counts;
    };
    assert.deepEqual(shares([backend('a', 9), backend('zero', 0), backend('b', 1)]), { a: 900, b: 100 });
    assert.deepEqual(shares([backend('a', 8, false), backend('b', 1), backend('c', 1)]), { b: 500, c: 500 });
    assert.deepEqual(shares([backend('a', 1), backend('b', 2), backend('a', 1)]), { a: 500, b: 500 });
  });
});
