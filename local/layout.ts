// SPDX-License-Identifier: Apache-2.0
// Names, paths and addresses of one local mesh, computed from its name and the number of its nodes. Pure: makes
// nothing. Two meshes may use the same addresses, because everything lives in namespaces of its own.

import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';

export const STATE_ROOT = '/run/nodemesh-local';
export const NODES_MAX = 50;
export const CLUSTER_DOMAIN = 'cluster.local';

/** The same address in both families. */
export interface DualAddress {
  readonly v4: string;
  readonly v6: string;
}

export const SERVICE_NETWORK: DualAddress = { v4: '10.96.0.0/16', v6: 'fd00:10:96::/112' };
export const DNS_ADDRESS: DualAddress = { v4: '10.96.0.10', v6: 'fd00:10:96::a' };
/** The pod, service and node networks: what the mesh calls the cluster's own. */
export const CLUSTER_NETWORKS = [
  '10.244.0.0/16',
  'fd00:10:244::/48',
  SERVICE_NETWORK.v4,
  SERVICE_NETWORK.v6,
  '172.18.0.0/24',
  'fd00:172:18::/64',
] as const;

/** Of each node's pod network. In IPv4 room for a thousand pods, about as many as a bridge has ports for. */
export const POD_PREFIX = { v4: 22, v6: 64 } as const;

export interface NodeLayout {
  readonly name: string;
  readonly index: number;
  readonly netns: string;
  /** On the wire between the nodes. */
  readonly address: DualAddress;
  readonly podNetwork: DualAddress;
  /** The bridge's own address, which pods have as their gateway. */
  readonly gateway: DualAddress;
  readonly bridgeMac: string;
  readonly dir: string;
  readonly bpffs: string;
  /** The agent's run directory: cni.sock, agent.sock. */
  readonly runDir: string;
  /** The agent's list of the mesh; outlives a reboot. */
  readonly stateDir: string;
  readonly cniConfDir: string;
  readonly cniBinDir: string;
  readonly ipamDir: string;
  readonly podsDir: string;
  readonly logDir: string;
  readonly hostsFile: string;
  readonly cgroup: string;
  readonly podsCgroup: string;
  readonly agentCgroup: string;
  readonly systemCgroup: string;
}

export interface MeshLayout {
  readonly name: string;
  readonly dir: string;
  readonly registryDir: string;
  readonly keysDir: string;
  readonly tokensDir: string;
  readonly logDir: string;
  /** Where the daemon answers the command line. */
  readonly socketPath: string;
  readonly wireNetns: string;
  readonly controlNetns: string;
  readonly controlAddress: DualAddress;
  readonly controlCgroup: string;
  readonly cgroup: string;
  readonly nodes: readonly NodeLayout[];
}

export function requireMeshName(name: string): string {
  if (/^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$/.test(name)) return name;
  throw new MeshError('MESH_CONFIG_INVALID', `"${name}" cannot be the name of a local mesh`, {
    remedy: 'use 1 to 32 lower-case letters, digits and dashes',
  });
}

export const meshDir = (name: string, stateRoot: string = STATE_ROOT): string =>
  join(stateRoot, requireMeshName(name));

export const meshSocketPath = (name: string): string => join(meshDir(name), 'mesh.sock');

export const meshCgroup = (name: string, cgroupMount: string): string =>
  join(cgroupMount, 'nodemesh-local', requireMeshName(name));

/** Whether a network namespace of `ip netns` belongs to this mesh and to no other whose name begins alike. */
export function ownsNetns(meshName: string, netns: string): boolean {
  const prefix = `nm-${meshName}-`;
  return netns.startsWith(prefix) && /^(wire|control|node\d+|pod\..+)$/.test(netns.slice(prefix.length));
}

/** `nm-<mesh>-pod.<namespace>.<name>`; very long names end in a hash, since a file is named so. */
export function podNetns(meshName: string, namespace: string, name: string): string {
  const whole = `nm-${meshName}-pod.${namespace}.${name}`;
  if (whole.length <= 200) return whole;
  return `${whole.slice(0, 180)}.${createHash('sha256').update(whole).digest('hex').slice(0, 16)}`;
}

export const netnsPath = (netns: string): string => `/run/netns/${netns}`;

function nodeLayout(mesh: string, dir: string, cgroup: string, index: number): NodeLayout {
  const name = `node${index}`;
  const nodeDir = join(dir, name);
  const nodeCgroup = join(cgroup, name);
  const hexIndex = index.toString(16).padStart(2, '0');
  return {
    name,
    index,
    netns: `nm-${mesh}-${name}`,
    address: { v4: `172.18.0.${10 + index}`, v6: `fd00:172:18::${(10 + index).toString(16)}` },
    podNetwork: {
      v4: `10.244.${4 * index}.0/${POD_PREFIX.v4}`,
      v6: `fd00:10:244:${index.toString(16)}::/${POD_PREFIX.v6}`,
    },
    gateway: { v4: `10.244.${4 * index}.1`, v6: `fd00:10:244:${index.toString(16)}::1` },
    bridgeMac: `0a:58:0a:f4:${hexIndex}:01`,
    dir: nodeDir,
    bpffs: join(nodeDir, 'bpf'),
    runDir: join(nodeDir, 'run'),
    stateDir: join(nodeDir, 'state'),
    cniConfDir: join(nodeDir, 'cni', 'net.d'),
    cniBinDir: join(nodeDir, 'cni', 'bin'),
    ipamDir: join(nodeDir, 'cni', 'ipam'),
    podsDir: join(nodeDir, 'pods'),
    logDir: join(nodeDir, 'logs'),
    hostsFile: join(nodeDir, 'dns-hosts'),
    cgroup: nodeCgroup,
    podsCgroup: join(nodeCgroup, 'pods'),
    agentCgroup: join(nodeCgroup, 'agent'),
    systemCgroup: join(nodeCgroup, 'system'),
  };
}

export function meshLayout(name: string, nodes: number, cgroupMount: string): MeshLayout {
  const dir = meshDir(name);
  if (!Number.isInteger(nodes) || nodes < 1 || nodes > NODES_MAX) {
    throw new MeshError('MESH_CONFIG_INVALID', `a local mesh cannot have ${nodes} nodes`, {
      remedy: `choose 1 to ${NODES_MAX}`,
    });
  }
  const cgroup = meshCgroup(name, cgroupMount);
  return {
    name,
    dir,
    registryDir: join(dir, 'registry'),
    keysDir: join(dir, 'keys'),
    tokensDir: join(dir, 'tokens'),
    logDir: join(dir, 'logs'),
    socketPath: meshSocketPath(name),
    wireNetns: `nm-${name}-wire`,
    controlNetns: `nm-${name}-control`,
    controlAddress: { v4: '172.18.0.2', v6: 'fd00:172:18::2' },
    controlCgroup: join(cgroup, 'control'),
    cgroup,
    nodes: Array.from({ length: nodes }, (_, index) => nodeLayout(name, dir, cgroup, index + 1)),
  };
}
