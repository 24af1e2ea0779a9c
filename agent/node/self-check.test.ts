// SPDX-License-Identifier: Apache-2.0
// When the self-check runs, what it counts and whom it tells; what is compared is in test/bpf/self-check.test.ts.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import { createSelfCheck } from './self-check.ts';
import type { Difference } from './self-check-difference.ts';

function setUp() {
  const clock = new VirtualClock();
  const log = recordingLog();
  const told: string[] = [];
  const now = {
    node: [] as Difference[],
    pod: [] as Difference[],
    inode: 7n as bigint | undefined,
    nodeChecks: 0,
    unsound: [] as string[],
    deadListeners: 0,
    astray: '',
    gone: false,
    others: 0,
    listed: 0,
  };
  const others = () =>
    Array.from({ length: now.others }, (_, at) => ({
      uid: `o${at}`,
      name: `shop/other-${at}`,
      netnsPath: '/run/netns/other',
    }));
  const check = createSelfCheck({
    redirection: {
      checkNode: () => {
        now.nodeChecks++;
        return now.node;
      },
      *checkInflight() {
        yield undefined;
        return [];
      },
      unsound: () => now.unsound,
      podChecks: () => [
        { uid: 'u1', inode: () => 7n, testable: () => ({ netnsFd: 5, family: 4 }), check: () => now.pod },
        ...others().map(({ uid }) => ({
          uid,
          inode: () => 7n,
          testable: () => undefined,
          check: () => [],
        })),
      ],
    },
    pods: () => {
      now.listed++;
      return now.gone ? [] : [{ uid: 'u1', name: 'shop/web', netnsPath: '/run/netns/web' }, ...others()];
    },
    testConnects: async (pods) => {
      assert.deepEqual(pods, [{ uid: 'u1', netnsFd: 5, family: 4 }]);
      return new Map(now.astray === '' ? [] : [['u1', now.astray]]);
    },
    repairListeners: () => {
      const dead = now.deadListeners;
      if (dead < 0) throw new Error('no descriptor is left');
      now.deadListeners = 0;
      return dead;
    },
    failed: (uid, message) => told.push(`failed ${uid} ${message}`),
    recovered: (uid) => told.push(`recovered ${uid}`),
    inodeOf: () => now.inode,
    intervalMs: 60_000,
    clock,
    random: () => 0.5,
    log,
  });
  return { clock, log, told, now, check };
}

const repaired: Difference = { check: 'pod-link', repaired: true, message: 'gone' };
const broken: Difference = { check: 'pod-listeners', repaired: false, message: 'dead' };

async function until(holds: () => boolean): Promise<void> {
  for (let turn = 0; turn < 10_000 && !holds(); turn++)
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  assert.ok(holds());
}

describe('self-check', () => {
  it('runs about once an interval, again and again, until it is closed', async () => {
    const { clock, now, check } = setUp();
    for (let round = 1; round <= 3; round++) {
      clock.advance(59_999);
      assert.equal(now.nodeChecks, round - 1);
      clock.advance(1);
      await until(() => now.nodeChecks === round && clock.pendingTimers === 2);
    }
    check.close();
    assert.equal(clock.pendingTimers, 0);
    await check.run();
    assert.equal(now.nodeChecks, 3);
  });

  it('runs at once when a glance sees that something passes by, and not again for what cannot be mended', async () => {
    const { clock, now, check } = setUp();
    now.unsound = ['u1'];
    clock.advance(1_000);
    await until(() => now.nodeChecks === 1);
    await check.run();
    clock.advance(5_000);
    await check.run();
    assert.equal(now.nodeChecks, 3, 'only the runs that were asked for');
    now.unsound = ['', 'u1'];
    clock.advance(1_000);
    await until(() => now.nodeChecks === 4);
    now.unsound = [];
    await check.run();
    now.unsound = ['u1'];
    clock.advance(1_000);
    await until(() => now.nodeChecks === 6);
    check.close();
    assert.equal(clock.pendingTimers, 0);
  });

  it('asks for the list of pods as often with a thousand pods as with one: it is made anew each time', async () => {
    const { now, check } = setUp();
    await check.run();
    const withOne = now.listed;
    now.others = 999;
    now.listed = 0;
    const { pods } = await check.run();
    assert.equal(pods.size, 1_000);
    assert.equal(now.listed, withOne);
    now.others = 0;
    assert.equal((await check.run()).pods.size, 1);
    check.close();
  });

  it('puts new listeners in the place of dead ones, or says that it cannot', async () => {
    const { now, check } = setUp();
    now.deadListeners = 2;
    const state = await check.run();
    assert.equal(state.repairs.get('pod-listeners'), 1);
    assert.equal(state.pods.get('u1')?.result, 'repaired');
    now.deadListeners = -1;
    assert.deepEqual((await check.run()).pods.get('u1')?.problems, ['pod-listeners: no descriptor is left']);
  });

  it('a test connection that goes astray twice running is a problem, until one comes', async () => {
    const { now, check, told } = setUp();
    now.astray = 'ETIMEDOUT';
    assert.equal((await check.run()).pods.get('u1')?.result, 'ok', 'once is chance');
    assert.deepEqual((await check.run()).pods.get('u1')?.problems, [
      'pod-connect: a test connection from the pod does not come to the agent: ETIMEDOUT',
    ]);
    now.astray = '';
    assert.equal((await check.run()).pods.get('u1')?.result, 'ok');
    assert.equal(told.at(-1), 'recovered u1');
  });

  it('counts each repair, and keeps them per pod', async () => {
    const { now, check, log, told } = setUp();
    now.pod = [repaired];
    await check.run();
    const state = await check.run();
    assert.equal(state.repairs.get('pod-link'), 2);
    assert.equal(state.pods.get('u1')?.result, 'repaired');
    assert.equal(state.pods.get('u1')?.repairs, 2);
    assert.equal(log.lines.filter(({ level }) => level === 'warn').length, 2);
    now.pod = [];
    assert.equal((await check.run()).pods.get('u1')?.result, 'ok');
    assert.deepEqual(told, []);
  });

  it('tells once what it cannot mend, and once that it is over', async () => {
    const { now, check, log, told } = setUp();
    now.pod = [broken];
    await check.run();
    const state = await check.run();
    assert.equal(state.failures.get('pod-listeners'), 1);
    assert.deepEqual(state.pods.get('u1')?.problems, ['pod-listeners: dead']);
    assert.deepEqual(told, ['failed u1 pod-listeners: dead']);
    assert.equal(log.lines.filter(({ level }) => level === 'error').length, 1);
    now.pod = [];
    const after = await check.run();
    assert.equal(after.failures.get('pod-listeners'), 0);
    assert.deepEqual(told.at(-1), 'recovered u1');
  });

  it('leaves a pod alone whose namespace is another one than the path leads to', async () => {
    const { now, check } = setUp();
    now.inode = 8n;
    now.pod = [repaired];
    const state = await check.run();
    assert.deepEqual(state.pods.get('u1')?.problems, [
      'pod-namespace: /run/netns/web leads to another network namespace than the one that was enrolled',
    ]);
    assert.equal(state.repairs.get('pod-link'), 0);
    now.inode = undefined;
    assert.equal((await check.run()).pods.get('u1')?.result, 'repaired');
  });

  it('forgets pods that are gone, and shows what is wrong with the node', async () => {
    const { now, check } = setUp();
    now.pod = [broken];
    now.node = [{ check: 'node-foreign', repaired: false, message: 'in the way' }];
    await check.run();
    now.gone = true;
    const state = await check.run();
    assert.equal(state.pods.size, 0);
    assert.equal(state.failures.get('pod-listeners'), 0);
    assert.deepEqual(state.node?.problems, ['node-foreign: in the way']);
  });
});
