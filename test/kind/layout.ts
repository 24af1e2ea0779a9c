// SPDX-License-Identifier: Apache-2.0
// Names, paths and addresses of one cluster, computed from its name and the number of its nodes. Pure: makes
// nothing. All clusters have the same addresses, each in namespaces of its own.

import { homedir } from 'node:os';
import { join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';

export const STATE_ROOT = '/var/lib/nodemesh-kc';
export const DEFAULT_NAME = 'main';
export const NODES_MAX = 16;
/** Of everything that has a name on the machine: namespaces, cgroups. */
export const PREFIX = 'nodemesh-kc-';

/** None of them is one of `mesh local`'s, so that a log line tells which world an address is of. */
export const NODE_PREFIX_LENGTH = 24;
export const POD_NETWORK = '10.81.0.0/16';
export const SERVICE_NETWORK = '10.82.0.0/16';
export const API_SERVICE_ADDRESS = '10.82.0.1';
export const DNS_ADDRESS = '10.82.0.10';
export const API_PORT = 6443;
/** Of the control plane's machine, within its root. */
export const API_SOCKET = '/var/lib/api.sock';
export const CLUSTER_DOMAIN = 'cluster.local';

/** The control plane's machine or a node: namespaces with a root file system of their own. */
export interface MachineLayout {
  readonly name: string;
  readonly netns: string;
  readonly address: string;
  /** Its root, as seen from the machine outside. */
  readonly root: string;
  /** Below the cluster's group, in every hierarchy. */
  readonly cgroup: string;
  /** Holds the process ids of its first process, seen from outside. */
  readonly pidFile: string;
  readonly logFile: string;
}

export interface NodeLayout extends MachineLayout {
  readonly podNetwork: string;
  readonly zone: string;
}

export interface ClusterLayout {
  readonly name: string;
  readonly dir: string;
  readonly fabricNetns: string;
  readonly control: MachineLayout;
  readonly nodes: readonly NodeLayout[];
  readonly apiUrl: string;
  /** The administrator's, with `apiUrl`: for programs in the control plane's network namespace. */
  readonly kubeconfig: string;
  /** A way to the API server from outside its namespace: a Unix socket. */
  readonly apiSocket: string;
  /** A link to the folder of Kubernetes' programs. */
  readonly programs: string;
  readonly cgroup: string;
}

export function requireClusterName(name: string): string {
  if (/^[a-z0-9]([-a-z0-9]{0,22}[a-z0-9])?$/.test(name)) return name;
  throw new MeshError('MESH_CONFIG_INVALID', `"${name}" cannot be the name of a cluster`, {
    remedy: 'use 1 to 24 lower-case letters, digits and dashes',
  });
}

export const clusterDir = (name: string): string => join(STATE_ROOT, requireClusterName(name));

/** Names of network namespaces, so that a sweep finds them without any state. */
export const clusterOfNetns = (netns: string): string | undefined =>
  /^nodemesh-kc-(.+)-(?:fabric|control|node\d+)$/.exec(netns)?.[1];

export const clusterOfCgroup = (folder: string): string | undefined => /^nodemesh-kc-(.+)$/.exec(folder)?.[1];

export const netnsPath = (netns: string): string => `/run/netns/${netns}`;

/** The folder of the user's caches, where what takes minutes to build outlives a checkout. */
export const cacheRoot = (env: Readonly<Record<string, string | undefined>>): string =>
  join(env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'nodemesh');

function machine(cluster: string, dir: string, name: string, address: string): MachineLayout {
  return {
    name,
    address,
    netns: `${PREFIX}${cluster}-${name}`,
    root: join(dir, name, 'root'),
    cgroup: `${PREFIX}${cluster}/${name}`,
    pidFile: join(dir, name, 'pid'),
    logFile: join(dir, name, 'machine.log'),
  };
}

export function clusterLayout(name: string, nodes: number): ClusterLayout {
  const dir = clusterDir(name);
  if (!Number.isInteger(nodes) || nodes < 1 || nodes > NODES_MAX) {
    throw new MeshError('MESH_CONFIG_INVALID', `a cluster cannot have ${nodes} nodes`, {
      remedy: `choose 1 to ${NODES_MAX}`,
    });
  }
  const control = machine(name, dir, 'control', '10.80.0.1');
  return {
    name,
    dir,
    fabricNetns: `${PREFIX}${name}-fabric`,
    control,
    nodes: Array.from({ length: nodes }, (_, index) => ({
      ...machine(name, dir, `node${index + 1}`, `10.80.0.${11 + index}`),
      podNetwork: `10.81.${index + 1}.0/24`,
      zone: `zone-${'abc'[index % 3]}`,
    })),
    apiUrl: `https://${control.address}:${API_PORT}`,
    kubeconfig: join(dir, 'kubeconfig'),
    apiSocket: join(control.root, API_SOCKET),
    programs: join(dir, 'programs'),
    cgroup: `${PREFIX}${name}`,
  };
}
