// SPDX-License-Identifier: Apache-2.0
// The network of a cluster: a bridge in a namespace of its own, to which the control plane's machine and the nodes are
// plugged. Nothing of it is in the machine's own network, and no route leads out.

import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { errnoName } from '#lib/core/errors.ts';
import { inNetns, runChecked, runCommand } from '../../local/command.ts';
import {
  type ClusterLayout,
  type MachineLayout,
  NODE_PREFIX_LENGTH,
  type NodeLayout,
  POD_NETWORK,
  SERVICE_NETWORK,
} from './layout.ts';

const NETNS_DIR = '/run/netns';

const batch = (netns: string, lines: readonly string[]): Promise<string> =>
  runChecked(['ip', '-n', netns, '-batch', '-'], { input: `${lines.join('\n')}\n` });

export async function makeNetwork(layout: ClusterLayout): Promise<void> {
  await runChecked(['ip', 'netns', 'add', layout.fabricNetns]);
  await batch(layout.fabricNetns, ['link set lo up', 'link add fabric0 type bridge', 'link set fabric0 up']);
  for (const machine of [layout.control, ...layout.nodes]) await plugMachine(layout, machine);
}

const routeTo = (node: NodeLayout): string => `route replace ${node.podNetwork} via ${node.address}`;

/** Makes the machine's namespace, and plugs it to the fabric. */
export async function plugMachine(layout: ClusterLayout, machine: MachineLayout): Promise<void> {
  await runChecked(['ip', 'netns', 'add', machine.netns]);
  await batch(layout.fabricNetns, [
    `link add ${machine.name} type veth peer name eth0 netns ${machine.netns}`,
    `link set ${machine.name} master fabric0 up`,
  ]);
  await batch(machine.netns, [
    'link set lo up',
    'link set eth0 up',
    `address add ${machine.address}/${NODE_PREFIX_LENGTH} dev eth0`,
    ...layout.nodes.filter((node) => node !== machine).map(routeTo),
    // A process on a node's own network that dials a service needs some route, else it is refused before
    // kube-proxy's rules see it.
    machine === layout.control
      ? `route add unreachable ${POD_NETWORK}`
      : `route add ${SERVICE_NETWORK} via ${layout.control.address}`,
  ]);
  await runChecked(inNetns(machine.netns, ['sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward']));
}

/** Takes the machine's namespace away with all that is in it; the kernel would take the cable away in its own time. */
export async function unplugMachine(layout: ClusterLayout, machine: MachineLayout): Promise<void> {
  await batch(layout.fabricNetns, [`link delete ${machine.name}`]);
  await removeNetns([machine.netns]);
}

/** Tells the other machines the way to the pods of a node that came later, or that there is none any more. */
export async function routeToPods(
  layout: ClusterLayout,
  node: NodeLayout,
  change: 'add' | 'delete',
): Promise<void> {
  for (const { name, netns } of [layout.control, ...layout.nodes]) {
    if (name === node.name) continue;
    await batch(netns, [change === 'add' ? routeTo(node) : `route delete ${node.podNetwork}`]);
  }
}

/** Whether `ip netns add` has already made the folder of names a mount; it leaves it one. */
export const netnsDirIsMount = (): boolean =>
  readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .some((line) => line.split(' ')[1] === NETNS_DIR);

export const namedNetns = (): string[] => (existsSync(NETNS_DIR) ? readdirSync(NETNS_DIR) : []);

export async function removeNetns(names: readonly string[]): Promise<void> {
  for (const name of names) await runChecked(['ip', 'netns', 'delete', name]);
}

/** Makes the folder of names what it was before the first `ip netns add`, unless others use it now. */
export async function forgetNetnsDir(): Promise<void> {
  if (namedNetns().length > 0) return;
  const result = await runCommand(['umount', NETNS_DIR]);
  if (result.code !== 0) return; // busy: somebody has just added a name
  try {
    rmdirSync(NETNS_DIR);
  } catch (error) {
    if (!['ENOENT', 'ENOTEMPTY', 'EBUSY'].includes(errnoName(error) ?? '')) throw error;
  }
}
