// SPDX-License-Identifier: Apache-2.0
// The PromQL behind `stat` and `edges`, as Linkerd's viz asks it: which series a question is about, and what of them is
// summed. Pure; who sends it is no business of this file.

/** Workloads of one kind, or services. */
export interface Workloads {
  /** Names the kind in series: `deployment`, `pod`, `namespace`, …; `service` is found by the authority. */
  readonly label: string;
  /** Empty: all. */
  readonly names: readonly string[];
  /** Undefined: all. Of kind namespace it means nothing. */
  readonly namespace: string | undefined;
}

/** Which series, and the labels whose values tell rows apart. */
export interface Selection {
  readonly matchers: readonly string[];
  readonly groupBy: readonly string[];
  /** The end of the connections whose bytes count. */
  readonly peer: 'src' | 'dst';
}

const OUTBOUND = 'direction="outbound"';

/** `traffic` is what reaches `target`, or what it sends to `to`, or what it gets from `from`, as these see it. */
export function selectTraffic(
  target: Workloads,
  traffic: { readonly to?: Workloads | undefined; readonly from?: Workloads | undefined } = {},
): Selection {
  const { to, from } = traffic;
  if (from !== undefined) {
    const matchers = [OUTBOUND, ...matchersOf(from, ''), ...matchersOf(target, 'dst_')];
    return { matchers, groupBy: rowLabels(target, 'dst_'), peer: 'dst' };
  }
  if (to !== undefined) {
    const matchers = [OUTBOUND, ...matchersOf(target, ''), ...matchersOf(to, 'dst_')];
    return { matchers, groupBy: rowLabels(target, ''), peer: 'dst' };
  }
  // Nothing is inbound to a service: its clients know that they dialled it.
  if (target.label === 'service')
    return { matchers: [OUTBOUND, ...matchersOf(target, 'dst_')], groupBy: ['authority'], peer: 'dst' };
  const matchers = ['direction="inbound"', ...matchersOf(target, '')];
  return { matchers, groupBy: rowLabels(target, ''), peer: 'src' };
}

/** Of a series grouped by `rowLabels`: which row it belongs to. */
export function rowOf(
  target: Workloads,
  labels: Readonly<Record<string, string>>,
): { readonly namespace: string; readonly name: string } {
  const of = (label: string): string => labels[label] ?? labels[`dst_${label}`] ?? '';
  if (target.label === 'namespace') return { namespace: '', name: of('namespace') };
  if (target.label !== 'service') return { namespace: of('namespace'), name: of(target.label) };
  const [name = '', namespace = ''] = (labels['authority'] ?? '').split('.');
  return { namespace, name };
}

function rowLabels({ label }: Workloads, prefix: '' | 'dst_'): string[] {
  return label === 'namespace' ? [`${prefix}namespace`] : [`${prefix}namespace`, `${prefix}${label}`];
}

function matchersOf({ label, names, namespace }: Workloads, prefix: '' | 'dst_'): string[] {
  if (label === 'namespace') return [named(`${prefix}namespace`, names)];
  if (label === 'service') {
    const name = names.length === 0 ? '[^.]+' : `(${names.map(quoteRegexp).join('|')})`;
    const host = `${name}\\.${namespace === undefined ? '[^.]+' : quoteRegexp(namespace)}\\.svc\\..+`;
    return [`authority=~${quote(host)}`];
  }
  const own = named(`${prefix}${label}`, names);
  return namespace === undefined ? [own] : [`${prefix}namespace=${quote(namespace)}`, own];
}

function named(label: string, names: readonly string[]): string {
  const [only = '', ...others] = names;
  if (others.length > 0) return `${label}=~${quote(names.map(quoteRegexp).join('|'))}`;
  return only === '' ? `${label}!=""` : `${label}=${quote(only)}`;
}

const quoteRegexp = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
const quote = (text: string): string => JSON.stringify(text);

const sum = (what: string, by: readonly string[]): string => `sum(${what}) by (${by.join(', ')})`;
const series = (name: string, { matchers }: Selection, more: readonly string[] = []): string =>
  `${name}{${[...matchers, ...more].join(', ')}}`;

export const answersQuery = (selection: Selection, window: string): string =>
  sum(`increase(${series('response_total', selection)}[${window}])`, [
    ...selection.groupBy,
    'classification',
    'tls',
  ]);

export const latencyQuery = (selection: Selection, window: string, quantile: number): string =>
  `histogram_quantile(${quantile}, ${sum(`irate(${series('response_latency_ms_bucket', selection)}[${window}])`, ['le', ...selection.groupBy])})`;

export const openConnectionsQuery = (selection: Selection): string =>
  sum(series('tcp_open_connections', selection), selection.groupBy);

export const bytesQuery = (selection: Selection, window: string, way: 'read' | 'write'): string =>
  sum(
    `increase(${series(`tcp_${way}_bytes_total`, selection, [`peer="${selection.peer}"`])}[${window}])`,
    selection.groupBy,
  );

/** Connections that are open between workloads of one kind. */
export function edgesQuery(label: string): string {
  const ends = label === 'namespace' ? [] : [label, `dst_${label}`];
  const matchers = [OUTBOUND, `${label}!=""`, `dst_${label}!=""`];
  return `${sum(`tcp_open_connections{${matchers.join(', ')}}`, [
    ...ends,
    'pod',
    'server_id',
    'namespace',
    'dst_namespace',
    'no_tls_reason',
    'same_node',
  ])} > 0`;
}

/** As PromQL writes a duration. */
export const windowOf = (ms: number): string => (ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`);
