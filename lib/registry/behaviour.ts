// SPDX-License-Identifier: Apache-2.0
// What every registry does, as tests: call `registryBehaviour` from the implementation's own test file.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { MeshError } from '#lib/core/errors.ts';
import { ENROLLED_CONDITION, type Pod, podCondition, podReady } from './model.ts';
import type { PodRef, Registry } from './registry.ts';

/** A registry and the hand that changes what it watches. */
export interface RegistryFixture {
  readonly registry: Registry;
  /** Writes an object, given as the JSON of Kubernetes. Resolves with its uid. */
  readonly apply: (object: Readonly<Record<string, unknown>>) => Promise<string>;
  /** As `apply`, for another object under the name of one that exists. */
  readonly replace: (object: Readonly<Record<string, unknown>>) => Promise<string>;
  readonly delete: (kind: string, namespace: string, name: string) => Promise<void>;
  /** A second registry over the same source. */
  readonly another: () => Registry;
  readonly close: () => Promise<void>;
}

export const testNamespace = (name: string, annotations: Readonly<Record<string, string>> = {}) => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name, annotations },
});

export const testPod = (namespace: string, name: string, extra: { ip?: string } = {}) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { namespace, name, labels: { app: name } },
  spec: { nodeName: 'node-1', containers: [{ name: 'app', image: 'none' }] },
  status: {
    phase: 'Running',
    podIP: extra.ip ?? '10.1.0.1',
    conditions: [{ type: 'Ready', status: 'True' }],
  },
});

/** Resolves once a watched pod satisfies `wanted`; undefined stands for its removal. */
export function podSeen(
  registry: Registry,
  name: string,
  wanted: (pod: Pod | undefined) => boolean,
): Promise<Pod | undefined> {
  return new Promise((resolve) => {
    const check = (pod: Pod, now: Pod | undefined): void => {
      if (pod.metadata.name !== name || !wanted(now)) return;
      // Inside the first round of `watch` its handle does not exist yet.
      queueMicrotask(() => watch.close());
      resolve(now);
    };
    const watch = registry.watch('Pod', {
      added: (pod) => check(pod, pod),
      changed: (pod) => check(pod, pod),
      removed: (pod) => check(pod, undefined),
    });
  });
}

const refOf = (pod: Pod): PodRef => ({
  cluster: pod.cluster,
  namespace: pod.metadata.namespace,
  name: pod.metadata.name,
  uid: pod.metadata.uid,
});

export function registryBehaviour(name: string, open: () => Promise<RegistryFixture>): void {
  const using = (run: (fixture: RegistryFixture) => Promise<void>) => async () => {
    const fixture = await open();
    try {
      await run(fixture);
    } finally {
      await fixture.close();
    }
  };

  describe(`registry: ${name}`, () => {
    it(
      'lists what exists once synced, each object with its cluster',
      using(async ({ registry, apply }) => {
        await apply(testNamespace('shop'));
        await apply(testPod('shop', 'web'));
        await registry.synced();
        await podSeen(registry, 'web', (pod) => pod !== undefined);
        const pod = registry.list('Pod').find((found) => found.metadata.name === 'web');
        assert.equal(pod?.cluster, 'test');
        assert.deepEqual(pod?.status.podIPs, ['10.1.0.1']);
        assert.equal(registry.get('Pod', { cluster: 'test', namespace: 'shop', name: 'web' }), pod);
        assert.equal(registry.get('Pod', { cluster: 'other', namespace: 'shop', name: 'web' }), undefined);
      }),
    );

    it(
      'tells added, changed with what was before, and removed',
      using(async ({ registry, ...fixture }) => {
        await registry.synced();
        await fixture.apply(testPod('shop', 'web'));
        await podSeen(registry, 'web', (pod) => pod !== undefined && podReady(pod));
        const told = Promise.withResolvers<string[]>();
        const lines: string[] = [];
        const ours = (pod: Pod): boolean => pod.metadata.name === 'web';
        registry.watch('Pod', {
          added: (pod) => void (ours(pod) && lines.push(`added ${pod.status.podIPs[0]}`)),
          changed: (pod, previous) => {
            if (!ours(pod) || pod.status.podIPs[0] === previous.status.podIPs[0]) return;
            lines.push(`${previous.status.podIPs[0]} -> ${pod.status.podIPs[0]}`);
          },
          removed: (pod) => {
            if (!ours(pod)) return;
            lines.push(`removed ${pod.status.podIPs[0]}`);
            told.resolve(lines);
          },
        });
        await fixture.apply(testPod('shop', 'web', { ip: '10.1.0.2' }));
        await podSeen(registry, 'web', (pod) => pod?.status.podIPs[0] === '10.1.0.2');
        await fixture.delete('Pod', 'shop', 'web');
        assert.deepEqual(await told.promise, ['added 10.1.0.1', '10.1.0.1 -> 10.1.0.2', 'removed 10.1.0.2']);
      }),
    );

    it(
      'takes a successor of the same name for another object',
      using(async ({ registry, apply, replace }) => {
        const first = await apply(testPod('shop', 'web'));
        await podSeen(registry, 'web', (pod) => pod?.metadata.uid === first);
        const lines: string[] = [];
        const tell = (what: string) => (pod: Pod) => {
          if (pod.metadata.name === 'web') lines.push(`${what} ${pod.metadata.uid}`);
        };
        registry.watch('Pod', {
          added: tell('added'),
          changed: () => undefined,
          removed: tell('removed'),
        });
        const second = await replace(testPod('shop', 'web'));
        await podSeen(registry, 'web', (pod) => pod?.metadata.uid === second);
        assert.notEqual(first, second);
        assert.deepEqual(lines, [`added ${first}`, `removed ${first}`, `added ${second}`]);
      }),
    );

    it(
      'a closed watch hears nothing more',
      using(async ({ registry, apply }) => {
        await registry.synced();
        let heard = 0;
        const watch = registry.watch('Pod', {
          added: () => heard++,
          changed: () => heard++,
          removed: () => heard++,
        });
        watch.close();
        heard = 0;
        await apply(testPod('shop', 'web'));
        await podSeen(registry, 'web', (pod) => pod !== undefined);
        assert.equal(heard, 0);
      }),
    );

    it(
      'brings a reported status back as a condition, to other registries too, and withdraws it',
      using(async ({ registry, apply, another }) => {
        await apply(testPod('shop', 'web'));
        const pod = await podSeen(registry, 'web', (found) => found !== undefined);
        assert.ok(pod);
        const enrolled = (status: string) => (found: Pod | undefined) =>
          found !== undefined && podCondition(found, ENROLLED_CONDITION)?.status === status;
        const condition = { status: 'True', reason: 'Enrolled', message: '', generation: 7 } as const;
        await registry.reportStatus(refOf(pod), { condition });
        const seen = await podSeen(registry, 'web', enrolled('True'));
        assert.equal(seen && podCondition(seen, ENROLLED_CONDITION)?.observedGeneration, 7);
        const other = another();
        await podSeen(other, 'web', enrolled('True'));
        await registry.reportStatus(refOf(pod), {
          condition: { ...condition, status: 'False', reason: 'Left' },
        });
        await podSeen(registry, 'web', enrolled('False'));
        await podSeen(other, 'web', enrolled('False'));
        other.close();
      }),
    );

    it(
      'writes the same status once, and the last of many',
      using(async ({ registry, apply }) => {
        await apply(testPod('shop', 'web'));
        const pod = await podSeen(registry, 'web', (found) => found !== undefined);
        assert.ok(pod);
        const changes: number[] = [];
        registry.watch('Pod', {
          added: () => undefined,
          changed: (now) => {
            const generation = podCondition(now, ENROLLED_CONDITION)?.observedGeneration;
            if (now.metadata.name === 'web' && generation !== undefined) changes.push(generation);
          },
          removed: () => undefined,
        });
        const report = (generation: number) =>
          registry.reportStatus(refOf(pod), {
            condition: { status: 'True', reason: 'Enrolled', message: '', generation },
          });
        await report(1);
        await report(1);
        await Promise.all([report(1), report(2), report(3), report(4)]);
        const lastSeen = (found: Pod | undefined): boolean =>
          found !== undefined && podCondition(found, ENROLLED_CONDITION)?.observedGeneration === 4;
        await podSeen(registry, 'web', lastSeen);
        assert.deepEqual([changes[0], changes.at(-1)], [1, 4]);
        assert.ok(changes.length <= 3, `few writes, not ${changes.join(', ')}`);
      }),
    );

    it(
      'refuses the status of a pod that is gone, also if another took its name',
      using(async ({ registry, apply, replace }) => {
        const first = await apply(testPod('shop', 'web'));
        const second = await replace(testPod('shop', 'web'));
        await podSeen(registry, 'web', (pod) => pod?.metadata.uid === second);
        const condition = { status: 'True', reason: 'Enrolled', message: '', generation: 1 } as const;
        const ref = { cluster: 'test', namespace: 'shop', name: 'web', uid: first };
        await assert.rejects(
          registry.reportStatus(ref, { condition }),
          (error) => error instanceof MeshError && error.code === 'MESH_NOT_FOUND',
        );
      }),
    );
  });
}
