// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { seededRandom, VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import type { ApiCall, KubernetesApi } from './api-client.ts';
import { ApiFailure } from './api-failure.ts';
import { type Lease, startLease } from './lease.ts';

interface Stored {
  readonly metadata: { readonly resourceVersion: string };
  readonly spec?: Readonly<Record<string, unknown>>;
}

/** One Lease, with the conflicts of an API server. */
class FakeLeases {
  stored: Stored = { metadata: { resourceVersion: '1' } };
  writes = 0;

  async call({ method = 'GET', body }: ApiCall): Promise<unknown> {
    await Promise.resolve();
    if (method === 'GET') return structuredClone(this.stored);
    const given = body as Stored;
    if (given.metadata.resourceVersion !== this.stored.metadata.resourceVersion) {
      throw new ApiFailure(409, 'Conflict', 'the object has been modified');
    }
    this.writes++;
    const resourceVersion = String(Number(this.stored.metadata.resourceVersion) + 1);
    this.stored = { ...given, metadata: { resourceVersion } };
    return structuredClone(this.stored);
  }
}

describe('a lease', () => {
  let clock = new VirtualClock();
  let leases = new FakeLeases();
  let opened: Lease[] = [];
  let leaders = new Set<string>();
  const random = seededRandom(3);
  const away = new Set<string>();
  const hanging = new Set<string>();
  let hung: (() => void)[] = [];

  beforeEach(() => {
    clock = new VirtualClock();
    leases = new FakeLeases();
    opened = [];
    leaders = new Set();
    away.clear();
    hanging.clear();
  });
  afterEach(async () => {
    hanging.clear();
    for (const end of hung) end();
    hung = [];
    await Promise.all(opened.map(async (lease) => lease.close()));
  });

  function open(holder: string): Lease {
    const api: Pick<KubernetesApi, 'call'> = {
      async call(call) {
        if (hanging.has(holder)) {
          await new Promise<void>((resolve) => hung.push(resolve));
          throw new ApiFailure(0, 'Timeout', 'no answer');
        }
        if (away.has(holder)) throw new ApiFailure(0, 'Timeout', 'no answer');
        return await leases.call(call);
      },
    };
    const lease = startLease({
      api: api as KubernetesApi,
      namespace: 'nodemesh',
      name: 'test',
      holder,
      clock,
      random,
      log: silentLog,
      onChange(leading) {
        if (leading) leaders.add(holder);
        else leaders.delete(holder);
        assert.ok(leaders.size <= 1, `${[...leaders].join(' and ')} lead at once`);
      },
    });
    opened.push(lease);
    return lease;
  }

  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
  };
  async function pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 250) {
      clock.advance(Math.min(250, left));
      await settle();
    }
  }
  const leader = (): string => [...leaders].join();

  it('has one holder, who keeps it', async () => {
    for (const holder of ['a', 'b', 'c']) open(holder);
    await pass(60_000);
    const first = leader();
    assert.notEqual(first, '');
    await pass(120_000);
    assert.equal(leader(), first);
    assert.equal(leases.stored.spec?.['holderIdentity'], first);
    assert.equal(leases.stored.spec?.['leaseTransitions'], 1);
  });

  it('goes to another when its holder is silent for as long as it lasts, and not before', async () => {
    for (const holder of ['a', 'b', 'c']) open(holder);
    await pass(10_000);
    const first = leader();
    hanging.add(first);
    await pass(9_000);
    assert.ok(leader() === first || leader() === '', leader());
    await pass(10_000);
    assert.notEqual(leader(), '');
    assert.notEqual(leader(), first);
  });

  it('is given up by a holder that cannot renew, before anybody else may have it', async () => {
    open('a');
    await pass(5_000);
    open('b');
    away.add('a');
    await pass(11_000);
    assert.equal(leader(), '');
    await pass(8_000);
    assert.equal(leader(), 'b');
    away.clear();
    await pass(60_000);
    assert.equal(leader(), 'b', 'who comes back waits');
  });

  it('is let go of by who stops, so that another has it at once', async () => {
    const a = open('a');
    await pass(5_000);
    open('b');
    await pass(5_000);
    assert.equal(leader(), 'a');
    await a.close();
    await pass(3_000);
    assert.equal(leader(), 'b');
  });

  it('is not written while somebody else holds it', async () => {
    open('a');
    await pass(5_000);
    const { writes } = leases;
    hanging.add('a');
    open('b');
    await pass(8_000);
    assert.equal(leases.writes, writes);
  });
});
