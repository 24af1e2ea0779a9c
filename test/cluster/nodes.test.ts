// SPDX-License-Identifier: Apache-2.0
// The mesh on the nodes of a cluster, as a user has it: installed, opted in to by annotation, its agents deleted and
// rolled, and taken off again; all of it under load.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { capabilityRights } from '../../install/objects/node-rights.ts';
import { capture } from '../e2e/capture.ts';
import { assertOnly, HTTP_PORT, type Load, type LoadGround, startLoad, summary } from '../faults/load.ts';
import { sumOf } from '../conformance/metrics.ts';
import { type Cluster, openCluster } from './cluster.ts';
import { clientPod, echoPod, groundOf, loadPrograms } from './load-pods.ts';
import { type Installation, installationOn, MESH_NAMESPACE } from './installation.ts';
import { assertMeshEvents, enrolment, scrapeNode, untilReason } from './mesh.ts';
import { newIn, nodeFacts, podOnEachNode } from './node-facts.ts';

const SHOP = 'nodes-shop';
const PLAIN = 'nodes-plain';
const INJECT = 'linkerd.io/inject';
const RATE = 20;
/** A server on each node; a client on the first. */
const SHOP_PODS = ['near', 'far', 'caller'];
const SHOP_IDENTITY = `default.${SHOP}.serviceaccount.identity.linkerd.cluster.local`;
const CONFLIST = 'etc/cni/net.d/00-nodemesh.conflist';

describe('the mesh on the nodes', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  let mesh: Installation;
  let ground: LoadGround;
  let untouched: ReadonlyMap<string, readonly string[]>;

  const facts = async (): Promise<Map<string, readonly string[]>> =>
    new Map(
      await Promise.all(cluster.nodes.map(async (node) => [node.name, await nodeFacts(node)] as const)),
    );
  const loads = async (kinds?: Parameters<typeof startLoad>[1]['kinds'], streams = 0): Promise<Load[]> => {
    const ways = [
      { from: { ns: SHOP, pod: 'caller' }, to: `near.${SHOP}` },
      { from: { ns: SHOP, pod: 'caller' }, to: `far.${SHOP}` },
      { from: { ns: PLAIN, pod: 'outsider' }, to: `far.${SHOP}` },
    ];
    return Promise.all(
      ways.map((way) =>
        startLoad(ground, { ...way, rate: RATE, connections: 2, streams, ...(kinds && { kinds }) }),
      ),
    );
  };
  const annotate = (kind: string, name: string, value: string, ...more: string[]): Promise<string> =>
    cluster.kubectl(['annotate', '--overwrite', kind, name, `${INJECT}=${value}`, ...more]);

  before(async () => {
    cluster = await openCluster();
    mesh = installationOn(cluster);
    ground = groundOf(cluster);
    const [near = '', far = ''] = cluster.nodes.map(({ name }) => name);
    await mesh.removeAll();
    await mesh.installControlPlane();
    for (const namespace of [SHOP, PLAIN]) await cluster.makeNamespace(namespace);
    await cluster.apply([
      loadPrograms(SHOP),
      loadPrograms(PLAIN),
      ...echoPod(SHOP, 'near', { node: near }),
      ...echoPod(SHOP, 'far', { node: far }),
      clientPod(SHOP, 'caller', { node: near }),
      clientPod(PLAIN, 'outsider', { node: near }),
    ]);
    await mesh.controlPlaneReady();
    for (const [namespace, pods] of [
      [SHOP, SHOP_PODS],
      [PLAIN, ['outsider']],
    ] as const)
      for (const pod of pods) await cluster.podsReady(namespace, `app=${pod}`, 1);
    await podOnEachNode(cluster, PLAIN);
    untouched = await facts();
  });
  after(async () => {
    if (cluster === undefined) return;
    await mesh.removeAll();
    await cluster.close();
  });

  it('is installed by mesh install-cni | kubectl apply, without restarting any pod', async () => {
    await mesh.installNodes();
    const agents = await mesh.nodePodsReady('agent');
    await mesh.nodePodsReady('keeper');
    assert.deepEqual(
      agents.map(({ spec }) => spec.nodeName).sort(),
      cluster.nodes.map(({ name }) => name).sort(),
    );
    for (const node of cluster.nodes) {
      // The installer is a container of its own.
      await cluster.waitFor(`the plugin is first on ${node.name}`, async () =>
        (await node.output(['ls', '/etc/cni/net.d'])).startsWith('00-nodemesh.conflist\n'),
      );
      assert.equal(
        await node.output([
          'sh',
          '-c',
          'for pid in $(pgrep -f "[a]gent/main.ts"); do grep -h CapEff /proc/$pid/status; done | sort -u',
        ]),
        `CapEff:\t${capabilityMask('agent')}\n`,
      );
    }
    assert.equal(await enrolment(cluster, SHOP, 'near'), undefined);
  });

  it('takes running pods of a namespace in, under load, and nothing fails', async (t) => {
    const running = await loads(['http-new', 'http-kept', 'tcp-new', 'tcp-kept'], 1);
    await annotate('namespace', SHOP, 'enabled');
    await untilReason(cluster, SHOP, SHOP_PODS, 'Enrolled');
    await cluster.waitFor('the far server sees mTLS of the client', async () => {
      const labels = { pod: 'far', direction: 'inbound', peer: 'src', tls: 'true', client_id: SHOP_IDENTITY };
      return sumOf(await scrapeNode(cluster, cluster.nodes[1]?.name ?? ''), 'tcp_open_total', labels) > 0;
    });
    const reports = await Promise.all(running.map((load) => load.stop()));
    t.diagnostic(summary(reports));
    for (const report of reports) assertOnly(report, { minRate: RATE * 0.7 });
    for (const pod of SHOP_PODS) {
      assert.equal((await enrolment(cluster, SHOP, pod))?.status, 'True');
      await assertMeshEvents(cluster, SHOP, pod, ['MeshEnrolled']);
    }
    assert.equal(await enrolment(cluster, PLAIN, 'outsider'), undefined);
  });

  it('lets nobody between the nodes read what meshed pods say', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nodemesh-wire-'));
    const marker = randomUUID();
    const say = async (ns: string, pod: string, text: string): Promise<void> => {
      const url = `http://far.${SHOP}:${HTTP_PORT}/${text}`;
      const argv = ['curl', '-sS', '--max-time', '10', '-H', `x-nonce: ${text}`, url];
      const said = await cluster.exec({ namespace: ns, pod }, argv);
      assert.equal(said.stdout, `${text} far\n`, said.stderr);
    };
    const seen = async (ns: string, pod: string): Promise<number> => {
      const file = join(folder, `${ns}.pcap`);
      const tape = await capture(cluster.layout.nodes[1]?.netns ?? '', 'eth0', file);
      await say(ns, pod, marker);
      // What is on the wire after it: with that the tape has all of it.
      const end = randomUUID();
      await say(PLAIN, 'outsider', end);
      await cluster.waitFor('the tape has it', async () => readFileSync(file).includes(end));
      await tape.stop();
      return readFileSync(file).toString('latin1').split(marker).length - 1;
    };
    try {
      assert.ok((await seen(PLAIN, 'outsider')) >= 3, 'the capture works');
      assert.equal(await seen(SHOP, 'caller'), 0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('takes a single pod in by its own annotation, and out where the namespace is in', async () => {
    await annotate('pod', 'outsider', 'enabled', `--namespace=${PLAIN}`);
    await untilReason(cluster, PLAIN, ['outsider'], 'Enrolled');
    const [node = ''] = cluster.nodes.map(({ name }) => name);
    await cluster.apply([clientPod(SHOP, 'apart', { node, annotations: { [INJECT]: 'disabled' } })]);
    await cluster.podsReady(SHOP, 'app=apart', 1);
    assert.notEqual((await enrolment(cluster, SHOP, 'apart'))?.status, 'True');
    await cluster.kubectl(['delete', 'pod', 'apart', `--namespace=${SHOP}`, '--wait']);
  });

  it('comes back to the front of the chain when somebody rewrites the configuration, and new pods start meshed', async () => {
    const [node] = cluster.nodes;
    assert.ok(node !== undefined);
    const bridge = join(node.root, 'etc/cni/net.d/10-bridge.conflist');
    const text = readFileSync(bridge, 'utf8');
    const written = JSON.parse(text) as { plugins: object[] };
    const changed = {
      ...written,
      plugins: written.plugins.map((one, at) => (at === 0 ? { ...one, mtu: 1400 } : one)),
    };
    try {
      rmSync(join(node.root, CONFLIST));
      writeFileSync(bridge, JSON.stringify(changed));
      await cluster.waitFor('the conflist is made anew from the changed one', () =>
        Promise.resolve(
          read(join(node.root, CONFLIST)).includes('1400') &&
            read(join(node.root, CONFLIST)).includes('nodemesh-cni'),
        ),
      );
    } finally {
      writeFileSync(bridge, text);
    }
    await cluster.apply([clientPod(SHOP, 'late', { node: node.name })]);
    await cluster.podsReady(SHOP, 'app=late', 1);
    await untilReason(cluster, SHOP, ['late'], 'Enrolled');
    await cluster.kubectl(['delete', 'pod', 'late', `--namespace=${SHOP}`, '--wait']);
  });

  it('rolls its agents under load without a failed request', async (t) => {
    const running = await loads(['http-new', 'http-kept', 'tcp-new']);
    await mesh.restartAgents();
    const reports = await Promise.all(running.map((load) => load.stop()));
    t.diagnostic(summary(reports));
    for (const report of reports) assertOnly(report, { minRate: RATE * 0.7 });
  });

  it('loses an agent to kubectl delete pod and refuses nobody', async (t) => {
    const agents = await mesh.nodePodsReady('agent');
    const agent = agents.find(({ spec }) => spec.nodeName === cluster.nodes[1]?.name);
    assert.ok(agent !== undefined);
    const running = await loads(['http-new', 'http-kept', 'tcp-new']);
    await cluster.kubectl(['delete', 'pod', `--namespace=${MESH_NAMESPACE}`, '--wait', agent.metadata.name], {
      timeoutMs: 260_000,
    });
    await mesh.nodePodsReady('agent');
    const reports = await Promise.all(running.map((load) => load.stop()));
    t.diagnostic(summary(reports));
    for (const report of reports) assertOnly(report, { minRate: RATE * 0.5 });
  });

  it('lets pods out again under load, and nothing fails', async (t) => {
    const refused = await mesh.run('uninstall-cni');
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, new RegExp(`${SHOP}/near`));
    const running = await loads(['http-new', 'http-kept', 'tcp-new']);
    await annotate('namespace', SHOP, 'disabled');
    await annotate('pod', 'outsider', 'disabled', `--namespace=${PLAIN}`);
    await untilReason(cluster, SHOP, SHOP_PODS, 'OptedOut');
    await untilReason(cluster, PLAIN, ['outsider'], 'OptedOut');
    const reports = await Promise.all(running.map((load) => load.stop()));
    t.diagnostic(summary(reports));
    for (const report of reports) assertOnly(report, { minRate: RATE * 0.7 });
    await assertMeshEvents(cluster, SHOP, 'near', ['MeshEnrolled', 'MeshLeaving', 'MeshLeft']);
  });

  it('is taken off by mesh uninstall-cni, and the nodes are as they were', async (t) => {
    const running = await loads();
    assert.ok(newIn([...(await facts()).values()].flat(), [...untouched.values()].flat()).length > 5);
    await mesh.printed('uninstall-cni');
    const reports = await Promise.all(running.map((load) => load.stop()));
    t.diagnostic(summary(reports));
    for (const report of reports) assertOnly(report, { minRate: RATE * 0.7 });
    for (const [name, now] of await facts()) {
      const was = untouched.get(name) ?? [];
      assert.deepEqual(newIn(now, was), [], `${name} has more than before`);
      assert.deepEqual(newIn(was, now), [], `${name} has less than before`);
    }
  });
});

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // being replaced
  }
};

const NUMBERS: Readonly<Record<string, bigint>> = {
  DAC_OVERRIDE: 1n,
  NET_ADMIN: 12n,
  SYS_PTRACE: 19n,
  SYS_ADMIN: 21n,
};

/** As /proc/PID/status shows it. */
function capabilityMask(container: string): string {
  const bits = capabilityRights
    .filter((right) => right.container === container)
    .map(({ capability }) => NUMBERS[capability] ?? assert.fail(`the number of ${capability}`));
  return bits
    .reduce((mask, bit) => mask | (1n << bit), 0n)
    .toString(16)
    .padStart(16, '0');
}
