// SPDX-License-Identifier: Apache-2.0
// Deployments and scheduling over a store, without a kubelet: the test says what becomes of the pods.

import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { seededRandom } from '#lib/core/clock.ts';
import { applyManifests, deleteObjects } from './apply.ts';
import { reconcile } from './controllers.ts';
import { parseManifests } from './manifests.ts';
import { isTerminating, type PodObject } from './objects.ts';
import { Store } from './store.ts';

const manifest = (replicas: number, version: string): string => `
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: ${replicas}
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web, version: ${version} } }
    spec: { containers: [{ name: main, command: [a] }] }
`;

describe('controllers', () => {
  let store: Store;
  const random = seededRandom(1);
  const pass = (nodes: readonly string[] = ['node1', 'node2']): void =>
    reconcile(store, { random, schedulable: () => nodes });
  const apply = (replicas: number, version = 'v1'): void => {
    applyManifests(store, parseManifests([{ file: 'test', text: manifest(replicas, version) }]));
    pass();
  };
  const live = (): PodObject[] => store.list('Pod').filter((pod) => !isTerminating(pod));
  const setReady = (): void => {
    for (const pod of live()) {
      store.updatePodStatus(pod, () => ({
        phase: 'Running',
        conditions: [{ type: 'Ready', status: 'True', lastTransitionTime: '' }],
      }));
    }
  };
  const remove = (): void => {
    for (const pod of store.list('Pod')) if (isTerminating(pod)) store.remove(pod);
  };
  const settle = (): void => {
    for (let round = 0; round < 20; round++) {
      setReady();
      remove();
      pass();
    }
  };

  beforeEach(() => {
    store = new Store(() => 0);
    applyManifests(
      store,
      parseManifests([
        { file: 'test', text: 'apiVersion: v1\nkind: Namespace\nmetadata: { name: default }' },
      ]),
    );
    pass();
  });

  test('replicas are spread over the nodes and named after their ReplicaSet', () => {
    apply(4);
    assert.deepEqual(
      live().map((pod) => pod.spec.nodeName),
      ['node1', 'node2', 'node1', 'node2'],
    );
    const [set] = store.list('ReplicaSet');
    assert.ok(set && live().every((pod) => pod.metadata.name.startsWith(`${set.metadata.name}-`)));
    assert.equal(set.metadata.ownerReferences?.[0]?.kind, 'Deployment');
  });

  test('a pod waits for a node, and for its ServiceAccount', () => {
    applyManifests(store, parseManifests([{ file: 'test', text: manifest(1, 'v1') }]));
    pass([]);
    pass([]);
    assert.match(live()[0]?.status.message ?? '', /no node takes this pod/);
    pass();
    assert.equal(live()[0]?.spec.nodeName, 'node1');
    const text =
      'apiVersion: v1\nkind: Pod\nmetadata: { name: p }\nspec: { serviceAccountName: x, containers: [{ name: m, command: [a] }] }';
    applyManifests(store, parseManifests([{ file: 'test', text }]));
    pass();
    assert.match(store.require('Pod', 'default', 'p').status.message ?? '', /no ServiceAccount x/);
  });

  test('during a roll never fewer are ready than allowed, nor more there; then all are new', () => {
    apply(4);
    settle();
    apply(4, 'v2');
    for (let round = 0; round < 40; round++) {
      const ready = live().filter((pod) =>
        pod.status.conditions.some((condition) => condition.status === 'True'),
      );
      assert.ok(ready.length >= 3 && live().length <= 5, `${ready.length} ready of ${live().length}`);
      const [starting] = live().filter((pod) => !ready.includes(pod));
      if (starting !== undefined) {
        store.updatePodStatus(starting, () => ({
          phase: 'Running',
          conditions: [{ type: 'Ready', status: 'True', lastTransitionTime: '' }],
        }));
      }
      remove();
      pass();
    }
    assert.deepEqual(
      live().map((pod) => pod.metadata.labels['version']),
      ['v2', 'v2', 'v2', 'v2'],
    );
    assert.equal(store.list('ReplicaSet').length, 1);
  });

  test('a pod that is deleted or has ended is replaced; fewer replicas remove the surplus', () => {
    apply(2);
    settle();
    const [first, second] = live();
    assert.ok(first && second);
    deleteObjects(store, [{ kind: 'Pod', namespace: 'default', name: first.metadata.name }]);
    store.updatePodStatus(second, (status) => ({ ...status, phase: 'Failed' }));
    pass();
    settle();
    assert.equal(live().length, 2);
    assert.ok(!live().some((pod) => [first.metadata.uid, second.metadata.uid].includes(pod.metadata.uid)));
    apply(0);
    settle();
    assert.equal(live().length, 0);
    assert.deepEqual(store.require('Deployment', 'default', 'web').status, {
      replicas: 0,
      updatedReplicas: 0,
      readyReplicas: 0,
      availableReplicas: 0,
    });
  });

  test('a Deployment takes its pods with it, a namespace everything', () => {
    apply(2);
    settle();
    deleteObjects(store, [{ kind: 'Namespace', namespace: '', name: 'default' }]);
    settle();
    assert.deepEqual(store.all(), []);
  });
});
