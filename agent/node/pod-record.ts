// SPDX-License-Identifier: Apache-2.0
// What enrolment knows of one pod, and what follows from that alone.

import type { Timer } from '#lib/core/clock.ts';
import type { ListenerHandle } from '../proxy/model.ts';
import type { EnrolmentPhase, NodeWorkload, Sandbox } from './enrolment-model.ts';
import type { PodNamespace } from './pod-namespace.ts';
import type { PodRedirection } from './redirection-types.ts';

export interface Enrolled {
  readonly namespace: PodNamespace;
  readonly redirection: PodRedirection;
  listeners: readonly ListenerHandle[];
  readonly podIndex: number;
  readonly startedAtSeconds: number;
  readonly identity: string;
  generation: number;
}

/** A pod that opted out. */
export interface Leaving {
  readonly reason: string;
  /** When destination said that nobody is told of the pod's mesh port any more. */
  withdrawnAtMs: number | undefined;
  timer: Timer | undefined;
}

export interface PodRecord {
  readonly uid: string;
  sandbox: Sandbox | undefined;
  workload: NodeWorkload | undefined;
  enrolled: Enrolled | undefined;
  leaving: Leaving | undefined;
  phase: EnrolmentPhase;
  reason: string;
  problem: string | undefined;
  attempts: number;
  /** Its sandbox has gone since the last report, which may say that it is in the mesh. */
  unsaid: boolean;
  /** Its namespace was looked for at least once, and not found. */
  searched: boolean;
  retry: Timer | undefined;
  /** The steps of this pod, one after the other. */
  queue: Promise<void>;
  /** CNI ADDs that wait for the workload. */
  waiting: (() => void)[];
}

export const createPodRecord = (uid: string): PodRecord => ({
  uid,
  sandbox: undefined,
  workload: undefined,
  enrolled: undefined,
  leaving: undefined,
  phase: 'pending',
  reason: '',
  problem: undefined,
  attempts: 0,
  unsaid: false,
  searched: false,
  retry: undefined,
  queue: Promise.resolve(),
  waiting: [],
});

export const who = (record: PodRecord): string =>
  record.workload === undefined
    ? `${record.sandbox?.namespace ?? '?'}/${record.sandbox?.name ?? record.uid}`
    : `${record.workload.pod.namespace}/${record.workload.pod.name}`;

export const isMissing = ({ sandbox, workload }: PodRecord): boolean =>
  sandbox === undefined && workload?.enrol === true && workload.pod.addresses.length > 0;

/** Runs a step after the pod's earlier ones; its failure is the caller's, not the next step's. */
export async function inTurn(record: PodRecord, step: () => Promise<void>): Promise<void> {
  const turn = record.queue.then(step);
  record.queue = turn.catch(() => undefined);
  await turn;
}

/** One that was found has no name of the runtime's. */
export const isSandbox = (sandbox: Sandbox, containerId: string): boolean =>
  sandbox.containerId === containerId || sandbox.found === true;

/** The CNI result's addresses: the pod's status may not be written yet, or still be that of an earlier sandbox. */
export function addressed(workload: NodeWorkload, sandbox: Sandbox): NodeWorkload {
  if (sandbox.addresses.length === 0) return workload;
  return { ...workload, pod: { ...workload.pod, addresses: sandbox.addresses } };
}
