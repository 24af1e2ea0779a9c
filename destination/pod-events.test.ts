// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { silentLog } from '#lib/core/log.ts';
import type { Registry } from '#lib/registry/registry.ts';
import type { MeshPod } from './mesh-pod.ts';
import { createPodEvents, type PodEvents } from './pod-events.ts';

/** As far as Events look at it. */
const podWith = (name: string, ...warnings: readonly string[]): MeshPod =>
  ({
    pod: {
      cluster: 'c',
      metadata: { namespace: 'shop', name, uid: `uid-${name}` },
      status: { phase: 'Running' },
    },
    eligibility: { enrol: true },
    warnings,
  }) as unknown as MeshPod;

describe('events about pods', () => {
  let told: string[] = [];
  let leading = true;
  let lead: (leading: boolean) => void = () => undefined;
  let events: PodEvents;

  beforeEach(() => {
    told = [];
    leading = true;
    const reportStatus: Registry['reportStatus'] = (pod, report) => {
      told.push(...(report.events ?? []).map(({ message }) => `${pod.name}: ${message}`));
      return Promise.resolve();
    };
    events = createPodEvents({
      registry: { reportStatus } as Registry,
      leadership: {
        get leading() {
          return leading;
        },
        onChange: (listener) => {
          lead = listener;
        },
      },
      log: silentLog,
    });
  });

  it('are told once for as long as they stay the same', () => {
    events.tell(podWith('web', 'a'));
    events.tell(podWith('web', 'a'));
    events.tell(podWith('web', 'b'));
    events.tell(podWith('cart'));
    assert.deepEqual(told, ['web: a', 'web: b']);
  });

  it('are told by the replica that leads; the next one tells what still holds', () => {
    leading = false;
    for (const name of ['web', 'cart', 'gone']) events.tell(podWith(name, 'a'));
    events.tell(podWith('cart'));
    events.forget('uid-gone');
    assert.deepEqual(told, []);
    leading = true;
    lead(true);
    assert.deepEqual(told, ['web: a']);
  });

  it('say once why a pod that asked for the mesh is not in it, and nothing about one that has ended', () => {
    const refused = (phase: string, reason: string): MeshPod =>
      ({
        pod: { cluster: 'c', metadata: { uid: 'u', namespace: 'n', name: 'p' }, status: { phase } },
        eligibility: { enrol: false, asked: true, reason },
        warnings: [],
      }) as unknown as MeshPod;
    events.tell(refused('Running', 'hostNetwork'));
    events.tell(refused('Running', 'hostNetwork'));
    assert.deepEqual(told, ['p: Not meshed: hostNetwork']);
    for (const phase of ['Succeeded', 'Failed']) events.tell(refused(phase, 'the pod has ended'));
    assert.equal(told.length, 1);
  });
});
