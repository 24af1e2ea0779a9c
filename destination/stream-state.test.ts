// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { CallListener, OutStream } from '#lib/grpc/call.ts';
import type { ClusterIndex, Subscriber } from './cluster-index.ts';
import { StreamState } from './stream-state.ts';

/** A stream whose client reads when told to. */
class SlowStream implements OutStream<number> {
  readonly written: number[] = [];
  readonly failures: unknown[] = [];
  full = false;
  ended = false;
  listener: CallListener | undefined;

  listen(listener: CallListener): void {
    this.listener = listener;
  }

  write(message: number): boolean {
    this.written.push(message);
    return !this.full;
  }

  end(): void {
    this.ended = true;
    this.listener?.ended?.();
  }

  fail(error: unknown): void {
    this.failures.push(error);
    this.end();
  }
}

class Subscriptions {
  readonly open = new Set<Subscriber>();

  subscribe(topics: readonly unknown[], subscriber: Subscriber): void {
    if (topics.length > 0) this.open.add(subscriber);
  }

  unsubscribe(topics: readonly unknown[], subscriber: Subscriber): void {
    if (topics.length > 0) this.open.delete(subscriber);
  }
}

describe('stream state', () => {
  const make = (difference: () => readonly number[]) => {
    const stream = new SlowStream();
    const subscriptions = new Subscriptions();
    const index = subscriptions as unknown as ClusterIndex;
    const state = new StreamState<number>({ index, stream, difference });
    state.follow([{ kind: 'namespaces' }]);
    return { stream, subscriptions, state };
  };

  it('computes nothing for a client that does not read, then only what holds by then', () => {
    let value = 0;
    let computed = 0;
    const { stream, state } = make(() => {
      computed++;
      return [value];
    });
    stream.full = true;
    state.refresh();
    for (value = 1; value < 1000; value++) state.refresh();
    assert.equal(computed, 1);
    stream.full = false;
    stream.listener?.drained?.();
    assert.deepEqual(stream.written, [0, 1000]);
    stream.listener?.drained?.();
    assert.deepEqual(stream.written, [0, 1000]);
  });

  it('lets go of the index when the stream ends', () => {
    const { stream, subscriptions, state } = make(() => [1]);
    assert.equal(subscriptions.open.size, 1);
    stream.end();
    assert.equal(subscriptions.open.size, 0);
    state.follow([{ kind: 'ip', cluster: 'local', ip: '10.0.0.1' }]);
    assert.equal(subscriptions.open.size, 0);
    state.refresh();
    assert.deepEqual(stream.written, []);
  });

  it('an error of the lookup ends the stream with it', () => {
    const { stream, subscriptions, state } = make(() => {
      throw new Error('no such service');
    });
    state.refresh();
    assert.match(String(stream.failures[0]), /no such service/);
    assert.equal(subscriptions.open.size, 0);
  });
});
