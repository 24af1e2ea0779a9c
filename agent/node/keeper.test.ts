// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { seededRandom, VirtualClock } from '#lib/core/clock.ts';
import { MeshError } from '#lib/core/errors.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import type { KeeperClient, KeptDescriptor, Role } from '#lib/keeper/client.ts';
import type { KeeperStats } from '#lib/keeper/wire.ts';
import { createKeeper, type Keeper } from './keeper.ts';

/** A keeper as its protocol has it, without sockets. */
class FakeKeeper {
  readonly entries = new Map<string, number>();
  blob: Buffer | undefined;
  blobs = 0;
  holder: FakeClient | undefined;
  up = true;
  refuses = '';
  #descriptors = 1000;

  descriptor(): number {
    return ++this.#descriptors;
  }

  restart(): void {
    this.entries.clear();
    this.blob = undefined;
    this.holder = undefined;
  }
}

class FakeClient implements KeeperClient {
  closed = false;
  readonly keeper: FakeKeeper;

  constructor(keeper: FakeKeeper) {
    if (!keeper.up) throw new Error('no keeper');
    this.keeper = keeper;
  }

  #check(): void {
    if (this.closed || !this.keeper.up) {
      this.closed = true;
      throw new MeshError('MESH_KEEPER_UNAVAILABLE', 'broken');
    }
  }

  list() {
    this.#check();
    const descriptors: KeptDescriptor[] = [...this.keeper.entries.keys()].map((key) => ({
      key,
      meta: Buffer.alloc(0),
      fd: this.keeper.descriptor(),
    }));
    return { descriptors, blob: this.keeper.blob };
  }

  put(key: string, _meta: Buffer, fd: number): void {
    this.#check();
    if (this.keeper.refuses === key) throw new MeshError('MESH_KEEPER_REFUSED', 'full');
    this.keeper.entries.set(key, fd);
  }

  remove(prefix: string): number {
    this.#check();
    let removed = 0;
    for (const key of this.keeper.entries.keys())
      if (key.startsWith(prefix)) {
        this.keeper.entries.delete(key);
        removed++;
      }
    return removed;
  }

  setBlob(bytes: Buffer): void {
    this.#check();
    this.keeper.blob = bytes;
    this.keeper.blobs++;
  }

  hold(): void {
    this.#check();
    this.keeper.holder = this;
  }

  beat(): Role {
    this.#check();
    const { holder } = this.keeper;
    if (holder === undefined) return 'nobody';
    return holder === this ? 'holder' : 'other';
  }

  stats(): KeeperStats {
    this.#check();
    const { entries, holder } = this.keeper;
    const zero = { entriesMax: 9, clients: 1, limitMs: 30_000, shutdowns: 0, refused: 0, dropped: 0 };
    const holderAgeMs = holder === undefined ? undefined : 5;
    return { ...zero, entries: entries.size, holderAgeMs, blobBytes: 0, uptimeMs: 0 };
  }

  close(): void {
    this.closed = true;
    if (this.keeper.holder === this) this.keeper.holder = undefined;
  }
}

describe("the agent's side of the keeper", () => {
  let clock: VirtualClock;
  let keeper: FakeKeeper;
  let lines: LogLine[];
  const roles = new Map<Keeper, string[]>();
  const make = (): Keeper => {
    const heard: string[] = [];
    const made = createKeeper({
      connect: () => new FakeClient(keeper),
      snapshot: () => Buffer.from('snapshot'),
      onRole: (role) => heard.push(role),
      onForgotten: () => heard.push('forgotten'),
      clock,
      random: seededRandom(1),
      log: recordingLog(lines),
    });
    roles.set(made, heard);
    return made;
  };
  const heard = (one: Keeper): string[] => roles.get(one) ?? [];

  beforeEach(() => {
    clock = new VirtualClock();
    keeper = new FakeKeeper();
    lines = [];
  });

  it('tells what the keeper says of itself, nothing without one, and counts its returns', () => {
    const agent = make();
    assert.equal(agent.stats()?.holderAgeMs, undefined);
    agent.hold();
    agent.put('a/inbound/4/0', 7);
    assert.deepEqual([agent.stats()?.entries, agent.stats()?.holderAgeMs], [1, 5]);
    keeper.up = false;
    assert.equal(agent.stats(), undefined);
    assert.deepEqual([agent.connected, agent.failures, agent.reconnects], [false, 1, 0]);
    keeper.up = true;
    clock.advance(10_000);
    assert.deepEqual([agent.stats()?.entries, agent.reconnects], [1, 1]);
  });

  it('keeps listeners at once and the snapshot at most once a second, when it changed', () => {
    const agent = make();
    agent.hold();
    agent.put('a/inbound/4/0', 7);
    assert.deepEqual([...keeper.entries], [['a/inbound/4/0', 7]]);
    for (let turn = 0; turn < 5; turn++) agent.touch();
    assert.equal(keeper.blobs, 0);
    clock.advance(1000);
    assert.equal(keeper.blobs, 1);
    clock.advance(10_000);
    assert.equal(keeper.blobs, 1);
    agent.touch();
    clock.advance(1000);
    assert.equal(keeper.blobs, 2);
    agent.remove('a/');
    assert.equal(keeper.entries.size, 0);
  });

  it('puts everything again into a keeper that was started anew, and says once that it was away', () => {
    const agent = make();
    agent.hold();
    agent.put('a/inbound/4/0', 7);
    clock.advance(1000);
    keeper.up = false;
    keeper.restart();
    clock.advance(60_000);
    assert.equal(agent.connected, false);
    agent.put('b/inbound/4/0', 8);
    agent.remove('a/');
    keeper.up = true;
    clock.advance(11_000);
    assert.deepEqual([...keeper.entries], [['b/inbound/4/0', 8]]);
    assert.ok(keeper.blob);
    assert.ok(keeper.holder);
    assert.equal(lines.filter(({ message }) => message.startsWith('no keeper')).length, 1);
    assert.ok(agent.failures > 1);
    assert.deepEqual(heard(agent), []);
  });

  it('a keeper that was started anew knows the pods as soon as it has their listeners', () => {
    const agent = make();
    agent.hold();
    agent.put('a/inbound/4/0', 7);
    clock.advance(1000);
    assert.equal(keeper.blobs, 1);
    keeper.up = false;
    keeper.restart();
    clock.advance(1000);
    keeper.up = true;
    for (let ms = 0; ms < 5000 && keeper.entries.size === 0; ms++) clock.advance(1);
    assert.equal(keeper.entries.size, 1);
    assert.ok(keeper.blob);
  });

  it('hands the role over, writes nothing then, and takes it back when the other is gone', () => {
    const old = make();
    old.hold();
    old.put('a/inbound/4/0', 7);
    clock.advance(1000);
    const next = make();
    assert.deepEqual(
      next.take().listeners.map(({ key }) => key),
      ['a/inbound/4/0'],
    );
    next.hold();
    clock.advance(1000);
    assert.equal(old.role, 'standby');
    assert.deepEqual(heard(old), ['standby']);
    const { blobs } = keeper;
    old.put('late/inbound/4/0', 9);
    old.touch();
    old.remove('a/');
    clock.advance(5000);
    assert.equal(keeper.blobs, blobs);
    assert.equal(keeper.entries.has('late/inbound/4/0'), false);
    next.close();
    clock.advance(1000);
    assert.equal(old.role, 'holder');
    assert.deepEqual(heard(old), ['standby', 'holder']);
  });

  it('an agent that is about to end does not take the role back', () => {
    const old = make();
    old.hold();
    const next = make();
    next.hold();
    clock.advance(1000);
    old.retire();
    next.close();
    clock.advance(60_000);
    assert.equal(old.role, 'standby');
  });

  it('after a restart of the keeper the holder of before comes before the one that stands by', () => {
    const old = make();
    old.hold();
    const next = make();
    next.hold();
    clock.advance(1000);
    keeper.up = false;
    keeper.restart();
    clock.advance(1000);
    keeper.up = true;
    clock.advance(4000);
    assert.equal(next.role, 'holder');
    assert.equal(old.role, 'standby');
  });

  it('a holder that the keeper gave up takes the role again and has its listeners checked', () => {
    const agent = make();
    agent.hold();
    agent.put('a/inbound/4/0', 7);
    keeper.restart();
    clock.advance(1000);
    assert.deepEqual([...keeper.entries.keys()], ['a/inbound/4/0']);
    assert.deepEqual(heard(agent), ['forgotten']);
  });

  it('what the keeper refuses is said and counted; the rest is kept, and the connection', () => {
    const agent = make();
    agent.hold();
    keeper.refuses = 'b/inbound/4/0';
    for (const key of ['a/inbound/4/0', 'b/inbound/4/0', 'c/inbound/4/0']) agent.put(key, 7);
    assert.deepEqual([...keeper.entries.keys()], ['a/inbound/4/0', 'c/inbound/4/0']);
    assert.equal(agent.connected, true);
    assert.equal(agent.failures, 1);
  });

  it('a starting agent claims nothing and disturbs nobody', () => {
    const old = make();
    old.hold();
    const next = make();
    clock.advance(10_000);
    assert.equal(old.role, 'holder');
    assert.equal(next.role, 'starting');
    assert.deepEqual(heard(next), []);
  });
});
