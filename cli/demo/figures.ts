// SPDX-License-Identifier: Apache-2.0
// From two scrapes of every agent to the figures of a table: what `mesh stat` and `mesh edges` would say of the
// time between. Pure.

import { growth, type Labels, quantile, type Sample } from './scrape.ts';

export interface DemoPod {
  readonly namespace: string;
  readonly name: string;
  /** The Deployment it belongs to. */
  readonly workload: string;
  readonly node: string;
  /** The identity that it should have. */
  readonly identity: string;
}

/** All samples of one moment, of all nodes. */
export type Scrape = readonly Sample[];

export interface WorkloadFigures {
  readonly namespace: string;
  readonly name: string;
  /** `2/2`: pods in the mesh of all. */
  readonly meshed: string;
  /** 0 to 1; of connections for a workload that speaks no HTTP. */
  readonly successRate: number;
  readonly rps: number;
  readonly p50Ms: number | null;
  readonly p95Ms: number | null;
  readonly p99Ms: number | null;
}

export interface Workload extends WorkloadFigures {
  readonly tcpConnections: number;
  /** What the rates are of: requests received, requests sent (a pure client), or connections. */
  readonly measured: 'inbound' | 'outbound' | 'tcp';
  /** Requests and bytes from and to other workloads of the mesh; probes do not count. */
  readonly traffic: number;
  readonly allMeshed: boolean;
}

export interface Edge {
  readonly src: string;
  readonly dst: string;
  /** As the server saw it; empty if it saw none. */
  readonly srcIdentity: string;
  /** As the client proved it; empty if it did not. */
  readonly dstIdentity: string;
  /** Both identities proven: by mutual TLS between nodes, by the kernel on one node. */
  readonly secured: boolean;
  readonly sameNode: boolean;
  /** HTTP requests, or connections of plain TCP. */
  readonly requests: number;
}

export interface Figures {
  readonly workloads: readonly Workload[];
  readonly edges: readonly Edge[];
}

const podKey = (namespace: string, name: string): string => `${namespace}/${name}`;

const labelsMatch = (labels: Labels, wanted: Labels): boolean =>
  Object.entries(wanted).every(([name, value]) => labels[name] === value);

function select(samples: readonly Sample[], name: string, wanted: Labels): Sample[] {
  return samples.filter((sample) => sample.name === name && labelsMatch(sample.labels, wanted));
}

const sum = (samples: readonly Sample[]): number => samples.reduce((total, { value }) => total + value, 0);

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));

export function computeFigures(
  pods: readonly DemoPod[],
  before: Scrape,
  after: Scrape,
  windowSeconds: number,
): Figures {
  const grown = growth(before, after);
  const workloads = new Map<string, DemoPod[]>();
  for (const pod of pods) {
    const key = podKey(pod.namespace, pod.workload);
    workloads.set(key, [...(workloads.get(key) ?? []), pod]);
  }
  return {
    workloads: [...workloads.keys()]
      .sort()
      .map((key) => workloadFigures(workloads.get(key) ?? [], grown, after, windowSeconds)),
    edges: edgeFigures(pods, grown, after),
  };
}

function workloadFigures(
  pods: readonly DemoPod[],
  allGrown: readonly Sample[],
  allAfter: readonly Sample[],
  windowSeconds: number,
): Workload {
  const [first] = pods;
  const own = { namespace: first?.namespace ?? '', deployment: first?.workload ?? '' };
  const grown = allGrown.filter(({ labels }) => labelsMatch(labels, own));
  const after = allAfter.filter(({ labels }) => labelsMatch(labels, own));
  // Every pod of the mesh has a start time for its counters.
  const inMesh = new Set(select(after, 'process_start_time_seconds', {}).map(({ labels }) => labels['pod']));
  const meshed = pods.filter((pod) => inMesh.has(pod.name)).length;

  const responses = (direction: string, more: Labels = {}): number =>
    sum(select(grown, 'response_total', { direction, ...more }));
  const measured = responses('inbound') > 0 ? 'inbound' : responses('outbound') > 0 ? 'outbound' : 'tcp';
  const direction = measured === 'outbound' ? 'outbound' : 'inbound';
  const total = responses(direction);
  const closed = select(grown, 'tcp_close_total', { direction, peer: 'src' });
  const closedWell = sum(closed.filter(({ labels }) => (labels['errno'] ?? '') === ''));
  const successRate =
    total > 0
      ? responses(direction, { classification: 'success' }) / total
      : sum(closed) > 0
        ? closedWell / sum(closed)
        : 1;

  const buckets = new Map<number, number>();
  for (const { labels, value } of select(grown, 'response_latency_ms_bucket', { direction })) {
    const bound = labels['le'] === '+Inf' ? Number.POSITIVE_INFINITY : Number(labels['le']);
    buckets.set(bound, (buckets.get(bound) ?? 0) + value);
  }
  const latency = (q: number): number | null => {
    const value = quantile(q, buckets);
    return value === null ? null : rounded(value, 2);
  };
  const meshedPeers = { tls: 'true' };
  return {
    namespace: own.namespace,
    name: own.deployment,
    meshed: `${meshed}/${pods.length}`,
    allMeshed: meshed === pods.length,
    successRate: rounded(successRate, 4),
    rps: rounded(total / windowSeconds, 2),
    p50Ms: latency(0.5),
    p95Ms: latency(0.95),
    p99Ms: latency(0.99),
    tcpConnections: sum(select(after, 'tcp_open_connections', { direction, peer: 'src' })),
    measured,
    traffic:
      sum(select(grown, 'request_total', { direction: 'inbound', ...meshedPeers })) +
      sum(select(grown, 'tcp_read_bytes_total', { direction: 'inbound', peer: 'src', ...meshedPeers })) +
      sum(select(grown, 'request_total', { direction: 'outbound' })),
  };
}

interface EdgeSums {
  readonly srcPods: Set<string>;
  requests: number;
  connections: number;
  bytes: number;
  unsecured: number;
  readonly serverIds: Set<string>;
}

function edgeFigures(pods: readonly DemoPod[], grown: readonly Sample[], after: readonly Sample[]): Edge[] {
  const podOf = new Map(pods.map((pod) => [podKey(pod.namespace, pod.name), pod]));
  const edges = new Map<string, EdgeSums>();
  const ofLabels = (labels: Labels): EdgeSums | undefined => {
    const dst = labels['dst_deployment'] ?? '';
    if (labels['direction'] !== 'outbound' || dst === '') return undefined;
    const from = podOf.get(podKey(labels['namespace'] ?? '', labels['pod'] ?? ''));
    const to = podOf.get(podKey(labels['dst_namespace'] ?? '', labels['dst_pod'] ?? ''));
    if (from === undefined) return undefined;
    const sameNode = to === undefined ? labels['same_node'] === 'true' : to.node === from.node;
    const key = JSON.stringify([from.namespace, from.workload, labels['dst_namespace'] ?? '', dst, sameNode]);
    let edge = edges.get(key);
    if (edge === undefined) {
      edge = {
        srcPods: new Set(),
        requests: 0,
        connections: 0,
        bytes: 0,
        unsecured: 0,
        serverIds: new Set(),
      };
      edges.set(key, edge);
    }
    return edge;
  };
  for (const { name, labels, value } of grown) {
    const isRequest = name === 'request_total';
    const isBytes = name === 'tcp_write_bytes_total' && labels['peer'] === 'dst';
    if ((!isRequest && !isBytes) || value <= 0) continue;
    const edge = ofLabels(labels);
    if (edge === undefined) continue;
    if (isRequest) edge.requests += value;
    else edge.bytes += value;
    if (labels['tls'] === 'true' && (labels['server_id'] ?? '') !== '')
      edge.serverIds.add(labels['server_id'] ?? '');
    else edge.unsecured += value;
    edge.srcPods.add(labels['pod'] ?? '');
  }
  for (const sample of select(after, 'tcp_open_total', { direction: 'outbound', peer: 'dst' })) {
    const edge = ofLabels(sample.labels);
    if (edge !== undefined) edge.connections += sample.value;
  }

  // What servers saw of their clients, by the server's Deployment.
  const seenClients = new Map<string, Set<string>>();
  for (const { name, labels } of after) {
    const client = labels['client_id'] ?? '';
    if (labels['direction'] !== 'inbound' || labels['tls'] !== 'true' || client === '') continue;
    if (name !== 'request_total' && name !== 'tcp_open_total') continue;
    const server = podKey(labels['namespace'] ?? '', labels['deployment'] ?? '');
    seenClients.set(server, (seenClients.get(server) ?? new Set()).add(client));
  }

  const found: Edge[] = [];
  for (const [key, edge] of [...edges].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (edge.requests === 0 && edge.bytes === 0) continue;
    const [srcNamespace, src, dstNamespace, dst, sameNode] = JSON.parse(key) as [
      string,
      string,
      string,
      string,
      boolean,
    ];
    const expected =
      pods.find((pod) => pod.namespace === srcNamespace && pod.workload === src)?.identity ?? '';
    const seen = seenClients.get(podKey(dstNamespace, dst))?.has(expected) === true;
    const dstIdentity =
      edge.serverIds.size === 1 ? ([...edge.serverIds][0] ?? '') : [...edge.serverIds].join(',');
    found.push({
      src,
      dst,
      srcIdentity: seen ? expected : '',
      dstIdentity,
      secured: edge.unsecured === 0 && seen && edge.serverIds.size === 1,
      sameNode,
      requests: edge.requests > 0 ? edge.requests : edge.connections,
    });
  }
  return found;
}
