// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { recordingLog } from '#lib/core/log.ts';
import { createKeptListeners, type KeptListeners } from './kept-listeners.ts';

describe('kept listeners', () => {
  let events: string[];
  let dead: Set<number>;
  let kept: KeptListeners;
  beforeEach(() => {
    events = [];
    dead = new Set();
    kept = createKeptListeners({
      keeper: {
        put: (key, fd) => events.push(`put ${key} ${fd}`),
        remove: (prefix) => events.push(`remove ${prefix}`),
      },
      listens: (fd) => !dead.has(fd),
      closeDescriptor: (fd) => events.push(`close ${fd}`),
      log: recordingLog(),
    });
  });

  it('go to the pod that they were made for, once', () => {
    kept.load([
      { key: 'a/inbound/4/0', fd: 10 },
      { key: 'a/outbound/6/15', fd: 11 },
      { key: 'b/inbound/4/0', fd: 12 },
    ]);
    assert.deepEqual(kept.adopt('a'), [
      { direction: 'inbound', family: 4, slot: 0, fd: 10 },
      { direction: 'outbound', family: 6, slot: 15, fd: 11 },
    ]);
    assert.deepEqual(kept.adopt('a'), []);
    assert.deepEqual(events, []);
  });

  it('that do not listen any more are closed, not adopted', () => {
    kept.load([
      { key: 'a/inbound/4/0', fd: 10 },
      { key: 'a/inbound/4/1', fd: 11 },
    ]);
    dead.add(10);
    assert.deepEqual(
      kept.adopt('a').map(({ fd }) => fd),
      [11],
    );
    assert.deepEqual(events, ['close 10']);
    assert.deepEqual(kept.counts, { adopted: 1, dead: 1 });
  });

  it('that nobody claims are given up by the sweep, and by a pod that goes', () => {
    kept.load([
      { key: 'a/inbound/4/0', fd: 10 },
      { key: 'b/inbound/4/0', fd: 11 },
    ]);
    kept.forget('a');
    assert.equal(kept.sweep(), 1);
    assert.deepEqual(events, ['close 10', 'remove a/', 'close 11', 'remove b/']);
  });

  it('under foreign keys are closed and left to whoever put them there', () => {
    kept.load([
      { key: 'a/sideways/4/0', fd: 10 },
      { key: 'a/inbound/4/x', fd: 11 },
    ]);
    assert.deepEqual(events, ['close 10', 'close 11']);
  });

  it('are kept under their pod, direction, family and slot', () => {
    kept.keep('a', { direction: 'outbound', family: 6, slot: 3, fd: 9 });
    assert.deepEqual(events, ['put a/outbound/6/3 9']);
  });
});
