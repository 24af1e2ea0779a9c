// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { registryBehaviour, testPod } from '#lib/registry/behaviour.ts';
import type { Kind } from '#lib/registry/model.ts';
import type { Registry } from '#lib/registry/registry.ts';
import { failure, send } from './fake-api-server.ts';
import { kindSources } from './kinds.ts';
import { PODS, TestRegistry, until } from './test-registry.ts';

const pathOf = (kind: string): string => kindSources[kind as Kind].paths[0] ?? '';

registryBehaviour('Kubernetes API (a fake)', async () => {
  const test = await TestRegistry.start();
  type Manifest = { metadata: { name: string; namespace?: string } };
  const apply = (object: Readonly<Record<string, unknown>>): Promise<string> => {
    const stored = test.fake.put(pathOf(String(object['kind'])), object as Manifest);
    return Promise.resolve(stored.metadata.uid);
  };
  return {
    registry: test.open(),
    apply,
    replace(object) {
      const { namespace, name } = (object as unknown as Manifest).metadata;
      test.fake.remove(pathOf(String(object['kind'])), namespace ?? '', name);
      return apply(object);
    },
    delete(kind, namespace, name) {
      test.fake.remove(pathOf(kind), namespace, name);
      return Promise.resolve();
    },
    another: () => test.open(),
    close: () => test.close(),
  };
});

describe('registry on Kubernetes', () => {
  let test: TestRegistry;
  beforeEach(async () => {
    test = await TestRegistry.start(['PolicyHTTPRoute']);
  });
  afterEach(() => test.close());

  const names = (registry: Registry, kind: Kind = 'Pod'): string =>
    registry
      .list(kind)
      .map(({ metadata }) => metadata.name)
      .sort()
      .join(' ');
  const putPods = (...podNames: string[]): void => {
    for (const name of podNames) test.fake.put(PODS, testPod('shop', name));
  };

  it('takes long lists in pages', async () => {
    for (let index = 0; index < 1201; index++) putPods(`web-${index}`);
    const registry = test.open();
    await registry.synced();
    assert.equal(registry.list('Pod').length, 1201);
    assert.equal(test.fake.count(PODS, 'list'), 3);
  });

  it('takes the list whole when its pages are forgotten meanwhile', async () => {
    for (let index = 0; index < 600; index++) putPods(`web-${index}`);
    test.fake.intercept = ({ query }, response) => {
      if (!query.has('continue')) return false;
      send(response, 410, failure(410, 'Expired'));
      return true;
    };
    const registry = test.open();
    await registry.synced();
    assert.equal(registry.list('Pod').length, 600);
  });

  it('resumes a cut watch where it stopped, and lists nothing anew', async () => {
    const registry = test.open();
    await registry.synced();
    await until('watching', () => test.fake.watching(PODS) === 1);
    putPods('a');
    await until('a is seen', () => names(registry) === 'a');
    for (const how of ['cut', 'end'] as const) {
      test.fake.endWatches(PODS, how);
      putPods(`while-${how}`);
      await until('the watch is back', () => names(registry).includes(`while-${how}`));
    }
    test.fake.remove(PODS, 'shop', 'a');
    await until('a is gone', () => names(registry) === 'while-cut while-end');
    assert.equal(test.fake.count(PODS, 'list'), 1);
  });

  it('lists nothing anew however long the server was away', async () => {
    const registry = test.open({ kinds: ['Pod'] });
    await registry.synced();
    await until('watching', () => test.fake.watching(PODS) === 1);
    putPods('a');
    await until('a is seen', () => names(registry) === 'a');
    const ways: ((response: ServerResponse) => void)[] = [
      (response) => response.destroy(),
      (response) => send(response, 503, failure(503, 'ServiceUnavailable')),
      (response) => send(response, 403, failure(403, 'Forbidden')),
    ];
    let refused = 0;
    test.fake.intercept = (_, response) => {
      ways[refused++ % ways.length]?.(response);
      return true;
    };
    test.fake.endWatches(PODS);
    await until('it was refused often', () => refused >= 20);
    putPods('b');
    test.fake.intercept = undefined;
    await until('b is seen', () => names(registry) === 'a b');
    assert.equal(test.fake.count(PODS, 'list'), 1);
  });

  it('lists anew when watches are answered, but fail at the same version again and again', async () => {
    const registry = test.open({ kinds: ['Pod'] });
    await registry.synced();
    await until('watching', () => test.fake.watching(PODS) === 1);
    test.fake.intercept = ({ query }, response) => {
      if (!query.has('watch') || test.fake.count(PODS, 'list') > 1) return false;
      send(response, 500, failure(500, 'InternalError'));
      return true;
    };
    test.fake.endWatches(PODS);
    await until('it was listed anew', () => test.fake.count(PODS, 'list') === 2);
    putPods('a');
    await until('a is seen', () => names(registry) === 'a');
  });

  it('resumes after a bookmark from its version', async () => {
    const registry = test.open({ kinds: ['Pod'] });
    await registry.synced();
    await until('watching', () => test.fake.watching(PODS) === 1);
    test.fake.bookmark(PODS);
    putPods('a');
    await until('a is seen', () => names(registry) === 'a');
    test.fake.bookmark(PODS);
    // What is older than the bookmark is forgotten: without the bookmark everything would be listed anew.
    test.fake.compact(PODS);
    putPods('b');
    await until('b is seen', () => names(registry) === 'a b');
    test.fake.endWatches(PODS);
    putPods('c');
    await until('c is seen', () => names(registry) === 'a b c');
    assert.equal(test.fake.count(PODS, 'list'), 1);
  });

  it('lists anew when its version is forgotten (410), and tells what went meanwhile', async () => {
    putPods('a', 'b');
    const registry = test.open({ kinds: ['Pod'] });
    await registry.synced();
    await until('watching', () => test.fake.watching(PODS) === 1);
    const removed: string[] = [];
    registry.watch('Pod', {
      added: () => undefined,
      changed: () => undefined,
      removed: (pod) => removed.push(pod.metadata.name),
    });
    test.fake.intercept = ({ query }, response) => {
      if (!query.has('watch')) return false;
      send(response, 410, failure(410, 'Gone'));
      return true;
    };
    test.fake.endWatches(PODS);
    await until('the watch is refused', () => test.fake.count(PODS, 'watch') > 1);
    test.fake.intercept = undefined;
    test.fake.remove(PODS, 'shop', 'a');
    putPods('c');
    test.fake.compact(PODS);
    await until('listed anew', () => names(registry) === 'b c');
    assert.deepEqual(removed, ['a']);
    assert.ok((await test.metric('nodemesh_kubernetes_relists_total', { kind: 'Pod' })) >= 1);
  });

  it('lists anew on an ERROR event with 410 inside a watch', async () => {
    putPods('a');
    const registry = test.open({ kinds: ['Pod'] });
    await registry.synced();
    await until('watching', () => test.fake.watching(PODS) === 1);
    test.fake.raw(PODS, `${JSON.stringify({ type: 'ERROR', object: failure(410, 'Expired') })}\n`);
    await until('listed anew', () => test.fake.count(PODS, 'list') === 2);
    putPods('b');
    await until('b is seen', () => names(registry) === 'a b');
  });

  it('breaks off a watch that is silent too long', async () => {
    const registry = test.open({ kinds: ['Pod'], timings: { silentMsMax: 60 } });
    await registry.synced();
    await until('several watches', () => test.fake.count(PODS, 'watch') >= 3);
    putPods('a');
    await until('a is seen', () => names(registry) === 'a');
    assert.equal(test.fake.count(PODS, 'list') <= 2, true);
    assert.match(JSON.stringify(test.log.lines), /nothing heard for 60 ms/);
  });

  it('survives garbage: half a line, no JSON, an event of no known type, an object without a name', async () => {
    const registry = test.open({ kinds: ['Pod'] });
    await registry.synced();
    for (const [index, text] of [
      '{"type":"ADD',
      'hello\n',
      '{"type":"NEW"}\n',
      '{"type":"ADDED","object":{}}\n',
    ].entries()) {
      await until('watching', () => test.fake.watching(PODS) === 1);
      test.fake.raw(PODS, text);
      if (!text.endsWith('\n')) test.fake.endWatches(PODS, 'end');
      putPods(`after-${index}`);
      await until('the watch is back', () => names(registry).includes(`after-${index}`));
    }
  });

  it('reads events in pieces of any size', async () => {
    const registry = test.open({ kinds: ['Pod'] });
    await registry.synced();
    await until('watching', () => test.fake.watching(PODS) === 1);
    const object = testPod('shop', 'web');
    const event = {
      type: 'ADDED',
      object: { ...object, metadata: { ...object.metadata, uid: 'ü', resourceVersion: '999' } },
    };
    for (const byte of Buffer.from(`${JSON.stringify(event)}\n`)) {
      test.fake.raw(PODS, Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await until('seen', () => registry.list('Pod')[0]?.metadata.uid === 'ü');
  });

  it('keeps to Retry-After of 429, and pauses grow', async () => {
    const times: number[] = [];
    test.fake.intercept = ({ path }, response) => {
      if (path !== PODS || times.length >= 3) return false;
      times.push(performance.now());
      const after = times.length === 1 ? { 'retry-after': '1' } : {};
      send(
        response,
        times.length === 1 ? 429 : 500,
        failure(429, 'TooManyRequests'),
        after as Record<string, string>,
      );
      return true;
    };
    putPods('a');
    const registry = test.open();
    await registry.synced();
    assert.equal(names(registry), 'a');
    assert.ok((times[1] ?? 0) - (times[0] ?? 0) >= 990, 'waited as long as it was told');
    assert.ok((await test.metric('nodemesh_kubernetes_pause_seconds_total', { kind: 'Pod' })) >= 1);
    assert.equal(
      await test.metric('nodemesh_kubernetes_errors_total', { kind: 'Pod', call: 'list', status: '429' }),
      1,
    );
  });

  it('is not synced before every kind has been listed, but a failing kind holds up no other', async () => {
    let refusing = true;
    test.fake.intercept = ({ path }, response) => {
      if (path !== '/api/v1/nodes' || !refusing) return false;
      send(response, 403, failure(403, 'Forbidden'));
      return true;
    };
    putPods('a');
    const registry = test.open();
    let synced = false;
    void registry.synced().then(() => (synced = true));
    await until('pods are there', () => names(registry) === 'a');
    assert.equal(synced, false);
    refusing = false;
    await registry.synced();
  });

  it('keeps the last good state of an object that cannot be read', async () => {
    const services = '/api/v1/services';
    const metadata = { name: 'web', namespace: 'shop' };
    test.fake.put(services, { metadata, spec: { clusterIP: '10.0.0.1' } });
    const registry = test.open();
    await registry.synced();
    test.fake.put(services, { metadata, spec: { clusterIP: 'not an address' } });
    test.fake.put(services, { metadata: { ...metadata, name: 'later' }, spec: {} });
    await until('the next one is seen', () => names(registry, 'Service') === 'later web');
    assert.deepEqual(
      registry.get('Service', { cluster: 'test', namespace: 'shop', name: 'web' })?.spec.clusterIPs,
      ['10.0.0.1'],
    );
    assert.equal(await test.metric('nodemesh_kubernetes_unreadable_total', { kind: 'Service' }), 1);
  });

  it('keeps in memory only annotations of the mesh and conditions that it reads', async () => {
    const pod = testPod('shop', 'web');
    test.fake.put(PODS, {
      ...pod,
      metadata: {
        ...pod.metadata,
        annotations: {
          'config.linkerd.io/opaque-ports': '1',
          'kubectl.kubernetes.io/last-applied-configuration': 'x',
        },
        managedFields: [{ manager: 'kubectl' }],
      },
      status: {
        ...pod.status,
        conditions: [
          { type: 'Ready', status: 'True' },
          { type: 'Initialized', status: 'True' },
        ],
      },
    });
    const registry = test.open();
    await registry.synced();
    const [found] = registry.list('Pod');
    assert.deepEqual(found?.metadata.annotations, { 'config.linkerd.io/opaque-ports': '1' });
    assert.deepEqual(
      found.status.conditions.map(({ type }) => type),
      ['Ready'],
    );
    assert.doesNotMatch(JSON.stringify(found), /managedFields/);
  });

  describe('definitions', () => {
    const ROUTES = '/apis/policy.linkerd.io/v1beta3/httproutes';
    const DEFINITION = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutes.policy.linkerd.io';
    const route = { metadata: { name: 'route', namespace: 'shop' }, spec: { parentRefs: [], rules: [] } };

    it('that are absent block nothing, and are found when they come', async () => {
      const registry = test.open();
      await registry.synced();
      test.fake.serve(ROUTES);
      test.fake.put(ROUTES, route);
      await until('the route is seen', () => names(registry, 'PolicyHTTPRoute') === 'route');
      assert.deepEqual(test.told, []);
    });

    it('that vanish leave the last policy, with one Event; the next definition starts anew', async () => {
      test.fake.serve(ROUTES);
      test.fake.put(ROUTES, route);
      const registry = test.open();
      await registry.synced();
      await until('watching', () => test.fake.watching(ROUTES) === 1);
      // As the API server does it: first the mark, then the objects go one by one, then the kind.
      test.fake.intercept = ({ path }, response) => {
        if (path !== DEFINITION) return false;
        send(response, 200, { metadata: { name: 'httproutes', deletionTimestamp: '2026-01-01T00:00:00Z' } });
        return true;
      };
      test.fake.remove(ROUTES, 'shop', 'route');
      await until('an Event tells', () => test.told.length === 1);
      test.fake.unserve(ROUTES);
      test.fake.intercept = undefined;
      await until('the kind is asked for', () => test.fake.count(ROUTES, 'list') >= 3);
      assert.equal(names(registry, 'PolicyHTTPRoute'), 'route');
      assert.deepEqual(
        test.told.map(({ reason }) => reason),
        ['DefinitionVanished'],
      );
      test.fake.intercept = ({ path }, response) => {
        if (path !== DEFINITION) return false;
        send(response, 200, { metadata: { name: 'httproutes' } });
        return true;
      };
      test.fake.serve(ROUTES);
      await until('the old route is gone', () => names(registry, 'PolicyHTTPRoute') === '');
    });

    it('that stay: what is deleted is gone', async () => {
      test.fake.serve(ROUTES);
      test.fake.put(ROUTES, route);
      test.fake.intercept = ({ path }, response) => {
        if (path !== DEFINITION) return false;
        send(response, 200, { metadata: { name: 'httproutes' } });
        return true;
      };
      const registry = test.open();
      await registry.synced();
      await until('watching', () => test.fake.watching(ROUTES) === 1);
      test.fake.remove(ROUTES, 'shop', 'route');
      await until('the route is gone', () => names(registry, 'PolicyHTTPRoute') === '');
      assert.deepEqual(test.told, []);
    });
  });

  describe('status', () => {
    const condition = { status: 'True', reason: 'Enrolled', message: 'ok', generation: 5 } as const;
    const patches = (): number => test.fake.requests.filter(({ method }) => method === 'PATCH').length;
    const events = () => test.fake.objects('/api/v1/events');
    async function opened() {
      putPods('web');
      const registry = test.open();
      await registry.synced();
      const uid = registry.list('Pod')[0]?.metadata.uid ?? '';
      return { registry, ref: { cluster: 'test', namespace: 'shop', name: 'web', uid } };
    }

    it('tries again what was refused for the moment', async () => {
      const { registry, ref } = await opened();
      let refusals = 0;
      test.fake.intercept = ({ method }, response) => {
        if (method !== 'PATCH' || refusals >= 2) return false;
        send(response, refusals++ === 0 ? 429 : 500, failure(500, 'InternalError'));
        return true;
      };
      await registry.reportStatus(ref, { condition });
      assert.equal(patches(), 3);
    });

    it('writes again what another writer has changed', async () => {
      const { registry, ref } = await opened();
      const other = test.open();
      await other.synced();
      const seen = (status: string) =>
        until(`condition ${status}`, () =>
          [registry, other].every(
            (one) =>
              one.list('Pod')[0]?.status.conditions.find(({ type }) => type !== 'Ready')?.status === status,
          ),
        );
      await registry.reportStatus(ref, { condition });
      await seen('True');
      await other.reportStatus(ref, { condition: { ...condition, status: 'False', reason: 'Left' } });
      await seen('False');
      await registry.reportStatus(ref, { condition });
      await seen('True');
    });

    it('holds the generation where Kubernetes drops observedGeneration', async () => {
      const { registry, ref } = await opened();
      await registry.reportStatus(ref, { condition });
      const patch = test.fake.requests.find(({ method }) => method === 'PATCH')?.body;
      const text = JSON.stringify(patch);
      assert.match(text, /"message":"ok \(generation 5\)"/);
      const pod = test.fake.objects(PODS)[0];
      test.fake.put(
        PODS,
        JSON.parse(JSON.stringify(pod).replace(/"observedGeneration":5/, '"x":0')) as {
          metadata: { name: string };
        },
      );
      const own = () => registry.list('Pod')[0]?.status.conditions.find(({ type }) => type !== 'Ready');
      await until('read back', () => own()?.observedGeneration === 5);
      assert.equal(own()?.message, 'ok');
    });

    it('says an Event once, and again after a transition', async () => {
      const { registry, ref } = await opened();
      const event = { type: 'Warning', reason: 'MeshNotPossible', message: 'host network' } as const;
      await registry.reportStatus(ref, { events: [event] });
      await registry.reportStatus(ref, { events: [event] });
      await until('written', () => test.fake.requests.some(({ path }) => path.endsWith('/events')));
      await registry.reportStatus(ref, { condition, events: [event] });
      await until('counted', () => events()[0]?.['count'] === 2);
      assert.equal(events().length, 1);
      const subject = events()[0]?.['involvedObject'] as { readonly uid: string } | undefined;
      assert.equal(subject?.uid, ref.uid);
    });

    it('another replica makes no second Event of the same', async () => {
      const { registry, ref } = await opened();
      const other = test.open();
      await other.synced();
      const event = { type: 'Warning', reason: 'MeshNotPossible', message: 'host network' } as const;
      await registry.reportStatus(ref, { events: [event] });
      await until('written', () => test.fake.requests.some(({ path }) => path.endsWith('/events')));
      await other.reportStatus(ref, { events: [event] });
      await until(
        'tried',
        () => test.fake.requests.filter(({ path }) => path.endsWith('/events')).length === 2,
      );
      assert.deepEqual(
        events().map((one) => one['count']),
        [1],
      );
    });
  });
});
