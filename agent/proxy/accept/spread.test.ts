// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { seededRandom } from '#lib/core/clock.ts';
import { OPAQUE_SLACK, WorkerLoads } from './spread.ts';

const make = (count: number) => {
  const shared = new SharedArrayBuffer(4 * count);
  const workers = Array.from({ length: count }, (_, index) => new WorkerLoads(shared, index));
  return { workers, loads: new Int32Array(shared) };
};

test('wherever eight long connections are accepted, each of four workers gets two', () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = seededRandom(seed);
    const { workers, loads } = make(4);
    for (let n = 0; n < 8; n++) workers[Math.floor(random() * 4)]?.assign(0);
    assert.deepEqual([...loads], [2, 2, 2, 2]);
  }
});

test('two that choose at the same moment do not choose the same worker', (t) => {
  const { workers, loads } = make(4);
  const [first, second] = workers as [WorkerLoads, WorkerLoads];
  loads.set([1, 1, 0, 0]);
  const write = Atomics.compareExchange.bind(Atomics);
  let wrote = 0;
  t.mock.method(Atomics, 'compareExchange', (cells: Int32Array, at: number, seen: number, next: number) => {
    // The first has looked at all of them, and not chosen yet.
    if (++wrote === 1) assert.equal(second.assign(0), 2);
    return write(cells, at, seen, next);
  });
  assert.equal(first.assign(0), 3);
  assert.deepEqual([...loads], [1, 1, 1, 1]);
});

test('a worker keeps a connection that it would not be better to move', () => {
  const { workers, loads } = make(2);
  const [first, second] = workers as [WorkerLoads, WorkerLoads];
  assert.equal(first.assign(0), 0);
  assert.equal(second.assign(0), 1);
  assert.equal(first.assign(0), 0, 'as many as the other');
  assert.equal(first.assign(0), 1);
  first.ended();
  assert.equal(second.assign(0), 0);
  assert.deepEqual([...loads], [2, 2]);
});

test('opaque connections, which may be short, stay until a worker has clearly more', () => {
  const { workers, loads } = make(2);
  const [first] = workers as [WorkerLoads];
  for (let n = 0; n <= OPAQUE_SLACK; n++) assert.equal(first.assign(OPAQUE_SLACK), 0);
  assert.equal(first.assign(OPAQUE_SLACK), 1);
  assert.deepEqual([...loads], [OPAQUE_SLACK + 1, 1]);
});
