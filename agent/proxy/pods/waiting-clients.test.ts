// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { Socket } from 'node:net';
import { describe, it } from 'node:test';
import { WAITING_MAX, WAITING_SURE_MS, WaitingClients } from './waiting-clients.ts';

describe('clients that have not said who they are', () => {
  const filled = () => {
    const waiting = new WaitingClients();
    const sockets = Array.from({ length: WAITING_MAX }, () => new Socket());
    for (const socket of sockets) assert.deepEqual(waiting.add(socket, 0), []);
    return { waiting, sockets };
  };

  it('past the limit the longest waiting one gives its place to a new one', () => {
    const { waiting, sockets } = filled();
    assert.deepEqual(waiting.add(new Socket(), WAITING_SURE_MS), [sockets[0]]);
    assert.deepEqual(waiting.add(new Socket(), WAITING_SURE_MS), [sockets[1]]);
    assert.equal(waiting.size, WAITING_MAX);
  });

  it('whoever has spoken up is not among them', () => {
    const { waiting, sockets } = filled();
    const [first, second] = sockets;
    assert.ok(first !== undefined && second !== undefined);
    waiting.remove(first);
    assert.deepEqual(waiting.add(new Socket(), WAITING_SURE_MS), []);
    assert.deepEqual(waiting.add(new Socket(), WAITING_SURE_MS), [second]);
  });

  it('a burst is let be for a moment', () => {
    const { waiting } = filled();
    for (let more = 1; more <= 100; more++) {
      assert.deepEqual(waiting.add(new Socket(), WAITING_SURE_MS - 1), []);
      assert.equal(waiting.size, WAITING_MAX + more);
    }
    // Then those give way for whom there is no room, the longest waiting first, a few for each that comes.
    for (let rest = 100; rest > 0; rest -= 7)
      assert.ok(waiting.add(new Socket(), WAITING_SURE_MS).length > 1, `${rest} too many`);
    assert.equal(waiting.size, WAITING_MAX);
  });
});
