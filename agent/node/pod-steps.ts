// SPDX-License-Identifier: Apache-2.0
// The steps of one pod into the mesh, within it and out of it: namespace, listeners, workers and kernel in the right
// order, and all of it undone if one fails. When which step is due is enrolment.ts.

import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { ListenerHandle } from '../proxy/model.ts';
import type { EnrolmentOptions, EnrolmentPhase, NodeWorkload } from './enrolment-model.ts';
import { createIdentityUses } from './identity-uses.ts';
import { openListeners } from './open-listeners.ts';
import type { PodIndices } from './pod-indices.ts';
import type { PodNamespace } from './pod-namespace.ts';
import { addressed, type Enrolled, inTurn, type Leaving, type PodRecord, who } from './pod-record.ts';
import type { PodRedirection, RedirectedPod } from './redirection-types.ts';
import { withDeadline } from './with-deadline.ts';

/** A pod's certificate is waited for so long. */
const CERTIFICATE_WAIT_MS = 8_000;
/** A leaving pod's connections are counted so often. */
const LEAVE_CHECK_MS = 1_000;
const LEAVE_AGAIN_MS = 1_000;

export interface PodStepsOptions
  extends Pick<
    EnrolmentOptions,
    | 'redirection'
    | 'workers'
    | 'certificates'
    | 'reporter'
    | 'openNamespace'
    | 'listeners'
    | 'leaveLimitMs'
    | 'clock'
    | 'log'
  > {
  readonly indices: PodIndices;
  /** False while another agent has the node. */
  readonly isActive: () => boolean;
  readonly isClosed: () => boolean;
}

export interface PodSteps {
  setPhase(record: PodRecord, phase: EnrolmentPhase, reason: string, message: string): void;
  /** As long as there is a problem, the pod is served and reported as failed. */
  setProblem(record: PodRecord, problem: string | undefined): void;
  enrol(record: PodRecord): Promise<void>;
  /** Gives workers and kernel a new configuration; what the kernel refuses is tried again. */
  update(record: PodRecord, enrolled: Enrolled, workload: NodeWorkload): void;
  beginLeaving(record: PodRecord, enrolled: Enrolled, workload: NodeWorkload): void;
  /** Lets the pod go once its connections have ended, or the limit is over. */
  checkLeaving(record: PodRecord, leaving: Leaving, afterMs: number): void;
  /** Takes the pod out; nothing of it stays open in this process or in the kernel. */
  leave(record: PodRecord): Promise<void>;
  /** Puts new listeners in the place of those that do not listen any more; how many. */
  repairListeners(record: PodRecord): number;
  /** Uid of the enrolled pod that owns `ip`. */
  podOfAddress(ip: string): string | undefined;
}

export function createPodSteps(options: PodStepsOptions): PodSteps {
  const { clock, log, indices, isActive, isClosed } = options;
  const byAddress = new Map<string, string>();
  const identities = createIdentityUses(options.certificates);

  const forgetAddresses = (of: string): void => {
    for (const [address, uid] of byAddress) if (uid === of) byAddress.delete(address);
  };

  const setPhase = (record: PodRecord, phase: EnrolmentPhase, reason: string, message: string): void => {
    record.phase = phase;
    record.reason = reason;
    record.unsaid = false;
    const { problem, uid } = record;
    const generation = record.workload?.pod.generation ?? 0;
    if (phase === 'enrolled' && problem !== undefined)
      options.reporter.report(uid, 'failed', generation, 'SelfCheck', problem);
    else options.reporter.report(uid, phase, generation, reason, message);
  };

  const setEnrolled = (record: PodRecord, { identity }: Enrolled): void =>
    setPhase(record, 'enrolled', 'Enrolled', `${identity} is in the mesh`);

  const setProblem = (record: PodRecord, problem: string | undefined): void => {
    if (record.enrolled === undefined || record.phase !== 'enrolled' || record.problem === problem) return;
    record.problem = problem;
    setEnrolled(record, record.enrolled);
  };

  /** The kernel's part of an enrolment takes tens of milliseconds; between two of them all else has its turn. */
  let turns = Promise.resolve();
  const nextTurn = async (): Promise<void> => {
    turns = turns.then(async () => new Promise<void>((resolve) => setImmediate(resolve)));
    await turns;
  };

  const enrol = async (record: PodRecord): Promise<void> => {
    const { workload, sandbox } = record;
    if (workload === undefined || sandbox === undefined || !workload.enrol || record.enrolled !== undefined)
      return;
    const identity = workload.pod.identity;
    identities.use(identity);
    let namespace: PodNamespace | undefined;
    let redirection: PodRedirection | undefined;
    const listeners: ListenerHandle[] = [];
    let adopted: readonly ListenerHandle[] = [];
    let podIndex: number | undefined;
    try {
      await withDeadline(options.certificates.ready(identity), CERTIFICATE_WAIT_MS, clock, () => {
        return new MeshError(
          'MESH_IDENTITY_UNAVAILABLE',
          `no certificate for ${identity} within ${CERTIFICATE_WAIT_MS} ms`,
          {
            retryable: true,
            remedy: 'see the agent log for the answer of the identity service',
          },
        );
      });
      await nextTurn();
      const withAddresses = addressed(workload, sandbox);
      namespace = options.openNamespace(sandbox.netnsPath, withAddresses.pod.addresses);
      podIndex = indices.take(record.uid);
      adopted = options.listeners.adopt(record.uid);
      // A pod's slots are as many as it was enrolled with: the kernel's choice by hash stays the same.
      const slots = Math.max(0, ...adopted.map(({ slot }) => slot + 1)) || options.redirection.slots;
      openListeners(options.listeners, record.uid, namespace, adopted, slots, listeners);
      redirection = options.redirection.preparePod(redirected(withAddresses, namespace, podIndex, slots));
      for (const { direction, family, slot, fd } of listeners)
        redirection.setListener(direction, family, slot, fd);
      const startedAtSeconds = clock.wallMs() / 1000;
      const enrolled: Enrolled = {
        namespace,
        redirection,
        listeners,
        podIndex,
        startedAtSeconds,
        identity,
        generation: workload.pod.generation,
      };
      options.workers.setPod(
        { ...withAddresses.pod, netnsFd: namespace.fd, podIndex, startedAtSeconds },
        listeners,
      );
      redirection.arm(redirected(withAddresses, namespace, podIndex));
      record.enrolled = enrolled;
      record.attempts = 0;
      for (const address of withAddresses.pod.addresses) byAddress.set(address, record.uid);
      log.info({ pod: who(record), uid: record.uid, identity }, 'pod enrolled');
      setEnrolled(record, enrolled);
    } catch (error) {
      redirection?.abandon();
      if (adopted.length > 0) {
        // Connections wait in them, and their vouchers name the pod by its number.
        options.listeners.giveBack(record.uid, listeners);
        if (podIndex !== undefined) indices.keep(record.uid, podIndex);
      } else {
        for (const listener of listeners) namespace?.closeDescriptor(listener.fd);
        options.listeners.forget(record.uid);
      }
      await options.workers.removePod(record.uid);
      namespace?.close();
      identities.release(identity);
      const message = errorMessage(error);
      log.warn({ pod: who(record), uid: record.uid, error: message }, 'a pod cannot be enrolled');
      setPhase(record, 'failed', error instanceof MeshError ? error.code : 'MESH_NETNS', message);
      throw error;
    }
  };

  const update = (record: PodRecord, enrolled: Enrolled, workload: NodeWorkload): void => {
    const { namespace, podIndex, startedAtSeconds, listeners } = enrolled;
    options.workers.setPod({ ...workload.pod, netnsFd: namespace.fd, podIndex, startedAtSeconds }, listeners);
    if (!isActive()) return;
    try {
      enrolled.redirection.arm(redirected(workload, namespace, podIndex));
    } catch (error) {
      const message = errorMessage(error);
      log.warn({ pod: who(record), uid: record.uid, error: message }, 'a pod keeps its old redirection');
      throw error;
    }
    enrolled.generation = workload.pod.generation;
    cancelLeaving(record);
    forgetAddresses(record.uid);
    for (const address of workload.pod.addresses) byAddress.set(address, record.uid);
    setEnrolled(record, enrolled);
  };

  const cancelLeaving = (record: PodRecord): void => {
    record.leaving?.timer?.cancel();
    record.leaving = undefined;
  };

  /** The pod opted out: new connections bypass the agent, those to the mesh port aside, and peers are to be told. */
  const beginLeaving = (record: PodRecord, enrolled: Enrolled, workload: NodeWorkload): void => {
    const { namespace, podIndex, startedAtSeconds, listeners } = enrolled;
    const all = [{ first: 1, last: 65_535 }];
    const bypass = { skipInboundPorts: all, skipOutboundPorts: all, skipSubnets: [] };
    enrolled.redirection.arm(redirected({ ...workload, redirection: bypass }, namespace, podIndex));
    options.workers.setPod(
      { ...workload.pod, netnsFd: namespace.fd, podIndex, startedAtSeconds, leaving: true },
      listeners,
    );
    record.leaving ??= { reason: workload.notEnrolledReason, withdrawnAtMs: undefined, timer: undefined };
    enrolled.generation = workload.pod.generation;
    log.info(
      { pod: who(record), uid: record.uid },
      'pod opted out; it leaves when its connections have ended',
    );
    setPhase(record, 'leaving', 'Leaving', workload.notEnrolledReason);
  };

  const checkLeaving = (record: PodRecord, leaving: Leaving, afterMs: number): void => {
    leaving.timer?.cancel();
    leaving.timer = clock.after(afterMs, () => {
      inTurn(record, async () => {
        const { withdrawnAtMs } = leaving;
        if (isClosed() || record.leaving !== leaving || withdrawnAtMs === undefined) return;
        // Whoever asked something since then was told with the answer that the connection ends.
        const open = await options.workers.connectionsOf(record.uid, true);
        const passed = clock.nowMs() - withdrawnAtMs;
        if (open > 0 && passed < options.leaveLimitMs) {
          checkLeaving(record, leaving, Math.min(LEAVE_CHECK_MS, options.leaveLimitMs - passed));
          return;
        }
        if (open > 0)
          log.info({ pod: who(record), open }, 'a leaving pod still has connections; they are cut');
        await leave(record);
        setPhase(record, 'left', 'OptedOut', leaving.reason);
      }).catch((error: unknown) => {
        log.warn({ pod: who(record), error: errorMessage(error) }, 'a pod could not leave; tried again');
        checkLeaving(record, leaving, LEAVE_AGAIN_MS);
      });
    });
  };

  const leave = async (record: PodRecord): Promise<void> => {
    const enrolled = record.enrolled;
    if (enrolled === undefined) return;
    cancelLeaving(record);
    record.enrolled = undefined;
    record.problem = undefined;
    forgetAddresses(record.uid);
    if (isActive()) enrolled.redirection.close();
    else enrolled.redirection.letGo();
    await options.workers.removePod(record.uid);
    for (const listener of enrolled.listeners) enrolled.namespace.closeDescriptor(listener.fd);
    options.listeners.forget(record.uid);
    enrolled.namespace.close();
    identities.release(enrolled.identity);
    log.info({ pod: who(record), uid: record.uid }, 'pod left the mesh');
  };

  const repairListeners = (record: PodRecord): number => {
    const { enrolled, workload } = record;
    if (enrolled === undefined || workload === undefined || record.sandbox === undefined) return 0;
    const { namespace, redirection } = enrolled;
    const dead = enrolled.listeners.filter(({ fd }) => !namespace.listens(fd));
    if (dead.length === 0) return 0;
    enrolled.listeners = enrolled.listeners.map((listener) => {
      if (!dead.includes(listener)) return listener;
      const { direction, family, slot } = listener;
      const fresh = { direction, family, slot, fd: namespace.openListener(family) };
      redirection.setListener(direction, family, slot, fresh.fd);
      options.listeners.keep(record.uid, fresh);
      return fresh;
    });
    const { podIndex, startedAtSeconds, listeners } = enrolled;
    const { pod } = addressed(workload, record.sandbox);
    const leaving = record.leaving !== undefined;
    options.workers.setPod({ ...pod, netnsFd: namespace.fd, podIndex, startedAtSeconds, leaving }, listeners);
    for (const { fd } of dead) namespace.closeDescriptor(fd);
    log.warn({ pod: who(record), listeners: dead.length }, 'dead listeners of a pod were replaced');
    return dead.length;
  };

  return {
    setPhase,
    setProblem,
    enrol,
    update,
    beginLeaving,
    checkLeaving,
    leave,
    repairListeners,
    podOfAddress: (ip) => byAddress.get(ip),
  };
}

const redirected = (
  workload: NodeWorkload,
  namespace: PodNamespace,
  podIndex: number,
  slots?: number,
): RedirectedPod => ({
  uid: workload.pod.uid,
  podIndex,
  netnsFd: namespace.fd,
  addresses: workload.pod.addresses,
  slots,
  ...workload.redirection,
});
