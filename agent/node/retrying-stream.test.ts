// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, it } from 'node:test';
import { type ClientReadableStream, Metadata } from '@grpc/grpc-js';
import { VirtualClock } from '#lib/core/clock.ts';
import { openRetryingStream } from './retrying-stream.ts';

/** A stream of which a test says what comes, and when it was opened. */
class FakeStream extends EventEmitter {
  readonly openedAtMs: number;
  constructor(openedAtMs: number) {
    super();
    this.openedAtMs = openedAtMs;
  }
  cancel(): void {}
}

describe('a stream that is opened again', () => {
  const start = () => {
    const clock = new VirtualClock();
    const opened: FakeStream[] = [];
    const stream = openRetryingStream({
      open: () => {
        const next = new FakeStream(clock.nowMs());
        opened.push(next);
        return next as unknown as ClientReadableStream<string>;
      },
      onMessage: () => undefined,
      onError: () => undefined,
      clock,
      // The longest pause of each.
      random: () => 1,
    });
    const last = (): FakeStream => {
      const found = opened.at(-1);
      assert.ok(found);
      return found;
    };
    return { clock, opened, last, stream };
  };

  it('pauses longer and longer for a server that answers and ends each one at once', () => {
    const { clock, opened, last } = start();
    const pauses: number[] = [];
    for (let attempt = 0; attempt < 8; attempt++) {
      last().emit('metadata', new Metadata());
      last().emit('end');
      const before = opened.length;
      while (opened.length === before) clock.advance(100);
      pauses.push(last().openedAtMs - (opened.at(-2)?.openedAtMs ?? 0));
    }
    assert.deepEqual(pauses, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
  });

  it('begins with the shortest pause again once a stream has lasted', () => {
    const { clock, opened, last } = start();
    const endAnd = (pauseMs: number): void => {
      const before = opened.length;
      last().emit('end');
      clock.advance(pauseMs - 1);
      assert.equal(opened.length, before);
      clock.advance(1);
      assert.equal(opened.length, before + 1);
    };
    for (const pauseMs of [200, 400, 800]) endAnd(pauseMs);
    last().emit('metadata', new Metadata());
    clock.advance(10_000);
    endAnd(200);
  });

  it('is not opened again once closed', () => {
    const { clock, opened, last, stream } = start();
    last().emit('end');
    stream.close();
    clock.advance(60_000);
    assert.equal(opened.length, 1);
  });
});
