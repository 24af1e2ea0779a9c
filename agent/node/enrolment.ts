// SPDX-License-Identifier: Apache-2.0
// Which pods of this node are in the mesh, and the steps in and out. Joins what the container runtime says
// (a sandbox exists) with what destination says (the pod shall be meshed, with this configuration).
//
//   sandbox (CNI ADD) ─┐                      ┌─ enrolled ── leaving ── left
//                      ├─ both known: enrolling
//   workload (stream) ─┘                      └─ failed (tried again)
//
// A running pod that opts out serves its mesh port until nobody is told of it any more (destination's word), a grace
// time has passed and its connections have ended (or a limit is over); everything new bypasses the agent meanwhile.
//
// Each pod's steps run one after the other; a pod that cannot be enrolled never holds up another.

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { CniAddOutcome, CniNode, CniPod } from '../../cni-plugin/logic/node.ts';
import type { ListenerHandle, WorkerPod } from '../proxy/model.ts';
import type { PodNamespace } from './pod-namespace.ts';
import type { ProxyWorkers } from './proxy-workers.ts';
import type { PodRedirection, RedirectedPod, Redirection } from './redirection-types.ts';

/** CNI ADD waits this long for the node stream to name the pod. */
const WORKLOAD_WAIT_MS = 2_000;
/** And this long for the pod's certificate. */
const CERTIFICATE_WAIT_MS = 8_000;
/** A leaving pod's connections are counted so often. */
const LEAVE_CHECK_MS = 1_000;
const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 30_000;

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
  /** Called when the set of sandboxes changed, to keep it on disk. */
  readonly sandboxesChanged: (sandboxes: readonly Sandbox[]) => void;
  readonly podForgotten: (uid: string) => void;
  /** After the withdrawal a pod that opted out serves its mesh port for so long at least, */
  readonly leaveGraceMs: number;
  /** and its connections live for so long at most. */
  readonly leaveLimitMs: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

interface Enrolled {
  readonly namespace: PodNamespace;
  readonly redirection: PodRedirection;
  readonly listeners: readonly ListenerHandle[];
  readonly podIndex: number;
  readonly startedAtSeconds: number;
  readonly identity: string;
  generation: number;
}

/** A pod that opted out. */
interface Leaving {
  readonly reason: string;
  /** When destination said that nobody is told of the pod's mesh port any more. */
  withdrawnAtMs: number | undefined;
  timer: Timer | undefined;
}

interface PodRecord {
  readonly uid: string;
  sandbox: Sandbox | undefined;
  workload: NodeWorkload | undefined;
  enrolled: Enrolled | undefined;
  leaving: Leaving | undefined;
  phase: EnrolmentPhase;
  reason: string;
  attempts: number;
  retry: Timer | undefined;
  /** The steps of this pod, one after the other. */
  queue: Promise<void>;
  /** CNI ADDs that wait for the workload. */
  waiting: (() => void)[];
}

export interface PodView {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly phase: EnrolmentPhase;
  readonly reason: string;
  readonly generation: number;
  readonly addresses: readonly string[];
  readonly identity: string;
}

export interface Enrolment extends CniNode {
  setWorkload(workload: NodeWorkload): void;
  removeWorkload(uid: string): void;
  setNamespaces(names: readonly string[]): void;
  /** Destination's answer to the report that a pod is leaving. */
  withdrawn(uid: string): void;
  /** Takes over the sandboxes that an earlier agent knew. */
  restore(sandboxes: readonly Sandbox[]): void;
  /** Uid of the enrolled pod that owns `ip`. */
  podOfAddress(ip: string): string | undefined;
  readonly pods: readonly PodView[];
  /** No pod is on its way in: what an earlier agent left and nobody claimed since belongs to nobody. */
  readonly settled: boolean;
  /** Closes descriptors; what is steered stays steered. */
  close(): void;
}

export function createEnrolment(options: EnrolmentOptions): Enrolment {
  const { clock, log } = options;
  const records = new Map<string, PodRecord>();
  const byAddress = new Map<string, string>();
  let namespaces = new Set<string>();
  // Not from 1: a voucher of an earlier agent, still in a backlog, must not name one of our pods.
  let nextPodIndex = 1 + Math.floor(options.random() * 2 ** 31);
  let closed = false;

  /** Pods of one account share its certificate: the last one to leave drops it. */
  const identityUses = new Map<string, number>();
  const useIdentity = (identity: string): void => {
    const uses = identityUses.get(identity) ?? 0;
    identityUses.set(identity, uses + 1);
    if (uses === 0) options.certificates.want(identity);
  };
  const releaseIdentity = (identity: string): void => {
    const uses = (identityUses.get(identity) ?? 0) - 1;
    if (uses > 0) {
      identityUses.set(identity, uses);
      return;
    }
    identityUses.delete(identity);
    options.certificates.drop(identity);
  };

  const recordOf = (uid: string): PodRecord => {
    let record = records.get(uid);
    if (record === undefined) {
      record = {
        uid,
        sandbox: undefined,
        workload: undefined,
        enrolled: undefined,
        leaving: undefined,
        phase: 'pending',
        reason: '',
        attempts: 0,
        retry: undefined,
        queue: Promise.resolve(),
        waiting: [],
      };
      records.set(uid, record);
    }
    return record;
  };

  const who = (record: PodRecord): string =>
    record.workload === undefined
      ? `${record.sandbox?.namespace ?? '?'}/${record.sandbox?.name ?? record.uid}`
      : `${record.workload.pod.namespace}/${record.workload.pod.name}`;

  const setPhase = (record: PodRecord, phase: EnrolmentPhase, reason: string, message: string): void => {
    record.phase = phase;
    record.reason = reason;
    options.reporter.report(record.uid, phase, record.workload?.pod.generation ?? 0, reason, message);
  };

  const sandboxesChanged = (): void => {
    if (closed) return;
    options.sandboxesChanged(
      [...records.values()].flatMap((record) => (record.sandbox === undefined ? [] : [record.sandbox])),
    );
  };

  /** Runs a step after the pod's earlier ones; its failure is the caller's, not the next step's. */
  const inTurn = async (record: PodRecord, step: () => Promise<void>): Promise<void> => {
    const turn = record.queue.then(step);
    record.queue = turn.catch(() => undefined);
    await turn;
  };

  const redirected = (workload: NodeWorkload, namespace: PodNamespace, podIndex: number): RedirectedPod => ({
    uid: workload.pod.uid,
    podIndex,
    netnsFd: namespace.fd,
    addresses: workload.pod.addresses,
    ...workload.redirection,
  });

  const enrol = async (record: PodRecord): Promise<void> => {
    const { workload, sandbox } = record;
    if (workload === undefined || sandbox === undefined || !workload.enrol || record.enrolled !== undefined)
      return;
    const identity = workload.pod.identity;
    useIdentity(identity);
    let namespace: PodNamespace | undefined;
    let redirection: PodRedirection | undefined;
    const listeners: ListenerHandle[] = [];
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
      const withAddresses = addressed(workload, sandbox);
      namespace = options.openNamespace(sandbox.netnsPath, withAddresses.pod.addresses);
      const podIndex = nextPodIndex++;
      redirection = options.redirection.preparePod(redirected(withAddresses, namespace, podIndex));
      for (const direction of ['inbound', 'outbound'] as const) {
        for (let slot = 0; slot < options.redirection.slots; slot++) {
          for (const family of namespace.families) {
            const fd = namespace.openListener(family);
            listeners.push({ direction, family, slot, fd });
            redirection.setListener(direction, family, slot, fd);
          }
        }
      }
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
      setPhase(record, 'enrolled', 'Enrolled', `${identity} is in the mesh`);
    } catch (error) {
      redirection?.abandon();
      for (const listener of listeners) namespace?.closeDescriptor(listener.fd);
      await options.workers.removePod(record.uid);
      namespace?.close();
      releaseIdentity(identity);
      const message = errorMessage(error);
      log.warn({ pod: who(record), uid: record.uid, error: message }, 'a pod cannot be enrolled');
      setPhase(record, 'failed', error instanceof MeshError ? error.code : 'MESH_NETNS', message);
      throw error;
    }
  };

  /** Gives workers and kernel a new configuration; what the kernel refuses is tried again. */
  const update = (record: PodRecord, enrolled: Enrolled, workload: NodeWorkload): void => {
    const { namespace, podIndex, startedAtSeconds, listeners } = enrolled;
    options.workers.setPod({ ...workload.pod, netnsFd: namespace.fd, podIndex, startedAtSeconds }, listeners);
    try {
      enrolled.redirection.arm(redirected(workload, namespace, podIndex));
    } catch (error) {
      const message = errorMessage(error);
      log.warn({ pod: who(record), uid: record.uid, error: message }, 'a pod keeps its old redirection');
      throw error;
    }
    enrolled.generation = workload.pod.generation;
    cancelLeaving(record);
    for (const [address, uid] of byAddress) if (uid === record.uid) byAddress.delete(address);
    for (const address of workload.pod.addresses) byAddress.set(address, record.uid);
    setPhase(record, 'enrolled', 'Enrolled', `${enrolled.identity} is in the mesh`);
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
        if (closed || record.leaving !== leaving || withdrawnAtMs === undefined) return;
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
        checkLeaving(record, leaving, RETRY_MIN_MS);
      });
    });
  };

  /** Takes the pod out; nothing of it stays open in this process or in the kernel. */
  const leave = async (record: PodRecord): Promise<void> => {
    const enrolled = record.enrolled;
    if (enrolled === undefined) return;
    cancelLeaving(record);
    record.enrolled = undefined;
    for (const [address, uid] of byAddress) if (uid === record.uid) byAddress.delete(address);
    enrolled.redirection.close();
    await options.workers.removePod(record.uid);
    for (const listener of enrolled.listeners) enrolled.namespace.closeDescriptor(listener.fd);
    enrolled.namespace.close();
    releaseIdentity(enrolled.identity);
    log.info({ pod: who(record), uid: record.uid }, 'pod left the mesh');
  };

  const scheduleRetry = (record: PodRecord): void => {
    if (closed || record.retry !== undefined) return;
    const base = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** record.attempts++);
    record.retry = clock.after(base * (0.5 + options.random() / 2), () => {
      record.retry = undefined;
      reconcile(record);
    });
  };

  /** Brings the pod to what its workload says, without anybody waiting. */
  const reconcile = (record: PodRecord): void => {
    if (closed || record.workload === undefined || record.sandbox === undefined) return;
    inTurn(record, async () => {
      const { workload, enrolled } = record;
      if (workload === undefined || record.sandbox === undefined) return;
      if (workload.enrol && enrolled === undefined) {
        await enrol(record);
      } else if (!workload.enrol && enrolled !== undefined) {
        if (record.leaving === undefined || enrolled.generation !== workload.pod.generation)
          beginLeaving(record, enrolled, addressed(workload, record.sandbox));
      } else if (
        enrolled !== undefined &&
        (record.leaving !== undefined || enrolled.generation !== workload.pod.generation)
      ) {
        update(record, enrolled, addressed(workload, record.sandbox));
      } else if (enrolled === undefined) {
        setPhase(record, 'left', 'NotEnrolled', workload.notEnrolledReason);
      }
    }).catch(() => scheduleRetry(record));
  };

  const forgetIfEmpty = (record: PodRecord): void => {
    if (record.sandbox !== undefined || record.workload !== undefined || record.enrolled !== undefined)
      return;
    record.retry?.cancel();
    records.delete(record.uid);
    options.podForgotten(record.uid);
  };

  const waitForWorkload = async (record: PodRecord): Promise<void> => {
    if (record.workload !== undefined) return;
    await new Promise<void>((resolve) => {
      const resume = (): void => {
        timer.cancel();
        record.waiting = record.waiting.filter((other) => other !== resume);
        resolve();
      };
      const timer = clock.after(WORKLOAD_WAIT_MS, resume);
      record.waiting.push(resume);
    });
  };

  return {
    async addPod(pod: CniPod): Promise<CniAddOutcome> {
      if (pod.uid === '') return { outcome: 'passed', reason: 'the runtime names no pod uid (K8S_POD_UID)' };
      const record = recordOf(pod.uid);
      const { containerId, uid, namespace, name, netnsPath, addresses } = pod;
      const before = record.sandbox;
      if (before !== undefined && before.containerId !== containerId)
        await inTurn(record, async () => leave(record));
      record.sandbox = { containerId, uid, namespace, name, netnsPath, addresses };
      sandboxesChanged();
      await waitForWorkload(record);
      const { workload } = record;
      if (workload === undefined) {
        if (!namespaces.has(namespace)) {
          return { outcome: 'passed', reason: `pod ${namespace}/${name} is not known to the mesh so far` };
        }
        return {
          outcome: 'try-again',
          reason: `pod ${namespace}/${name} is of an enrolled namespace and destination has not named it yet`,
        };
      }
      if (!workload.enrol) {
        setPhase(record, 'left', 'NotEnrolled', workload.notEnrolledReason);
        return { outcome: 'passed', reason: workload.notEnrolledReason };
      }
      try {
        await inTurn(record, async () => enrol(record));
        return { outcome: 'enrolled' };
      } catch (error) {
        return {
          outcome: 'try-again',
          reason: `pod ${namespace}/${name} cannot be enrolled: ${errorMessage(error)}`,
        };
      }
    },
    async removePod(containerId, uid) {
      const record =
        records.get(uid) ??
        [...records.values()].find((candidate) => candidate.sandbox?.containerId === containerId);
      if (record?.sandbox === undefined || record.sandbox.containerId !== containerId) return;
      record.retry?.cancel();
      record.retry = undefined;
      record.sandbox = undefined;
      sandboxesChanged();
      await inTurn(record, async () => leave(record));
      forgetIfEmpty(record);
    },
    setWorkload(workload) {
      const record = recordOf(workload.pod.uid);
      record.workload = workload;
      record.attempts = 0;
      const { waiting } = record;
      for (const resume of waiting) resume();
      // A waiting CNI ADD enrols the pod itself and answers with the outcome.
      if (waiting.length === 0) reconcile(record);
    },
    removeWorkload(uid) {
      const record = records.get(uid);
      if (record === undefined) return;
      record.workload = undefined;
      record.retry?.cancel();
      record.retry = undefined;
      forgetIfEmpty(record);
    },
    setNamespaces(names) {
      namespaces = new Set(names);
    },
    withdrawn(uid) {
      const record = records.get(uid);
      const leaving = record?.leaving;
      if (record === undefined || leaving === undefined || leaving.withdrawnAtMs !== undefined) return;
      leaving.withdrawnAtMs = clock.nowMs();
      checkLeaving(record, leaving, options.leaveGraceMs);
    },
    restore(sandboxes) {
      for (const sandbox of sandboxes) {
        const record = recordOf(sandbox.uid);
        record.sandbox ??= sandbox;
        reconcile(record);
      }
    },
    podOfAddress: (ip) => byAddress.get(ip),
    get pods() {
      return [...records.values()].map((record) => ({
        uid: record.uid,
        namespace: record.workload?.pod.namespace ?? record.sandbox?.namespace ?? '',
        name: record.workload?.pod.name ?? record.sandbox?.name ?? '',
        phase: record.phase,
        reason: record.reason,
        generation: record.workload?.pod.generation ?? 0,
        addresses: record.workload?.pod.addresses ?? record.sandbox?.addresses ?? [],
        identity: record.enrolled?.identity ?? '',
      }));
    },
    get settled() {
      return [...records.values()].every(
        ({ sandbox, workload, enrolled, leaving }) =>
          sandbox === undefined ||
          leaving !== undefined ||
          (workload !== undefined && workload.enrol === (enrolled !== undefined)),
      );
    },
    close() {
      closed = true;
      for (const record of records.values()) {
        record.retry?.cancel();
        record.leaving?.timer?.cancel();
        for (const listener of record.enrolled?.listeners ?? [])
          record.enrolled?.namespace.closeDescriptor(listener.fd);
        record.enrolled?.namespace.close();
      }
    },
  };
}

/** The workload's addresses, or the CNI result's while the pod's status is not written yet. */
function addressed(workload: NodeWorkload, sandbox: Sandbox): NodeWorkload {
  if (workload.pod.addresses.length > 0) return workload;
  return { ...workload, pod: { ...workload.pod, addresses: sandbox.addresses } };
}

async function withDeadline<T>(
  promise: Promise<T>,
  ms: number,
  clock: Clock,
  error: () => Error,
): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = clock.after(ms, () => reject(error()));
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer?.cancel();
  }
}
