// SPDX-License-Identifier: Apache-2.0
// The registry on a real API server: the suite that every registry passes, and what only a real one does.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { registryBehaviour } from '#lib/registry/behaviour.ts';
import type { KubernetesApi } from '#lib/registry-kubernetes/api-client.ts';
import { kubectl } from '../kind/kubectl.ts';
import {
  clusterApi,
  makeNamespace,
  type Manifest,
  type OpenedRegistry,
  openRegistry,
  retried,
  testCluster,
  unless,
  until,
} from './cluster-api.ts';
import { withoutMesh } from './installation.ts';

const podPath = (namespace: string, name = ''): string =>
  `/api/v1/namespaces/${namespace}/pods${name === '' ? '' : `/${name}`}`;

const deleteNow = { apiVersion: 'v1', kind: 'DeleteOptions', gracePeriodSeconds: 0 };

async function removePod(api: KubernetesApi, namespace: string, name: string): Promise<void> {
  const path = podPath(namespace, name);
  await unless(404, api.call({ method: 'DELETE', path, body: deleteNow }));
  await until(
    `${namespace}/${name} is gone`,
    async () => (await unless(404, api.call({ path }))) === undefined,
  );
}

/** Makes the pod, or changes the status of the one that is there. */
async function applyPod(api: KubernetesApi, pod: Manifest): Promise<string> {
  const { namespace = 'default', name } = pod.metadata;
  const { status, ...body } = pod;
  await makeNamespace(api, namespace);
  await unless(
    409,
    retried([403], () => api.call({ method: 'POST', path: podPath(namespace), body })),
  );
  const ip = (status as { readonly podIP: string }).podIP;
  const changed = (await api.call({
    method: 'PATCH',
    path: `${podPath(namespace, name)}/status`,
    contentType: 'application/strategic-merge-patch+json',
    // A pod's addresses are merged by address.
    body: { status: { ...(status as object), podIPs: [{ $patch: 'replace' }, { ip }] } },
  })) as { readonly metadata: { readonly uid: string } };
  return changed.metadata.uid;
}

registryBehaviour('Kubernetes API', async () => {
  const api = await clusterApi();
  const opened: OpenedRegistry[] = [await openRegistry()];
  const another = await openRegistry();
  opened.push(another);
  const made = new Set<string>();
  const [first] = opened;
  assert.ok(first);
  const apply = async (object: Readonly<Record<string, unknown>>): Promise<string> => {
    const manifest = object as Manifest;
    if (object['kind'] === 'Namespace') {
      await makeNamespace(api, manifest.metadata.name);
      return '';
    }
    made.add(`${manifest.metadata.namespace}/${manifest.metadata.name}`);
    return await applyPod(api, manifest);
  };
  return {
    registry: first.registry,
    apply,
    async replace(object) {
      const { namespace = '', name } = (object as Manifest).metadata;
      await removePod(api, namespace, name);
      return await apply(object);
    },
    delete: (_kind, namespace, name) => removePod(api, namespace, name),
    another: () => another.registry,
    async close() {
      for (const key of made) {
        const [namespace = '', name = ''] = key.split('/');
        await removePod(api, namespace, name);
      }
      for (const one of opened) one.close();
      api.close();
    },
  };
});

describe('a real API server', () => {
  const namespace = `registry-${Date.now().toString(36)}`;
  let api: KubernetesApi;
  const opened: OpenedRegistry[] = [];
  const open = async (...options: Parameters<typeof openRegistry>): Promise<OpenedRegistry> => {
    const made = await openRegistry(...options);
    opened.push(made);
    return made;
  };
  afterEach(() => {
    for (const one of opened.splice(0)) one.close();
  });
  before(async () => {
    // Its definitions would be those of the mesh.
    await withoutMesh();
    api = await clusterApi();
    await makeNamespace(api, namespace);
  });
  after(async () => {
    await unless(404, api.call({ method: 'DELETE', path: `/api/v1/namespaces/${namespace}` }));
    api.close();
  });

  const create = async (path: string, object: Manifest): Promise<void> => {
    await api.call({ method: 'POST', path, body: object });
  };

  it('gives what is read of services and EndpointSlices: names, appProtocol, hints, families, headless, ExternalName', async () => {
    const { registry } = await open(['Service', 'EndpointSlice']);
    const metadata = { namespace };
    const services = `/api/v1/namespaces/${namespace}/services`;
    const ports = [{ name: 'web', port: 80, targetPort: 'http', appProtocol: 'kubernetes.io/h2c' }];
    await create(services, { kind: 'Service', metadata: { ...metadata, name: 'named' }, spec: { ports } });
    await create(services, {
      kind: 'Service',
      metadata: { ...metadata, name: 'headless' },
      spec: { clusterIP: 'None', ports, publishNotReadyAddresses: true },
    });
    await create(services, {
      kind: 'Service',
      metadata: { ...metadata, name: 'elsewhere' },
      spec: { type: 'ExternalName', externalName: 'example.org' },
    });
    await create(`/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`, {
      kind: 'EndpointSlice',
      metadata: { ...metadata, name: 'named-6', labels: { 'kubernetes.io/service-name': 'named' } },
      addressType: 'IPv6',
      ports: [{ name: 'web', port: 8080, appProtocol: 'kubernetes.io/h2c' }],
      endpoints: [
        {
          addresses: ['fd00::1'],
          conditions: { ready: false, serving: true, terminating: true },
          zone: 'zone-b',
          hints: { forZones: [{ name: 'zone-a' }] },
        },
      ],
    });
    await until('all are seen', () => {
      const names = registry.list('Service').map((service) => service.metadata.name);
      return (
        ['named', 'headless', 'elsewhere'].every((name) => names.includes(name)) &&
        registry.list('EndpointSlice').some((slice) => slice.metadata.name === 'named-6')
      );
    });
    const service = (name: string) => registry.get('Service', { cluster: 'test', namespace, name })?.spec;
    assert.deepEqual(service('named')?.ports, [
      { name: 'web', port: 80, protocol: 'TCP', targetPort: 'http', appProtocol: 'kubernetes.io/h2c' },
    ]);
    assert.equal(service('named')?.clusterIPs.length, 1);
    assert.deepEqual(service('headless')?.clusterIPs, []);
    assert.equal(service('headless')?.publishNotReadyAddresses, true);
    assert.equal(service('elsewhere')?.type, 'ExternalName');
    const slice = registry.get('EndpointSlice', { cluster: 'test', namespace, name: 'named-6' });
    assert.deepEqual(slice?.endpoints[0]?.addresses, ['fd00::1']);
    assert.deepEqual(slice.endpoints[0].forZones, ['zone-a']);
  });

  it('keeps nothing of a CustomResourceDefinition that vanishes but the last policy, and tells so', async () => {
    const definition = {
      apiVersion: 'apiextensions.k8s.io/v1',
      kind: 'CustomResourceDefinition',
      metadata: { name: 'httproutes.policy.linkerd.io' },
      spec: {
        group: 'policy.linkerd.io',
        scope: 'Namespaced',
        names: { kind: 'HTTPRoute', plural: 'httproutes', singular: 'httproute' },
        versions: [
          {
            name: 'v1beta3',
            served: true,
            storage: true,
            schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
          },
        ],
      },
    };
    const definitions = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
    await create(definitions, definition);
    const routes = `/apis/policy.linkerd.io/v1beta3/namespaces/${namespace}/httproutes`;
    await retried([404], () =>
      api.call({
        method: 'POST',
        path: routes,
        body: {
          apiVersion: 'policy.linkerd.io/v1beta3',
          kind: 'HTTPRoute',
          metadata: { name: 'route' },
          spec: { parentRefs: [], rules: [] },
        },
      }),
    );
    const { registry, told } = await open(['Namespace', 'PolicyHTTPRoute', 'HTTPRoute']);
    await registry.synced();
    assert.deepEqual(registry.list('HTTPRoute'), [], 'that kind is not served here, and is no hindrance');
    assert.equal(registry.list('PolicyHTTPRoute').length, 1);
    await api.call({ method: 'DELETE', path: `${definitions}/${definition.metadata.name}` });
    await until('an Event tells', () => told.length > 0);
    await until('the definition is gone', async () => {
      return (await unless(404, api.call({ path: routes }))) === undefined;
    });
    assert.equal(registry.list('PolicyHTTPRoute').length, 1);
    assert.deepEqual(
      told.map(({ reason }) => reason),
      ['DefinitionVanished'],
    );
  });

  it('tells by Events, which kubectl shows', async () => {
    const pod = {
      kind: 'Pod',
      metadata: { namespace, name: 'told' },
      spec: { nodeName: 'nowhere', containers: [{ name: 'app', image: 'none' }] },
      status: { phase: 'Running', podIP: '10.1.0.9' },
    };
    const uid = await applyPod(api, pod);
    const { registry } = await open(['Pod']);
    await registry.synced();
    const ref = { cluster: 'test', namespace, name: 'told', uid };
    const event = {
      type: 'Warning',
      reason: 'MeshNotPossible',
      message: 'Not meshed: host network',
    } as const;
    await registry.reportStatus(ref, {
      events: [event],
      condition: { status: 'False', reason: 'Failed', message: 'no', generation: 2 ** 47 },
    });
    const described = async () => await kubectl(testCluster(), ['describe', 'pod', '-n', namespace, 'told']);
    await until('kubectl shows it', async () =>
      /Warning +MeshNotPossible .*host network/.test(await described()),
    );
    assert.match(await described(), /nodemesh\.io\/Enrolled +False/);
    await removePod(api, namespace, 'told');
  });

  it('lists with a least-privilege account, and says what it may not', async () => {
    const layout = testCluster();
    await kubectl(layout, ['create', 'serviceaccount', 'reader', '-n', namespace]);
    const token = (await kubectl(layout, ['create', 'token', 'reader', '-n', namespace])).trim();
    const { registry, metrics } = await open(['Namespace', 'Pod'], token);
    await until('it is refused', async () => /status="403"/.test(await metrics.metrics()));
    let synced = false;
    void registry.synced().then(() => (synced = true));
    assert.equal(synced, false);
    await kubectl(layout, [
      'create',
      'clusterrole',
      'nodemesh-test-reader',
      '--verb=list,watch',
      '--resource=pods,namespaces',
    ]);
    try {
      await kubectl(layout, [
        'create',
        'clusterrolebinding',
        'nodemesh-test-reader',
        '--clusterrole=nodemesh-test-reader',
        `--serviceaccount=${namespace}:reader`,
      ]);
      await registry.synced();
      assert.ok(registry.list('Namespace').some(({ metadata }) => metadata.name === namespace));
    } finally {
      await kubectl(layout, [
        'delete',
        'clusterrole,clusterrolebinding',
        'nodemesh-test-reader',
        '--ignore-not-found',
      ]);
    }
  });
});
