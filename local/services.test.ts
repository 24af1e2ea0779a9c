// SPDX-License-Identifier: Apache-2.0
// Service addresses, rules and names as texts. That they work on real sockets is test/local/plain-pods.test.ts.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { applyManifests, deleteObjects } from './apply.ts';
import { dnsHosts } from './dns-records.ts';
import { meshLayout, ownsNetns, podNetns, requireMeshName } from './layout.ts';
import { parseManifests } from './manifests.ts';
import { serviceRules } from './service-rules.ts';
import { Store } from './store.ts';

const [node1] = meshLayout('t', 2, '/cgroup').nodes;
assert.ok(node1);

const service = (name: string, spec = '') =>
  `apiVersion: v1\nkind: Service\nmetadata: { name: ${name}, namespace: shop }\nspec: { selector: { app: web }, ports: [{ port: 80, targetPort: http }]${spec} }\n`;

const makeStore = (...manifests: readonly string[]): Store => {
  const store = new Store(() => 0);
  const text = ['apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n', ...manifests].join('---\n');
  applyManifests(store, parseManifests([{ file: 'test', text }]));
  return store;
};

function addPod(store: Store, name: string, ips: readonly string[], ready: boolean): void {
  const text = `apiVersion: v1\nkind: Pod\nmetadata: { name: ${name}, namespace: shop, labels: { app: web } }\nspec: { nodeName: node1, containers: [{ name: main, command: [a], ports: [{ name: http, containerPort: 8080 }] }] }\n`;
  applyManifests(store, parseManifests([{ file: 'test', text }]));
  store.updatePodStatus(store.require('Pod', 'shop', name), () => ({
    phase: 'Running',
    podIPs: ips.map((ip) => ({ ip })),
    conditions: [{ type: 'Ready', status: ready ? 'True' : 'False', lastTransitionTime: '' }],
  }));
}

describe('service addresses', () => {
  test('each service has one per family, and keeps them', () => {
    const store = makeStore(service('a'), service('b'));
    const ips = (name: string) => store.require('Service', 'shop', name).spec.clusterIPs;
    assert.deepEqual(ips('a'), ['10.96.1.0', 'fd00:10:96::100']);
    assert.deepEqual(ips('b'), ['10.96.1.1', 'fd00:10:96::101']);
    applyManifests(
      store,
      parseManifests([{ file: 'test', text: service('a', ', publishNotReadyAddresses: true') }]),
    );
    assert.deepEqual(ips('a'), ['10.96.1.0', 'fd00:10:96::100']);
    deleteObjects(store, [{ kind: 'Service', namespace: 'shop', name: 'a' }]);
    applyManifests(store, parseManifests([{ file: 'test', text: service('c') }]));
    assert.deepEqual(ips('c'), ['10.96.1.0', 'fd00:10:96::100']);
  });
  test('one may be asked for; a foreign or taken one is refused', () => {
    const store = makeStore(service('a', ', clusterIP: 10.96.0.77'));
    assert.equal(store.require('Service', 'shop', 'a').spec.clusterIP, '10.96.0.77');
    const apply = (text: string) => applyManifests(store, parseManifests([{ file: 'test', text }]));
    assert.throws(
      () => apply(service('b', ', clusterIP: 10.96.0.77')),
      /10\.96\.0\.77 belongs to shop\/a; choose another/,
    );
    assert.throws(() => apply(service('b', ', clusterIP: 192.0.2.1')), /not usable; choose one of/);
    assert.equal(store.get('Service', 'shop', 'b'), undefined);
  });
});

describe('service rules and names', () => {
  test('only ready pods are behind a service; each family has its own', () => {
    const store = makeStore(service('web'));
    addPod(store, 'one', ['10.244.1.2', 'fd00:10:244:1::2'], true);
    addPod(store, 'two', ['10.244.1.3', 'fd00:10:244:1::3'], false);
    const rules = serviceRules(node1, store.list('Service'), store.list('Pod'));
    assert.match(
      rules,
      /ip daddr 10\.96\.1\.0 tcp dport 80 dnat ip to numgen random mod 1 map \{ 0 : 10\.244\.1\.2 \. 8080 \}/,
    );
    assert.match(
      rules,
      /ip6 daddr fd00:10:96::100 tcp dport 80 dnat ip6 to numgen random mod 1 map \{ 0 : fd00:10:244:1::2 \. 8080 \}/,
    );
  });
  test('a headless service is the names of its pods', () => {
    const store = makeStore(service('web', ', clusterIP: None'));
    addPod(store, 'one', ['10.244.1.2', 'fd00:10:244:1::2'], true);
    assert.equal(
      dnsHosts(store.list('Service'), store.list('Pod')),
      '10.244.1.2 web.shop.svc.cluster.local\nfd00:10:244:1::2 web.shop.svc.cluster.local\n',
    );
    assert.doesNotMatch(serviceRules(node1, store.list('Service'), store.list('Pod')), /dnat/);
  });
});

describe('names of a mesh', () => {
  test('no mesh takes the namespaces of another whose name begins alike', () => {
    assert.ok(ownsNetns('a', 'nm-a-node1') && ownsNetns('a', podNetns('a', 'shop', 'web')));
    for (const other of ['nm-a-b-node1', 'nm-a-node1-wire', 'nm-b-wire', 'nm-a-pod-control'])
      assert.ok(!ownsNetns('a', other));
    assert.ok(ownsNetns('a-node1', 'nm-a-node1-wire'));
  });
  test('a name that is no file name is refused', () => {
    for (const name of ['', '..', 'a/b', 'A', '-a', 'x'.repeat(33)])
      assert.throws(() => requireMeshName(name), /use 1 to 32/);
  });
  test('a very long pod has a namespace that fits', () => {
    const long = podNetns('mesh', 'n'.repeat(63), 'p'.repeat(253));
    assert.ok(long.length < 255 && ownsNetns('mesh', long));
    assert.notEqual(long, podNetns('mesh', 'n'.repeat(63), 'p'.repeat(252)));
  });
});
