// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { seededRandom } from '#lib/core/clock.ts';
import { type Numbered, StreamTable } from './stream-table.ts';

describe('stream table', () => {
  test('agrees with a map, however long some streams live', () => {
    const random = seededRandom(7);
    for (const first of [1, 2]) {
      const table = new StreamTable<Numbered>();
      const map = new Map<number, Numbered>();
      for (let step = 0, id = first; step < 20_000; step++) {
        if (random() < 0.52) {
          const stream = { id };
          table.add(stream);
          map.set(id, stream);
          id += random() < 0.9 ? 2 : 200;
        } else if (map.size > 0) {
          // Mostly one of the newest; few stay to the end.
          const ids = [...map.keys()];
          const chosen = ids[ids.length - 1 - Math.floor(random() * Math.min(ids.length, 40))] as number;
          const stream = map.get(chosen) as Numbered;
          assert.equal(table.delete(stream), map.delete(chosen));
          assert.equal(table.delete(stream), false);
          assert.equal(table.get(chosen), undefined);
        }
        const asked = id - 2 * Math.floor(random() * 300);
        assert.equal(table.get(asked), map.get(asked));
        assert.equal(table.size, map.size);
      }
      assert.deepEqual(table.list(), [...map.values()]);
      assert.ok(map.size > 100);
    }
  });

  test('another stream of the same number is not the one that is here', () => {
    const table = new StreamTable<Numbered>();
    table.add({ id: 1 });
    assert.equal(table.delete({ id: 1 }), false);
    assert.equal(table.size, 1);
  });

  test('what is listed may be deleted', () => {
    const table = new StreamTable<Numbered>();
    for (let id = 1; id < 400; id += 2) table.add({ id });
    for (const stream of table.list()) assert.ok(table.delete(stream));
    assert.equal(table.size, 0);
    assert.deepEqual(table.list(), []);
  });
});
