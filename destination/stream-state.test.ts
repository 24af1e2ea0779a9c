// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, it } from 'node:test';
import type { Watch } from '#lib/registry/registry.ts';
import type { ClusterIndex } from './cluster-index.ts';
import { StreamState } from './stream-state.ts';

/** A stream whose client reads when told to. */
class SlowStream extends EventEmitter {
  readonly written: number[] = [];
  full = false;

  write(message: number): boolean {
    this.written.push(message);
    return !this.full;
  }

  end(): void {
    this.emit('close');
  }
}

class Subscriptions {
  readonly open = new Set<() => void>();

  subscribe(_: unknown, changed: () => void): Watch {
    this.open.add(changed);
    return { close: () => void this.open.delete(changed) };
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
    stream.emit('drain');
    assert.deepEqual(stream.written, [0, 1000]);
    stream.emit('drain');
    assert.deepEqual(stream.written, [0, 1000]);
  });

  it('lets go of the index however the stream ends', () => {
    for (const event of ['cancelled', 'close', 'error']) {
      const { stream, subscriptions, state } = make(() => [1]);
      assert.equal(subscriptions.open.size, 1);
      stream.emit(event, new Error('gone'));
      assert.equal(subscriptions.open.size, 0);
      state.follow([{ kind: 'ip', cluster: 'local', ip: '10.0.0.1' }]);
      assert.equal(subscriptions.open.size, 0);
      state.refresh();
      assert.deepEqual(stream.written, []);
    }
  });

  it('an error of the lookup ends the stream with it', () => {
    const { stream, subscriptions, state } = make(() => {
      throw new Error('no such service');
    });
    const told: unknown[] = [];
    stream.on('error', (error) => told.push(error));
    state.refresh();
    assert.match(String(told[0]), /no such service/);
    assert.equal(subscriptions.open.size, 0);
  });
});
