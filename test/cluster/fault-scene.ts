// SPDX-License-Identifier: Apache-2.0
// What the tests of faults on a cluster share: in a meshed namespace a server and a client on each of its first two nodes,
// and loads between all of them that need neither API server nor kubelet, containerd or DNS to go on.

import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { sumOf } from '../conformance/metrics.ts';
import {
  assertOnly,
  type Demands,
  HTTP_PORT,
  type Load,
  type LoadReport,
  startLoad,
  summary,
} from '../faults/load.ts';
import type { Cluster } from './cluster.ts';
import { groundWithin } from './in-pod.ts';
import { clientPod, echoPod, loadPrograms } from './load-pods.ts';
import { scrapeNode, untilReason } from './mesh.ts';
import type { Shared } from './shared-mesh.ts';

export const RATE = 20;
/** On the first node and on the second. */
const SERVERS = ['near', 'far'] as const;
const CLIENTS = ['caller', 'peer'] as const;
export type Server = (typeof SERVERS)[number];
export type Client = (typeof CLIENTS)[number];
export const ALL_WAYS: readonly (readonly [Client, Server])[] = CLIENTS.flatMap((client) =>
  SERVERS.map((server) => [client, server] as const),
);
type Kinds = Parameters<typeof startLoad>[1]['kinds'];

export interface FaultScene extends Shared {
  readonly namespace: string;
  readonly identity: string;
  /** Until a service's address is asked for by number there is no need of DNS. */
  addressOf(service: string): Promise<string>;
  loads(
    ways: readonly (readonly [Client, string])[],
    kinds?: Kinds,
    timeoutMs?: number,
  ): Promise<readonly Load[]>;
  /** A request is answered. */
  untilServed(client: Client, service: string): Promise<void>;
  /** The node's servers have had connections of meshed clients of other nodes. */
  untilMtls(node: string, on?: Cluster): Promise<void>;
  /** A new pod on the node starts, in the mesh. */
  startsMeshed(name: string, node: string): Promise<void>;
}

export async function openFaultScene({ cluster, mesh }: Shared, namespace: string): Promise<FaultScene> {
  const [near = '', far = ''] = cluster.nodes.map(({ name }) => name);
  await cluster.makeNamespace(namespace);
  await cluster.kubectl(['annotate', 'namespace', namespace, 'linkerd.io/inject=enabled']);
  await cluster.apply([
    loadPrograms(namespace),
    ...echoPod(namespace, 'near', { node: near }),
    ...echoPod(namespace, 'far', { node: far }),
    clientPod(namespace, 'caller', { node: near }),
    clientPod(namespace, 'peer', { node: far }),
  ]);
  await untilReason(cluster, namespace, [...SERVERS, ...CLIENTS], 'Enrolled');
  // The condition is there before the containers are.
  for (const name of [...SERVERS, ...CLIENTS]) await cluster.podsReady(namespace, `app=${name}`, 1);
  const identity = `default.${namespace}.serviceaccount.identity.linkerd.cluster.local`;
  const scene: FaultScene = {
    cluster,
    mesh,
    namespace,
    identity,
    addressOf: (service) => cluster.serviceAddress(namespace, service),
    async loads(ways, kinds, timeoutMs) {
      const clients = [...new Set(ways.map(([client]) => client))];
      const ground = await groundWithin(
        cluster,
        clients.map((pod) => ({ ns: namespace, pod })),
      );
      return Promise.all(
        ways.map(async ([pod, service]) =>
          startLoad(ground, {
            from: { ns: namespace, pod },
            to: await scene.addressOf(service),
            rate: RATE,
            connections: 2,
            ...(kinds && { kinds }),
            ...(timeoutMs !== undefined && { timeoutMs }),
          }),
        ),
      );
    },
    async untilServed(client, service) {
      const url = `http://${await scene.addressOf(service)}:${HTTP_PORT}/`;
      const argv = ['curl', '-sS', '-f', '-o', '/dev/null', '--max-time', '5', url];
      let said = '';
      await cluster
        .waitFor(`${client} is served by ${service}`, async () => {
          const { code, stderr } = await cluster.exec({ namespace, pod: client }, argv);
          said = stderr;
          return code === 0;
        })
        .catch((error: unknown) => assert.fail(`${String(error)}: ${said}`));
    },
    async untilMtls(node, on = cluster) {
      const labels = { direction: 'inbound', peer: 'src', tls: 'true', client_id: identity };
      await cluster.waitFor(
        `${node} sees mTLS of a client`,
        async () => sumOf(await scrapeNode(on, node), 'tcp_open_total', labels) > 0,
      );
    },
    async startsMeshed(name, node) {
      await cluster.apply([clientPod(namespace, name, { node })]);
      await untilReason(cluster, namespace, [name], 'Enrolled');
      await cluster.podsReady(namespace, `app=${name}`, 1);
      await cluster.kubectl(['delete', 'pod', name, `--namespace=${namespace}`, '--wait']);
    },
  };
  // A pod is ready before its service's endpoints are known to everybody.
  for (const [client, server] of ALL_WAYS) await scene.untilServed(client, server);
  return scene;
}

/** Ends the loads, tells what they have seen, and demands. */
export async function stopped(
  t: TestContext,
  running: readonly Load[],
  demands: Demands = { minRate: RATE * 0.7 },
): Promise<readonly LoadReport[]> {
  const reports = await Promise.all(running.map((load) => load.stop()));
  t.diagnostic(summary(reports));
  for (const report of reports) assertOnly(report, demands);
  return reports;
}
