// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { parse, parseAllDocuments } from 'yaml';
import { controlPlaneObjects } from '../../install/manifest.ts';
import { checkValues, mergeValues, type ValuesMap } from '../../install/values.ts';
import type { Cluster, ClusterObject } from './cluster.ts';
import { cniFlags, meaninglessOf, valuesOfFlags } from './flags.ts';
import { installCni } from './install-cni.ts';
import { memoryCluster, type MemoryCluster } from './memory-cluster.ts';
import { prune } from './prune.ts';
import { uninstall } from './uninstall.ts';
import { uninstallCni } from './uninstall-cni.ts';

const version = '1.2.3';
const namespace = 'nodemesh';
const REMOVAL = '/apis/apps/v1/namespaces/kube-system/daemonsets/nodemesh-cni-removal';

let notes: string[];
let cluster: MemoryCluster;
const note = (line: string): void => void notes.push(line);
const objectsOf = (text: string): ClusterObject[] =>
  parseAllDocuments(text).map((document) => document.toJS() as ClusterObject);
const same = (base: ValuesMap): Promise<ValuesMap> => Promise.resolve(base);
const withValues =
  (values: ValuesMap) =>
  (base: ValuesMap): Promise<ValuesMap> =>
    Promise.resolve(mergeValues(base, values));

const print = (change = same, from: Cluster | undefined = cluster): Promise<string> =>
  installCni({ namespace, output: 'yaml', cluster: from, change, version, note });

const installControlPlane = (values: ValuesMap): void =>
  cluster.add(controlPlaneObjects({ values: checkValues(values).values, namespace, version }));

beforeEach(() => {
  notes = [];
  cluster = memoryCluster();
});

describe('mesh install-cni', () => {
  it('prints the same bytes for the same command, and asks no cluster with --ignore-cluster', async () => {
    const once = await installCni({
      namespace,
      output: 'yaml',
      cluster: undefined,
      change: same,
      version,
      note,
    });
    assert.equal(
      await installCni({ namespace, output: 'yaml', cluster: undefined, change: same, version, note }),
      once,
    );
    assert.match(once, /^---\napiVersion: v1\nkind: ConfigMap\n/);
    assert.deepEqual(notes, []);
    const json = await installCni({
      namespace,
      output: 'json',
      cluster: undefined,
      change: same,
      version,
      note,
    });
    assert.deepEqual(
      json
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as unknown),
      objectsOf(once),
    );
  });

  it('takes what agents and control plane agree on from the installation, the command line over it', async () => {
    installControlPlane({
      identityTrustDomain: 'trust.example',
      identity: { namespace: 'other' },
      imagePullPolicy: 'Never',
      nodemesh: { registry: 'registry.example.com' },
      priorityClassName: 'theirs',
      tolerations: [{ key: 'theirs' }],
    });
    const text = await print();
    assert.match(
      text,
      /value: linkerd-identity\.nodemesh\.serviceaccount\.identity\.other\.trust\.example\n/,
    );
    assert.match(text, /image: registry\.example\.com\/nodemesh\/agent:/);
    assert.match(text, /imagePullPolicy: Never/);
    assert.doesNotMatch(text, /theirs/);
    const other = await print(withValues({ nodemesh: { registry: 'second.example.com' } }));
    assert.match(other, /image: second\.example\.com\/nodemesh\/keeper:/);
    assert.deepEqual(notes, []);
  });

  it('goes before the control plane too, and says so', async () => {
    assert.equal(await print(), await print(same, undefined));
    assert.match(
      notes.join('\n'),
      /no control plane in the namespace 'nodemesh' so far; the agents will wait/,
    );
  });

  it("does not join Linkerd's control plane", async () => {
    const metadata = { name: 'linkerd-config', namespace };
    cluster.add([{ apiVersion: 'v1', kind: 'ConfigMap', metadata }]);
    await assert.rejects(print(), /belongs to Linkerd.*--linkerd-namespace/s);
  });

  it("takes Linkerd's flags and keys, and says which mean nothing", async () => {
    const given = {
      'dest-cni-net-dir': '/var/lib/cni/net.d',
      'dest-cni-bin-dir': '/var/lib/cni/bin',
      'cni-log-level': 'debug',
      'priority-class-name': 'mine',
      'proxy-uid': '2102',
      set: ['useWaitFlag=true', 'resources.memory.limit=1Gi'],
    };
    const reader = { read: () => Promise.resolve(''), parse: () => ({}) };
    const text = await print((base) => valuesOfFlags(base, given, reader, cniFlags));
    for (const part of [
      /path: \/var\/lib\/cni\/net\.d/,
      /path: \/var\/lib\/cni\/bin/,
      /value: debug/,
      /memory: 1Gi/,
    ])
      assert.match(text, part);
    assert.match(text, /priorityClassName: mine/);
    assert.deepEqual(meaninglessOf(given, cniFlags), ['--proxy-uid']);
    assert.match(notes.join(), /mean nothing in a mesh without sidecars.*useWaitFlag/);
  });

  it('names a wrong value, and the page that lists all', async () => {
    await assert.rejects(
      print(withValues({ destCNINetDir: 'relative/path' })),
      /destCNINetDir: "relative\/path" cannot be used, expected an absolute path.*docs\/reference\/cni-values\.md/,
    );
    await assert.rejects(print(withValues({ logLevels: 'x' })), /did you mean logLevel\?/);
  });

  it('keeps its values in the cluster', async () => {
    const text = await print(withValues({ destCNIBinDir: '/home/bin' }));
    const map = objectsOf(text).find(({ metadata }) => metadata.name === 'linkerd-cni-config');
    assert.ok(map);
    const { values } = map['data'] as { values: string };
    assert.equal((parse(values) as { destCNIBinDir: string }).destCNIBinDir, '/home/bin');
  });
});

describe('mesh uninstall', () => {
  it('says what stays on the nodes', async () => {
    installControlPlane({});
    const options = { cluster, namespace, output: 'yaml', crds: false, force: false, note } as const;
    await uninstall(options);
    assert.deepEqual(notes, []);
    cluster.add(objectsOf(await print()));
    await uninstall(options);
    assert.match(notes.join(), /stays until `mesh uninstall-cni`/);
  });
});

describe('mesh prune', () => {
  it('leaves what runs on the nodes alone', async () => {
    installControlPlane({});
    cluster.add(objectsOf(await print()));
    assert.equal(await prune({ cluster, namespace, output: 'yaml', version }), '');
  });
});

describe('mesh uninstall-cni', () => {
  interface Node {
    unchained: boolean;
    clean: boolean;
  }
  let nodes: Node[];
  let steps: string[];
  let nowMs: number;

  const isThere = async (name: string): Promise<boolean> =>
    (await cluster.get(`/apis/apps/v1/namespaces/${namespace}/daemonsets/${name}`)) !== undefined;

  /** What controllers and nodes do in a second. */
  async function live(): Promise<void> {
    nowMs += 1_000;
    const removal = await cluster.get(REMOVAL);
    if (removal === undefined) return;
    const late = nodes.find((node) => !node.unchained);
    if (late !== undefined) late.unchained = true;
    else if (!(await isThere('nodemesh-agent')) && !(await isThere('nodemesh-keeper')))
      for (const node of nodes) node.clean = true;
    await cluster.apply(REMOVAL, {
      ...removal,
      status: {
        observedGeneration: 1,
        desiredNumberScheduled: nodes.length,
        numberReady: nodes.filter(({ clean }) => clean).length,
      },
    });
    cluster.add(
      nodes.map((node, at) => ({
        kind: 'Pod',
        metadata: {
          name: `removal-${at}`,
          namespace: 'kube-system',
          labels: { 'nodemesh.io/control-plane-component': 'cni-removal' },
        },
        spec: { nodeName: `node-${at}` },
        status: {
          initContainerStatuses: [
            { name: 'unchain', state: node.unchained ? { terminated: { exitCode: 0 } } : { running: {} } },
          ],
        },
      })),
    );
  }

  const run = (more: Partial<Parameters<typeof uninstallCni>[0]> = {}): Promise<void> =>
    uninstallCni({
      cluster: {
        ...cluster,
        apply: async (path, object) => {
          steps.push(`apply ${path.split('/').at(-1)}`);
          await cluster.apply(path, object);
        },
        remove: async (path) => {
          steps.push(
            `remove ${path.split('/').at(-1)} (unchained ${nodes.filter((n) => n.unchained).length})`,
          );
          await cluster.remove(path);
        },
      },
      namespace,
      force: false,
      change: same,
      version,
      waitMs: 60_000,
      nowMs: () => nowMs,
      sleep: live,
      note,
      ...more,
    });

  beforeEach(() => {
    nodes = [1, 2, 3].map(() => ({ unchained: false, clean: false }));
    steps = [];
    nowMs = 0;
  });

  it('takes the plugin out of every chain, then agents and keepers away, and waits for the rest', async () => {
    cluster.add(objectsOf(await print(withValues({ destCNIBinDir: '/home/bin' }))));
    let used: string | undefined;
    const apply = cluster.apply.bind(cluster);
    cluster.apply = async (path, object) => {
      used ??= JSON.stringify(object);
      await apply(path, object);
    };
    await run();
    assert.match(used ?? '', /"path":"\/home\/bin"/);
    assert.deepEqual(steps, [
      'apply nodemesh-cni-removal',
      'remove nodemesh-agent (unchained 3)',
      'remove nodemesh-agent (unchained 3)',
      'remove nodemesh-keeper (unchained 3)',
      'remove nodemesh-keeper (unchained 3)',
      'remove linkerd-cni-config (unchained 3)',
      'remove nodemesh-cni-removal (unchained 3)',
    ]);
    assert.ok(nodes.every(({ clean }) => clean));
    assert.equal(await cluster.get(REMOVAL), undefined);
  });

  it('finds the folders of a version with values that this one does not know', async () => {
    const values = 'destCNINetDir: /other/net.d\nfromTheFuture: 1\n';
    const labels = { 'nodemesh.io/control-plane-ns': namespace };
    cluster.add([
      {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name: 'linkerd-cni-config', namespace, labels },
        data: { values },
      },
    ]);
    await run({
      sleep: async () => {
        const removal = JSON.stringify(await cluster.get(REMOVAL));
        if (removal !== undefined) assert.match(removal, /"path":"\/other\/net\.d"/);
        await live();
      },
    });
    assert.ok(steps.includes('remove linkerd-cni-config (unchained 3)'));
  });

  it('works where the namespace is gone already', async () => {
    await run();
    assert.deepEqual(steps, ['apply nodemesh-cni-removal', 'remove nodemesh-cni-removal (unchained 3)']);
  });

  it('refuses while pods are in the mesh, and names them', async () => {
    const status = { conditions: [{ type: 'nodemesh.io/Enrolled', status: 'True' }] };
    cluster.add([{ kind: 'Pod', metadata: { name: 'web', namespace: 'shop' }, status }]);
    await assert.rejects(run(), /\t\* shop\/web$/);
    assert.deepEqual(steps, []);
    await run({ force: true });
  });

  it('names the nodes that it waited for in vain, and removes no agent before', async () => {
    cluster.add(objectsOf(await print()));
    await assert.rejects(run({ waitMs: 1_500 }), /out of the chain of 2 of 3 nodes, not of node-2/);
    assert.ok(await isThere('nodemesh-agent'));
    await run();
    assert.equal(await isThere('nodemesh-agent'), false);
  });

  it("leaves somebody else's objects of these names alone", async () => {
    cluster.add([
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'linkerd-cni-config', namespace } },
    ]);
    await run();
    assert.notEqual(
      await cluster.get(`/api/v1/namespaces/${namespace}/configmaps/linkerd-cni-config`),
      undefined,
    );
  });
});
