// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { array, assert as holds, boolean, integer, property, record } from 'fast-check';
import { MeshError } from '#lib/core/errors.ts';
import { DescriptorTable } from './descriptor-table.ts';

test('holds exactly what was added and not removed, whatever the order', () => {
  const step = record({ add: boolean(), fd: integer({ min: 0, max: 40 }) });
  holds(
    property(array(step, { maxLength: 200 }), (steps) => {
      const table = DescriptorTable.create(8);
      const model = new Set<number>();
      for (const { add, fd } of steps) {
        if (add && !model.has(fd) && model.size < 8) {
          table.add(fd);
          model.add(fd);
        } else if (!add) {
          table.remove(fd);
          model.delete(fd);
        }
        assert.equal(table.has(fd), model.has(fd));
      }
      assert.deepEqual(new Set(table.sweep()), model);
    }),
  );
});

test('refuses one more than there is room for, and takes it when another has gone', () => {
  const table = DescriptorTable.create(3);
  for (const fd of [3, 6, 9]) table.add(fd);
  assert.throws(
    () => table.add(4),
    (error) => error instanceof MeshError && error.code === 'MESH_LIMIT',
  );
  table.remove(6);
  table.add(4);
  assert.deepEqual(new Set(table.sweep()), new Set([3, 9, 4]));
});

test('is seen by whoever shares the memory', () => {
  const table = DescriptorTable.create(4);
  table.add(0);
  assert.deepEqual(new DescriptorTable(table.shared).sweep(), [0]);
  assert.equal(table.has(0), false);
});
