// SPDX-License-Identifier: Apache-2.0
// What enrolment deals with and offers: what is known of a pod of this node, and what becomes of it. Types only.

import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import type { ReadList } from '../../cni-plugin/logic/enrolled-list.ts';
import type { CniNode } from '../../cni-plugin/logic/node.ts';
import type { WorkerPod } from '../proxy/model.ts';
import type { WantedPod } from './find-namespace.ts';
import type { ListenerKeeper } from './kept-listeners.ts';
import type { PodNamespace } from './pod-namespace.ts';
import type { ProxyWorkers } from './proxy-workers.ts';
import type { RedirectedPod, Redirection } from './redirection-types.ts';

/** What destination says of a pod of this node. */
export interface NodeWorkload {
  readonly pod: Omit<WorkerPod, 'netnsFd' | 'podIndex' | 'startedAtSeconds'>;
  readonly enrol: boolean;
  readonly notEnrolledReason: string;
  readonly redirection: Pick<RedirectedPod, 'skipInboundPorts' | 'skipOutboundPorts' | 'skipSubnets'>;
}

export type EnrolmentPhase = 'pending' | 'enrolled' | 'failed' | 'leaving' | 'left';

export interface EnrolmentReporter {
  report(uid: string, state: EnrolmentPhase, generation: number, reason: string, message: string): void;
}

/** What is kept of a pod's sandbox, also across a restart of the agent. */
export interface Sandbox {
  readonly containerId: string;
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly netnsPath: string;
  readonly addresses: readonly string[];
  /** The attachment, as the runtime names it; absent if nobody added the pod by CNI here. */
  readonly network?: string;
  readonly ifname?: string;
  /** By its processes; nobody added the pod by CNI here, and nobody else will say that it is gone. */
  readonly found?: true;
}

export interface EnrolmentOptions {
  readonly redirection: Redirection;
  readonly workers: Pick<ProxyWorkers, 'setPod' | 'removePod' | 'connectionsOf'>;
  readonly certificates: {
    want(identity: string): void;
    drop(identity: string): void;
    ready(identity: string): Promise<unknown>;
  };
  readonly reporter: EnrolmentReporter;
  /** Enters namespaces and makes listeners (agent/node/pod-namespace.ts). */
  readonly openNamespace: (path: string, addresses: readonly string[]) => PodNamespace;
  /** Listeners of earlier agents, and for later ones. */
  readonly listeners: ListenerKeeper;
  /** Called when the set of sandboxes changed, to keep it on disk. */
  readonly sandboxesChanged: (sandboxes: readonly Sandbox[]) => void;
  readonly podForgotten: (uid: string) => void;
  /** `missing` may have grown. */
  readonly sandboxMissing: () => void;
  /** After the withdrawal a pod that opted out serves its mesh port for so long at least, */
  readonly leaveGraceMs: number;
  /** and its connections live for so long at most. */
  readonly leaveLimitMs: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface PodView {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly phase: EnrolmentPhase;
  /** Destination says that the pod shall be in the mesh. */
  readonly wanted: boolean;
  readonly reason: string;
  /** What the self-check cannot mend; empty if nothing. */
  readonly problem: string;
  /** By the container runtime's word; undefined for a pod that was found by its processes. */
  readonly netnsPath: string | undefined;
  readonly generation: number;
  readonly addresses: readonly string[];
  readonly identity: string;
  /** As metrics name it: deployment, statefulset, …; or '' and ''. */
  readonly ownerKind: string;
  readonly ownerName: string;
}

export interface Enrolment extends CniNode {
  setWorkload(workload: NodeWorkload): void;
  removeWorkload(uid: string): void;
  setNamespaces(names: readonly string[]): void;
  /** What was in the mesh before; in force for pods that destination has not named. */
  setEarlier(list: ReadList): void;
  /** Destination's answer to the report that a pod is leaving. */
  withdrawn(uid: string): void;
  /** Takes over the sandboxes that an earlier agent knew, and the numbers under which the kernel knows their pods. */
  restore(sandboxes: readonly Sandbox[], podIndices?: ReadonlyMap<string, number>): void;
  /** What a later agent needs for `restore`. */
  readonly sandboxes: readonly Sandbox[];
  readonly podIndices: readonly { readonly uid: string; readonly podIndex: number }[];
  /**
   * False: another agent has the node. Nothing is written to the kernel then, pods that are there stay served with
   * their configuration as it changes, those that go are let go of. True again: all is brought to what it should be.
   */
  setActive(active: boolean): void;
  /** Puts new listeners in the place of those that do not listen any more, of all pods or of one; how many. */
  repairListeners(uid?: string): number;
  /** What the self-check cannot mend, until it says otherwise: reported in the place of `enrolled`. */
  setProblem(uid: string, problem: string | undefined): void;
  /** Running pods that shall be enrolled and of whose sandboxes nothing is known; and those found nevertheless. */
  readonly missing: readonly WantedPod[];
  readonly found: readonly WantedPod[];
  setFound(uid: string, netnsPath: string): void;
  setNotFound(uid: string): void;
  /** The namespace that was found has lost its last process. */
  setFoundGone(uid: string): void;
  /** Uid of the enrolled pod that owns `ip`. */
  podOfAddress(ip: string): string | undefined;
  readonly pods: readonly PodView[];
  /** No pod is on its way in: what an earlier agent left and nobody claimed since belongs to nobody. */
  readonly settled: boolean;
  /** Closes descriptors; what is steered stays steered. */
  close(): void;
}
