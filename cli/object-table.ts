// SPDX-License-Identifier: Apache-2.0
// Objects as a table, like kubectl prints them. Pure.

import { isHeadless } from '../local/service-addresses.ts';
import { explainPod } from '../local/pod-readiness.ts';
import { type AnyObject, isTerminating, type Kind, type PodObject } from '../local/objects.ts';

type Row = readonly string[];

/** `75s`, `5m`, `3h`, `2d`. */
export function age(timestamp: string, nowMs: number): string {
  const seconds = Math.max(0, Math.round((nowMs - Date.parse(timestamp)) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** Columns padded to their widest cell, two spaces apart. */
export function formatTable(header: Row, rows: readonly Row[]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  return all
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

const ips = (pod: PodObject): string => (pod.status.podIPs ?? []).map(({ ip }) => ip).join(',');

function podRow(pod: PodObject, wide: boolean, nowMs: number): Row {
  const statuses = pod.status.containerStatuses ?? [];
  const waiting = statuses.map((status) => status.state).find((state) => 'waiting' in state);
  const reason = waiting !== undefined && 'waiting' in waiting ? waiting.waiting.reason : pod.status.phase;
  return [
    pod.metadata.name,
    `${statuses.filter((status) => status.ready).length}/${pod.spec.containers.length}`,
    isTerminating(pod) ? 'Terminating' : reason,
    String(statuses.reduce((sum, status) => sum + status.restartCount, 0)),
    age(pod.metadata.creationTimestamp, nowMs),
    ...(wide
      ? [ips(pod), pod.spec.nodeName ?? '<none>', pod.status.message === undefined ? '' : explainPod(pod)]
      : []),
  ];
}

const header = (kind: Kind, wide: boolean): Row => {
  switch (kind) {
    case 'Pod':
      return ['NAME', 'READY', 'STATUS', 'RESTARTS', 'AGE', ...(wide ? ['IP', 'NODE', 'MESSAGE'] : [])];
    case 'Service':
      return ['NAME', 'TYPE', 'CLUSTER-IP', 'PORT(S)', 'AGE', ...(wide ? ['SELECTOR'] : [])];
    case 'Deployment':
      return ['NAME', 'READY', 'UP-TO-DATE', 'AVAILABLE', 'AGE'];
    case 'ReplicaSet':
      return ['NAME', 'DESIRED', 'AGE'];
    case 'EndpointSlice':
      return ['NAME', 'ENDPOINTS', 'AGE'];
    case 'Node':
      return ['NAME', 'STATUS', 'AGE', ...(wide ? ['INTERNAL-IP', 'PODS'] : [])];
    case 'Namespace':
      return ['NAME', 'STATUS', 'AGE', ...(wide ? ['ANNOTATIONS'] : [])];
    case 'HTTPRoute':
    case 'GRPCRoute':
      return ['NAME', 'HOSTNAMES', 'AGE'];
    case 'ServiceAccount':
      return ['NAME', 'AGE'];
  }
};

const pairs = (map: Readonly<Record<string, string>>): string =>
  Object.entries(map)
    .map(([key, value]) => `${key}=${value}`)
    .join(',');

function row(object: AnyObject, wide: boolean, nowMs: number): Row {
  const { name, creationTimestamp } = object.metadata;
  const old = age(creationTimestamp, nowMs);
  switch (object.kind) {
    case 'Pod':
      return podRow(object, wide, nowMs);
    case 'Service':
      return [
        name,
        object.spec.type,
        isHeadless(object) ? 'None' : (object.spec.clusterIPs ?? []).join(','),
        object.spec.ports.map((port) => `${port.port}/${port.protocol}`).join(','),
        old,
        ...(wide ? [pairs(object.spec.selector ?? {})] : []),
      ];
    case 'Deployment': {
      const { replicas } = object.spec;
      const { readyReplicas, updatedReplicas, availableReplicas } = object.status;
      return [name, `${readyReplicas}/${replicas}`, String(updatedReplicas), String(availableReplicas), old];
    }
    case 'EndpointSlice':
      return [name, object.endpoints.flatMap(({ addresses }) => addresses).join(','), old];
    case 'ReplicaSet':
      return [name, String(object.spec.replicas), old];
    case 'Node': {
      const ready = object.status.conditions.some((c) => c.type === 'Ready' && c.status === 'True');
      const addresses = object.status.addresses.filter((address) => address.type === 'InternalIP');
      return [
        name,
        ready ? 'Ready' : 'NotReady',
        old,
        ...(wide ? [addresses.map(({ address }) => address).join(','), object.spec.podCIDRs.join(',')] : []),
      ];
    }
    case 'Namespace':
      return [
        name,
        isTerminating(object) ? 'Terminating' : 'Active',
        old,
        ...(wide ? [pairs(object.metadata.annotations)] : []),
      ];
    case 'HTTPRoute':
    case 'GRPCRoute': {
      const { hostnames } = object.spec;
      return [name, Array.isArray(hostnames) ? hostnames.join(',') : '', old];
    }
    case 'ServiceAccount':
      return [name, old];
  }
}

export function objectTable(
  kind: Kind,
  objects: readonly AnyObject[],
  options: { readonly wide: boolean; readonly namespaces: boolean },
  nowMs: number,
): string {
  const withNamespace = options.namespaces && kind !== 'Node' && kind !== 'Namespace';
  return formatTable(
    [...(withNamespace ? ['NAMESPACE'] : []), ...header(kind, options.wide)],
    objects.map((object) => [
      ...(withNamespace ? [object.metadata.namespace ?? ''] : []),
      ...row(object, options.wide, nowMs),
    ]),
  );
}
