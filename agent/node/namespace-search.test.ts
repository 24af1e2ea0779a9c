// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { seededRandom, VirtualClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import type { WantedPod } from './find-namespace.ts';
import { createNamespaceSearch, type NamespaceSearch } from './namespace-search.ts';

const pod: WantedPod = { uid: 'a', addresses: ['10.0.0.1'] };

describe('the search for namespaces', () => {
  let clock: VirtualClock;
  let missing: WantedPod[];
  let placed: WantedPod[];
  /** Process number and inode of the pod's one process. */
  let process: { id: string; inode: bigint } | undefined;
  let scans: number;
  let told: string[];
  let search: NamespaceSearch;
  const pass = async (ms: number): Promise<void> => {
    clock.advance(ms);
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
  };

  beforeEach(() => {
    clock = new VirtualClock();
    [missing, placed, process, scans, told] = [[pod], [], undefined, 0, []];
    search = createNamespaceSearch({
      clock,
      random: seededRandom(1),
      log: recordingLog([]),
      view: {
        processes: () => {
          scans++;
          return process === undefined ? [] : [process.id];
        },
        cgroups: () => '0::/pods/a/main',
        startedAt: () => 1,
        namespaceOf: (id) =>
          process?.id === id ? { path: `/proc/${id}/ns/net`, inode: process.inode } : undefined,
        hosts: () => new Set<bigint>(),
        addresses: () => ['10.0.0.1'],
      },
      missing: () => missing,
      placed: () => placed,
      found: (uid, path) => {
        told.push(`found ${uid} ${path}`);
        [missing, placed] = [[], [pod]];
      },
      notFound: (uid) => told.push(`not found ${uid}`),
      gone: (uid) => {
        told.push(`gone ${uid}`);
        [missing, placed] = [[pod], []];
        search.wake();
      },
    });
  });

  it('goes on with growing pauses until the pod is found, then stops', async () => {
    search.wake();
    for (let second = 0; second < 60; second++) await pass(1_000);
    assert.ok(scans >= 4 && scans <= 10, `${scans} scans in a minute`);
    process = { id: '7', inode: 5n };
    for (let second = 0; second < 31; second++) await pass(1_000);
    assert.equal(told.at(-1), 'found a /proc/7/ns/net');
    const before = scans;
    for (let second = 0; second < 60; second++) await pass(1_000);
    assert.equal(scans, before, 'nobody is looked for any more');
  });

  it('a pod lives on in another process of the same namespace, and is gone with the last one', async () => {
    process = { id: '7', inode: 5n };
    search.wake();
    await pass(20);
    process = { id: '8', inode: 5n };
    await pass(6_000);
    assert.deepEqual(told, ['found a /proc/7/ns/net']);
    process = undefined;
    await pass(6_000);
    assert.ok(told.includes('gone a'));
    process = { id: '9', inode: 6n };
    for (let second = 0; second < 31; second++) await pass(1_000);
    assert.equal(told.at(-1), 'found a /proc/9/ns/net');
  });

  it('does nothing once closed', async () => {
    search.wake();
    search.close();
    await pass(60_000);
    assert.equal(scans, 0);
  });
});
