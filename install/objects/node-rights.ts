// SPDX-License-Identifier: Apache-2.0
// What the containers on a node may do there: each capability and each folder of the node, with what needs it.
// docs/reference/node-rights.md is made from these tables.

import type { Expression } from '../tree.ts';
import { value } from '../tree.ts';

export type NodeContainer = 'agent' | 'installer' | 'keeper';

export interface CapabilityRight {
  readonly container: NodeContainer;
  /** As Kubernetes names it, without CAP_. All others are dropped. */
  readonly capability: string;
  readonly reason: string;
}

export const capabilityRights: readonly CapabilityRight[] = [
  {
    container: 'agent',
    capability: 'SYS_ADMIN',
    reason:
      "Making sockets in pods' network namespaces (`setns`). It includes what loading eBPF programs and maps takes (BPF, PERFMON).",
  },
  {
    container: 'agent',
    capability: 'NET_ADMIN',
    reason:
      'Asking which eBPF programs hang on a cgroup (before Linux 6.5 nothing else allows it): a foreign one that would switch ours off is refused by its name.',
  },
  {
    container: 'agent',
    capability: 'SYS_PTRACE',
    reason:
      'Finding the network namespaces of pods that ran before the agent, by their processes (`/proc/PID/ns/net`).',
  },
  {
    container: 'installer',
    capability: 'DAC_OVERRIDE',
    reason: "Writing into the plugins' folder where it belongs to another user than root.",
  },
];

export interface NodeFolder {
  readonly container: NodeContainer;
  /** Of the volume. */
  readonly name: string;
  readonly onNode: string | Expression;
  readonly inContainer: string;
  /** Must be there, or is made. */
  readonly type: 'Directory' | 'DirectoryOrCreate';
  readonly readOnly?: boolean;
  /** Mounts that come later are seen. */
  readonly follows?: boolean;
  readonly reason: string;
}

export const RUN_DIR = '/run/nodemesh';

export const nodeFolders: readonly NodeFolder[] = [
  {
    container: 'agent',
    name: 'run',
    onNode: RUN_DIR,
    inContainer: RUN_DIR,
    type: 'DirectoryOrCreate',
    reason: 'Sockets for the CNI plugin, the keeper and commands; gone after a reboot.',
  },
  {
    container: 'agent',
    name: 'state',
    onNode: '/var/lib/nodemesh',
    inContainer: '/var/lib/nodemesh',
    type: 'DirectoryOrCreate',
    reason:
      'The list of enrolled namespaces and pods (no secrets): after a reboot their pods do not start unmeshed.',
  },
  {
    container: 'agent',
    name: 'bpffs',
    onNode: '/sys/fs/bpf',
    inContainer: '/sys/fs/bpf',
    type: 'Directory',
    reason: 'Pins of eBPF programs and maps, which outlive the agent.',
  },
  {
    container: 'agent',
    name: 'cgroups',
    onNode: '/sys/fs/cgroup',
    inContainer: '/host/sys/fs/cgroup',
    type: 'Directory',
    readOnly: true,
    reason: 'The cgroup that the connect hooks hang on.',
  },
  {
    container: 'agent',
    name: 'proc',
    onNode: '/proc',
    inContainer: '/host/proc',
    type: 'Directory',
    readOnly: true,
    reason:
      'Processes of pods that ran before the agent, instead of sharing the process namespace of the node.',
  },
  {
    container: 'agent',
    name: 'netns',
    onNode: '/var/run/netns',
    inContainer: '/var/run/netns',
    type: 'DirectoryOrCreate',
    readOnly: true,
    follows: true,
    reason: "Pods' network namespaces, as the container runtime names them.",
  },
  {
    container: 'installer',
    name: 'cni-conf',
    onNode: value('destCNINetDir'),
    inContainer: '/host/etc/cni/net.d',
    type: 'DirectoryOrCreate',
    reason: "The plugin's place in the chain; the cluster's own file is only read.",
  },
  {
    container: 'installer',
    name: 'cni-bin',
    onNode: value('destCNIBinDir'),
    inContainer: '/host/opt/cni/bin',
    type: 'DirectoryOrCreate',
    reason: 'The plugin itself, one static program.',
  },
  {
    container: 'installer',
    name: 'run',
    onNode: RUN_DIR,
    inContainer: RUN_DIR,
    type: 'DirectoryOrCreate',
    reason: 'Which of two installers works, during an upgrade.',
  },
  {
    container: 'keeper',
    name: 'run',
    onNode: RUN_DIR,
    inContainer: RUN_DIR,
    type: 'DirectoryOrCreate',
    reason: 'Its socket.',
  },
];
