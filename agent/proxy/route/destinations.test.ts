// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { describe, test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import type { Destination, FromWorker } from '../model.ts';
import { Destinations } from './destinations.ts';

const unknown: Destination = { kind: 'unknown' };

function setUp() {
  const clock = new VirtualClock();
  const posted: FromWorker[] = [];
  return { clock, posted, destinations: new Destinations((message) => posted.push(message), clock) };
}

describe('destinations', () => {
  test('are asked for once, by client namespace and address, and shared', () => {
    const { posted, destinations } = setUp();
    const heard: string[] = [];
    const first = destinations.acquire('pod', 'shop', 'fd00::1', 80, () => heard.push('first'));
    const second = destinations.acquire('pod', 'shop', 'fd00::1', 80, () => heard.push('second'));
    destinations.acquire('pod', 'other', 'fd00::1', 80, () => heard.push('other'));
    assert.deepEqual(
      posted.map((message) => (message.type === 'discover' ? message.key : message.type)),
      ['shop|[fd00::1]:80', 'other|[fd00::1]:80'],
    );
    assert.equal(first?.current, undefined);
    destinations.set('shop|[fd00::1]:80', unknown);
    destinations.set('nobody|asked:1', unknown);
    assert.deepEqual(heard, ['first', 'second']);
    assert.equal(second?.current, unknown);
    assert.equal(destinations.acquire('pod', 'shop', 'fd00::1', 80, () => undefined)?.current, unknown);
  });

  test('are forgotten five seconds after the last release, not before', () => {
    const { clock, posted, destinations } = setUp();
    const first = destinations.acquire('pod', 'shop', '10.0.0.1', 80, () => undefined);
    const second = destinations.acquire('pod', 'shop', '10.0.0.1', 80, () => undefined);
    first?.release();
    first?.release();
    clock.advance(60_000);
    assert.equal(posted.length, 1);
    second?.release();
    clock.advance(4_999);
    const third = destinations.acquire('pod', 'shop', '10.0.0.1', 80, () => undefined);
    clock.advance(60_000);
    third?.release();
    clock.advance(5_000);
    assert.deepEqual(posted.at(-1), { type: 'forget', key: 'shop|10.0.0.1:80' });
    assert.equal(destinations.size, 0);
  });

  test('have a limit; one past it is refused', () => {
    const { destinations } = setUp();
    for (let port = 1; port <= 10_000; port++) {
      assert.ok(destinations.acquire(`pod-${port % 5}`, 'shop', '10.0.0.1', port, () => undefined));
    }
    assert.equal(
      destinations.acquire('other', 'shop', '10.0.0.1', 10_001, () => undefined),
      undefined,
    );
    assert.ok(destinations.acquire('other', 'shop', '10.0.0.1', 10_000, () => undefined));
  });

  test('one pod that asks for too many is refused further ones, and nobody else is', () => {
    const { clock, destinations } = setUp();
    const handles = [];
    for (let port = 1; port <= 2_500; port++) {
      const handle = destinations.acquire('scanner', 'shop', '10.0.0.1', port, () => undefined);
      assert.ok(handle);
      handles.push(handle);
    }
    const more = () => destinations.acquire('scanner', 'shop', '10.0.0.2', 80, () => undefined);
    assert.equal(more(), undefined);
    assert.ok(
      destinations.acquire('scanner', 'shop', '10.0.0.1', 1, () => undefined),
      'what is known',
    );
    assert.ok(destinations.acquire('other', 'shop', '10.0.0.3', 80, () => undefined));
    assert.ok(
      destinations.acquire('scanner', 'shop', '10.0.0.3', 80, () => undefined),
      'what another pod has asked for',
    );
    handles[1]?.release();
    clock.advance(5_000);
    assert.ok(more());
    assert.equal(
      destinations.acquire('scanner', 'shop', '10.0.0.4', 80, () => undefined),
      undefined,
    );
  });
});
