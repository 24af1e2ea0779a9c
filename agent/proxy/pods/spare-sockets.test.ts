// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { describe, test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import type { WorkerKernel } from '../accept/kernel.ts';
import { SpareSockets } from './spare-sockets.ts';

function setUp() {
  const clock = new VirtualClock();
  const visits: number[] = [];
  const open = new Set<number>();
  let next = 100;
  const kernel: WorkerKernel = {
    openSockets(_netnsFd, _family, count) {
      visits.push(count);
      return Array.from({ length: count }, () => {
        open.add(next);
        return next++;
      });
    },
    duplicate: () => assert.fail('no duplicate is made'),
    openPair: () => [0, 0],
    keep: (fd) => void open.add(fd),
    handOver: (fd) => void open.delete(fd),
    closeDescriptor: (fd) => void open.delete(fd),
    readAccepted: () => undefined,
    markOwn: () => undefined,
    markCarrier: () => undefined,
    markClient: () => undefined,
  };
  return { clock, visits, open, spares: new SpareSockets(kernel, clock, 3) };
}

describe('spare sockets', () => {
  test('a quiet pod opens one at a time', () => {
    const { clock, visits, spares } = setUp();
    for (let count = 0; count < 3; count++) {
      spares.take(4);
      clock.advance(2_000);
    }
    assert.deepEqual(visits, [1, 1, 1]);
  });

  test('a busy pod opens more per visit, up to sixteen, and each is given once', () => {
    const { visits, spares } = setUp();
    const taken = Array.from({ length: 47 }, () => spares.take(4));
    assert.deepEqual(visits, [1, 2, 4, 8, 16, 16]);
    assert.equal(new Set(taken).size, 47);
  });

  test('families are kept apart', () => {
    const { visits, spares } = setUp();
    spares.take(4);
    spares.take(6);
    assert.deepEqual(visits, [1, 1]);
  });

  test('spares of an idle pod are closed, and all of them at the end', () => {
    const { clock, open, spares } = setUp();
    const take = (count: number): void => {
      for (let done = 0; done < count; done++) open.delete(spares.take(4));
    };
    take(4);
    assert.equal(open.size, 3);
    clock.advance(5_000);
    spares.sweep();
    assert.equal(open.size, 3);
    clock.advance(1);
    spares.sweep();
    assert.equal(open.size, 0);
    take(2);
    spares.close();
    assert.equal(open.size, 0);
  });
});
