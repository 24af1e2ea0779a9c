// SPDX-License-Identifier: Apache-2.0
// Every kind of workload in a meshed namespace: a table of who calls whom, and what must be seen of it by the
// application (address and identity of its client), by a scraper (tls label) and on the pod (condition, Event).

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { ENROLLED_CONDITION } from '#lib/registry/model.ts';
import type { CommandResult } from '../../../local/command.ts';
import { sumOf } from '../../conformance/metrics.ts';
import { type Cluster, isReady, type KubernetesObject } from '../cluster.ts';
import { assertMeshEvents, enrolment, scrapeNode, untilReason } from '../mesh.ts';
import { forwardPort } from '../port-forward.ts';
import { sharedMesh } from '../shared-mesh.ts';
import {
  callers,
  DIE,
  HOST_NETWORK_PORT,
  HOST_PORT,
  NODE_PORTS,
  NS,
  PLAIN_NS,
  PORT,
  probeNames,
  servers,
} from '../workload-objects.ts';

interface Pod extends KubernetesObject {
  readonly spec: { readonly nodeName: string; readonly serviceAccountName: string };
  readonly status: {
    readonly podIP: string;
    readonly phase: string;
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
    }[];
  };
}

type Seen = 'enrolled' | 'not possible';

interface Row {
  readonly what: string;
  /** The pod that the row is about, by its label `app`. */
  readonly pod: string;
  /** A pod that asks, or `host` (the near node's own network), `outside` (a machine that is no node), or the log of a pod. */
  readonly from:
    | { readonly pod: string }
    | 'host'
    | 'outside'
    | { readonly log: string; readonly container?: string };
  /** What is asked; with a log it is always the Deployment. */
  readonly url?: (address: (name: string) => string) => string;
  /** Who answers, if it is not the pod of the row. */
  readonly server?: string;
  /** Whose address the server sees; absent: the port's own rules decide. */
  readonly peer?: string;
  /** The account that the mesh vouches for; absent: none. */
  readonly identity?: string;
  /** Of the server's series; absent: the server is not in the mesh. */
  readonly tls?: 'true' | 'no_identity';
  readonly seen: Seen;
}

const caller = { pod: 'caller' };
const vouched = { peer: 'caller', identity: 'caller', tls: 'true', seen: 'enrolled' } as const;
const own = { server: 'deployment', identity: 'default', tls: 'true', seen: 'enrolled' } as const;
const plain = { tls: 'no_identity', seen: 'enrolled' } as const;
const at =
  (host: string, port = PORT) =>
  (): string =>
    `http://${host}.${NS}:${port}/`;
const atPod =
  (name: string, port = PORT) =>
  (address: (name: string) => string): string =>
    `http://${address(name)}:${port}/`;

const rows: readonly Row[] = [
  {
    what: 'a Deployment behind a Service',
    pod: 'deployment',
    from: caller,
    url: at('deployment'),
    ...vouched,
  },
  {
    what: 'a client without a mesh',
    pod: 'deployment',
    from: { pod: 'outsider' },
    url: at('deployment'),
    peer: 'outsider',
    ...plain,
  },
  {
    what: 'a StatefulSet by the name of its pod',
    pod: 'stateful-1',
    from: caller,
    url: at('stateful-1.stateful'),
    ...vouched,
  },
  { what: 'a Job that ends', pod: 'job', from: { log: 'job' }, peer: 'job', ...own },
  { what: 'a CronJob that ends', pod: 'cron', from: { log: 'cron' }, peer: 'cron', ...own },
  { what: 'a pod that lives for a second', pod: 'brief', from: { log: 'brief' }, peer: 'brief', ...own },
  {
    what: 'an init container that needs the network',
    pod: 'init',
    from: { log: 'init', container: 'first' },
    peer: 'init',
    ...own,
  },
  {
    what: 'a native sidecar that is called',
    pod: 'sidecar',
    from: caller,
    url: atPod('sidecar'),
    ...vouched,
  },
  {
    what: 'a container beside a native sidecar',
    pod: 'sidecar',
    from: { log: 'sidecar', container: 'main' },
    peer: 'sidecar',
    ...own,
  },
  { what: 'the first of two containers', pod: 'two', from: caller, url: atPod('two'), ...vouched },
  { what: 'the second of two containers', pod: 'two', from: caller, url: atPod('two', PORT + 1), ...vouched },
  { what: 'a hostPort', pod: 'host-port', from: 'outside', url: atPod('far node', HOST_PORT), ...plain },
  {
    what: 'a hostPort that a meshed pod calls',
    pod: 'host-port',
    from: caller,
    url: atPod('far node', HOST_PORT),
    ...vouched,
  },
  {
    what: 'a NodePort, policy Local',
    pod: 'node-port',
    from: 'outside',
    url: atPod('far node', NODE_PORTS.Local),
    peer: 'outside',
    ...plain,
  },
  {
    what: 'a NodePort, policy Cluster',
    pod: 'node-port',
    from: 'outside',
    url: atPod('near node', NODE_PORTS.Cluster),
    ...plain,
  },
  {
    what: 'a client in the network of its node',
    pod: 'deployment',
    from: 'host',
    url: atPod('deployment'),
    ...plain,
  },
  {
    what: 'a server in the network of its node',
    pod: 'host-network',
    from: caller,
    url: atPod('far node', HOST_NETWORK_PORT),
    peer: 'caller',
    seen: 'not possible',
  },
  { what: 'a pod with NET_ADMIN', pod: 'net-admin', from: caller, url: atPod('net-admin'), ...vouched },
  {
    what: 'a pod without any capability, read-only',
    pod: 'restricted',
    from: caller,
    url: atPod('restricted'),
    ...vouched,
  },
  {
    what: 'a pod with a container called linkerd-proxy',
    pod: 'with-proxy',
    from: caller,
    url: atPod('with-proxy'),
    peer: 'caller',
    seen: 'not possible',
  },
];

const viaService = new Set(['deployment', 'stateful-1', 'node-port']);
/** What is not in the mesh while it runs. */
const outside = new Set([
  'outsider',
  ...rows.filter(({ seen }) => seen === 'not possible').map(({ pod }) => pod),
]);
/** What has ended is in the mesh no more. */
const ends = new Set(['job', 'cron', 'brief']);

const isEnrolled = ({ status }: Pod): boolean =>
  status.conditions?.some((one) => one.type === ENROLLED_CONDITION && one.status === 'True') === true;

describe('workloads of a meshed namespace', { timeout: 800_000 }, () => {
  const shared = sharedMesh();
  let cluster: Cluster;
  let pods: readonly Pod[];

  const requireNode = (index: 0 | 1) => cluster.nodes[index] ?? assert.fail(`no node ${index}`);
  const look = async (): Promise<void> => {
    const found = await Promise.all(
      [NS, PLAIN_NS].map((ns) => cluster.list<Pod>(['pods', `--namespace=${ns}`])),
    );
    pods = found.flat();
  };
  const podOf = (name: string): Pod =>
    pods.find(({ metadata }) => metadata.name === name || metadata.labels?.['app'] === name) ??
    assert.fail(`no pod ${name}`);
  const addressOf = (name: string): string => {
    if (name === 'near node') return requireNode(0).address;
    if (name === 'far node') return requireNode(1).address;
    if (name === 'outside') return cluster.control.address;
    return podOf(name).status.podIP;
  };
  const identityOf = (account: string | undefined): string =>
    account === undefined ? '-' : `${account}.${NS}.serviceaccount.identity.linkerd.cluster.local`;
  const place = (pod: Pod) => ({ namespace: pod.metadata.namespace ?? '', pod: pod.metadata.name });

  before(async () => {
    ({ cluster } = await shared.open());
    const [near = '', far = ''] = cluster.nodes.map(({ name }) => name);
    for (const namespace of [NS, PLAIN_NS]) await cluster.makeNamespace(namespace);
    await cluster.kubectl(['annotate', 'namespace', NS, 'linkerd.io/inject=enabled']);
    await cluster.apply(servers(near, far));
    // What calls as soon as it starts asks once.
    for (const name of ['caller', 'deployment']) await cluster.podsReady(NS, `app=${name}`, 1);
    await look();
    await untilReason(cluster, NS, ['caller', podOf('deployment').metadata.name], 'Enrolled');
    const [deployment = assert.fail()] = rows;
    await untilCalled(deployment);
    await cluster.apply(callers(far));
    await cluster.kubectl(['create', 'job', 'cron', '--from=cronjob/cron', `--namespace=${NS}`]);
    await cluster.waitFor('every pod is ready, and in the mesh if it can be, or has ended', async () => {
      await look();
      const begun = pods.filter(
        (pod) =>
          pod.status.phase === 'Succeeded' ||
          (isReady(pod) && (isEnrolled(pod) || outside.has(pod.metadata.name))),
      );
      return pods.length >= 22 && begun.length === pods.length;
    });
    // kube-proxy and DNS learn of a service in their own time.
    for (const row of rows.filter(
      ({ server, pod, url }) => url !== undefined && viaService.has(server ?? pod),
    ))
      await untilCalled(row);
  });
  after(() => shared.close());

  async function answerTo(row: Row): Promise<string> {
    const { from } = row;
    if (typeof from === 'object' && 'log' in from) {
      const { container } = from;
      const spoken = { ...place(podOf(from.log)), ...(container && { container }) };
      // A container runs before it was answered.
      return await cluster.waitFor(`${from.log} was answered`, async () => {
        const log = (await cluster.logs(spoken)).trim();
        return log !== '' && log;
      });
    }
    const { code, stdout, stderr } = await call(row);
    assert.equal(code, 0, stderr);
    return stdout.trim();
  }

  async function call({ from, url }: Row): Promise<CommandResult> {
    const argv = ['curl', '-sS', '--max-time', '15', url?.(addressOf) ?? ''];
    if (typeof from === 'object' && 'pod' in from) return cluster.exec(place(podOf(from.pod)), argv);
    return (from === 'host' ? requireNode(0) : cluster.control).run(argv);
  }

  const untilCalled = (row: Row): Promise<unknown> =>
    cluster.waitFor(`${row.what} can be called`, async () => (await call(row)).code === 0);

  for (const row of rows) {
    it(row.what, async () => {
      const server = podOf(row.server ?? row.pod);
      const [name, peer, identity] = (await answerTo(row)).split(' ');
      const hostNetwork = row.pod === 'host-network';
      assert.equal(name, hostNetwork ? server.spec.nodeName : server.metadata.name);
      if (row.peer !== undefined) assert.equal(peer, addressOf(row.peer));
      assert.equal(identity, identityOf(row.identity));
      const labels = {
        pod: server.metadata.name,
        direction: 'inbound',
        ...(row.tls && { tls: row.tls }),
        ...(row.identity && { client_id: identityOf(row.identity) }),
      };
      const counted = async (): Promise<number> =>
        sumOf(await scrapeNode(cluster, server.spec.nodeName), 'response_total', labels);
      if (row.tls === undefined) assert.equal(await counted(), 0);
      else await cluster.waitFor(JSON.stringify(labels), async () => (await counted()) > 0);
      const subject = podOf(row.pod);
      await assertMeshEvents(cluster, NS, subject.metadata.name, [
        row.seen === 'enrolled' ? 'MeshEnrolled' : 'MeshNotPossible',
      ]);
      if (ends.has(row.pod)) return;
      const { status } = (await enrolment(cluster, NS, subject.metadata.name)) ?? {};
      assert.equal(status === 'True', row.seen === 'enrolled');
    });
  }

  it('a server bound to loopback stays private, and is there for its own pod', async () => {
    const url = (host: string): string[] => ['curl', '-sSi', '--max-time', '10', `http://${host}:${PORT}/`];
    const refused = await cluster.exec(place(podOf('outsider')), url(addressOf('loopback')));
    assert.equal(refused.code, 7, `no connection refused: ${refused.stdout}${refused.stderr}`);
    const told = await cluster.exec(place(podOf('caller')), url(addressOf('loopback')));
    assert.match(told.stdout, /^HTTP\/1\.1 50[234] /);
    const inside = await cluster.exec(place(podOf('loopback')), url('127.0.0.1'));
    assert.match(inside.stdout, /\r\nloopback 127\.0\.0\.1 -\n$/, inside.stderr);
  });

  it('kubectl port-forward reaches an application as it is', async () => {
    const forward = await forwardPort(cluster, place(podOf('two')), PORT);
    try {
      const said = await cluster.control.output([
        'curl',
        '-sS',
        '--max-time',
        '10',
        `http://127.0.0.1:${forward.port}/`,
      ]);
      assert.equal(said.trim(), 'two 127.0.0.1 -');
    } finally {
      await forward.close();
    }
  });

  for (const name of probeNames) {
    it(`an application that died fails its probe: ${name}`, async () => {
      const pod = `probed-${name}`;
      const died = await cluster.exec({ namespace: NS, pod }, DIE);
      assert.equal(died.code, 0, died.stderr);
      await cluster.waitFor('the pod is not ready', async () => {
        await look();
        return !isReady(podOf(pod));
      });
    });
  }
});
