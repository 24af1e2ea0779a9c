// SPDX-License-Identifier: Apache-2.0
// `mesh edges`: which workloads have connections to which others at this moment, and how these are secured.

import { edgesQuery } from '#lib/traffic-queries/traffic-queries.ts';
import type { Cluster } from '../install/cluster.ts';
import type { TrafficKind } from './kinds.ts';
import { listPods } from './objects.ts';
import type { Prometheus } from './prometheus.ts';

export interface Edge {
  readonly src: string;
  readonly srcNamespace: string;
  readonly dst: string;
  readonly dstNamespace: string;
  /** Both empty where the connection is not secured. */
  readonly clientId: string;
  readonly serverId: string;
  /** Empty: it is secured. */
  readonly noTlsReason: string;
  /** Both ends are on one node: the kernel vouches for them, and nothing is encrypted. */
  readonly sameNode: boolean;
}

export async function edges(
  request: {
    readonly kind: TrafficKind;
    /** Of either end; undefined: all. */
    readonly namespace: string | undefined;
  },
  { cluster, prometheus }: { readonly cluster: Cluster; readonly prometheus: Prometheus },
): Promise<readonly Edge[]> {
  const { label } = request.kind;
  const samples = await prometheus.query(edgesQuery(label));
  const found = new Map<string, Edge>();
  const accounts = await accountsOf(cluster, [
    ...new Set(samples.map(({ metric }) => metric['namespace'] ?? '')),
  ]);
  for (const { metric } of samples) {
    const of = (name: string): string => metric[name] ?? '';
    const [srcNamespace, dstNamespace] = [of('namespace'), of('dst_namespace')];
    if (request.namespace !== undefined && ![srcNamespace, dstNamespace].includes(request.namespace))
      continue;
    const serverId = of('server_id');
    const account = accounts.get(`${srcNamespace}/${of('pod')}`) ?? '';
    const edge: Edge = {
      // As Linkerd has it, a namespace is in no namespace.
      src: of(label),
      srcNamespace: label === 'namespace' ? '' : srcNamespace,
      dst: of(`dst_${label}`),
      dstNamespace: label === 'namespace' ? '' : dstNamespace,
      clientId: identityOf(account, srcNamespace, serverId),
      serverId,
      noTlsReason: of('no_tls_reason'),
      sameNode: of('same_node') === 'true',
    };
    found.set(JSON.stringify(edge), edge);
  }
  return [...found.values()].sort((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1));
}

const sortKey = (edge: Edge): string =>
  [edge.srcNamespace, edge.dstNamespace, edge.src, edge.dst, edge.serverId].join(' ');

async function accountsOf(
  cluster: Cluster,
  namespaces: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  const pods = await Promise.all(namespaces.map((namespace) => listPods(cluster, namespace)));
  return new Map(pods.flat().map(({ namespace, name, account }) => [`${namespace}/${name}`, account]));
}

/** Series of a client do not name the client: its identity is that of its account, in the mesh of the server. */
function identityOf(account: string, namespace: string, serverId: string): string {
  const mesh = /\.serviceaccount\..+$/.exec(serverId)?.[0];
  return account === '' || mesh === undefined ? '' : `${account}.${namespace}${mesh}`;
}

export function edgesTable(
  rows: readonly Edge[],
  { wide, colour }: { readonly wide: boolean; readonly colour: boolean },
): string {
  const header = ['SRC', 'DST', 'SRC_NS', 'DST_NS', ...(wide ? ['CLIENT_ID', 'SERVER_ID'] : []), 'SECURED'];
  const lines = rows.map((edge) => [
    edge.src,
    edge.dst,
    edge.srcNamespace,
    edge.dstNamespace,
    ...(wide ? [shortIdentity(edge.clientId), shortIdentity(edge.serverId)] : []),
    secured(edge),
  ]);
  const widths = header.map((_, at) =>
    Math.max(...[header, ...lines].map((cells) => (cells[at] ?? '').length)),
  );
  return [header, ...lines]
    .map((cells) => {
      const line = cells.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join('   ');
      return `${colour ? line.replace('√', '\x1b[32m√\x1b[0m') : line}\n`;
    })
    .join('');
}

const shortIdentity = (identity: string): string => identity.split('.').slice(0, 2).join('.');

function secured({ noTlsReason, sameNode }: Edge): string {
  if (noTlsReason === '') return sameNode ? '√ (same node)' : '√';
  return noTlsReason
    .split('_')
    .map((word) => (word === 'http' ? 'HTTP' : `${word.charAt(0).toUpperCase()}${word.slice(1)}`))
    .join(' ');
}

export const edgesJson = (rows: readonly Edge[]): string =>
  `${JSON.stringify(
    rows.map((edge) => ({
      src: edge.src,
      src_namespace: edge.srcNamespace,
      dst: edge.dst,
      dst_namespace: edge.dstNamespace,
      client_id: edge.clientId,
      server_id: edge.serverId,
      no_tls_reason: edge.noTlsReason,
      ...(edge.sameNode ? { same_node: true } : {}),
    })),
    undefined,
    2,
  )}\n`;
