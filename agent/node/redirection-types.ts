// SPDX-License-Identifier: Apache-2.0
// What the node part asks of the kernel: implemented with eBPF by redirection.ts, faked in tests.

import type { PortRange } from '#lib/core/addresses.ts';

export interface RedirectedPod {
  readonly uid: string;
  /** The node-wide number of the pod in kernel records. */
  readonly podIndex: number;
  readonly netnsFd: number;
  readonly addresses: readonly string[];
  readonly skipOutboundPorts: readonly PortRange[];
  readonly skipInboundPorts: readonly PortRange[];
  readonly skipSubnets: readonly string[];
  /** Listener slots per direction, if the pod has others than the setting says: those of an earlier agent. */
  readonly slots?: number | undefined;
}

/** One pod's redirection; `close` undoes everything. */
export interface PodRedirection {
  /** Puts a listener (any descriptor of it) into a slot. */
  setListener(direction: 'inbound' | 'outbound', family: 4 | 6, slot: number, fd: number): void;
  /** A slot without a live listener is skipped by the kernel's choice. */
  clearListener(direction: 'inbound' | 'outbound', family: 4 | 6, slot: number): void;
  /** Starts to steer, or changes addresses and ports of a pod that is steered already. */
  arm(pod: RedirectedPod): void;
  /** Enrolment failed: undoes the preparation, but a pod that an earlier agent left armed stays armed (and refuses). */
  abandon(): void;
  /** Another agent has the pod: everything here is closed, and the pod stays steered. */
  letGo(): void;
  close(): void;
}

export interface Redirection {
  readonly slots: number;
  /** Prepares a pod: nothing is steered before `arm`. Throws MeshError MESH_BPF_*. */
  preparePod(pod: RedirectedPod): PodRedirection;
  /** What workers need to read and mark sockets (lib/bpf/socket-records.ts); structured-cloneable. */
  readonly kernel: unknown;
  /** Full maps and the like, by name: read when metrics are scraped. */
  counters(): ReadonlyMap<string, number>;
  /**
   * Ends the redirection of pods that an earlier agent left and that nobody has prepared since; how many.
   * `dead` spares those whose namespaces still exist: they stay closed.
   */
  sweep(scope: 'all' | 'dead'): number;
  /** To be called about once a minute. */
  maintain(): void;
  /** Detaches nothing: links stay pinned, so that pods stay redirected while the agent is away. */
  close(): void;
  /** Removes every link, map and pin of this layout. */
  uninstall(): void;
}
