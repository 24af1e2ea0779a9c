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
import type { ReadList } from '../../cni-plugin/logic/enrolled-list.ts';
import type { CniAddOutcome, CniCheckOutcome, CniNode, CniPod } from '../../cni-plugin/logic/node.ts';
import type { ListenerHandle, WorkerPod } from '../proxy/model.ts';
import type { WantedPod } from './find-namespace.ts';
import { createIdentityUses } from './identity-uses.ts';
import type { ListenerKeeper } from './kept-listeners.ts';
import { openListeners } from './open-listeners.ts';
import type { PodNamespace } from './pod-namespace.ts';
import type { ProxyWorkers } from './proxy-workers.ts';
import type { PodRedirection, RedirectedPod, Redirection } from './redirection-types.ts';
import { withDeadline } from './with-deadline.ts';

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

interface Enrolled {
  readonly namespace: PodNamespace;
  readonly redirection: PodRedirection;
  listeners: readonly ListenerHandle[];
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
  /** Its namespace was looked for at least once, and not found. */
  searched: boolean;
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
  /** Destination says that the pod shall be in the mesh. */
  readonly wanted: boolean;
  readonly reason: string;
  readonly generation: number;
  readonly addresses: readonly string[];
  readonly identity: string;
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
  /** Puts new listeners in the place of those that do not listen any more; how many. */
  repairListeners(): number;
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

export function createEnrolment(options: EnrolmentOptions): Enrolment {
  const { clock, log } = options;
  const records = new Map<string, PodRecord>();
  const byAddress = new Map<string, string>();
  let namespaces = new Set<string>();
  /** By an earlier agent's list; if that is damaged, any pod is of the mesh until destination has spoken. */
  let earlierPods = new Set<string>();
  let anyPod = false;
  // Not from 1: a voucher of an earlier agent, still in a backlog, must not name one of our pods.
  let nextPodIndex = 1 + Math.floor(options.random() * 2 ** 31);
  /** Of an earlier agent's pods that are not enrolled here so far. */
  const keptIndices = new Map<string, number>();
  let active = true;
  let closed = false;

  const indexFor = (uid: string): number => {
    const kept = keptIndices.get(uid);
    keptIndices.delete(uid);
    if (kept !== undefined) return kept;
    const used = new Set([
      ...keptIndices.values(),
      ...[...records.values()].map((record) => record.enrolled?.podIndex),
    ]);
    while (used.has(nextPodIndex)) nextPodIndex++;
    return nextPodIndex++;
  };

  const identities = createIdentityUses(options.certificates);

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
        searched: false,
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

  const allSandboxes = (): Sandbox[] =>
    [...records.values()].flatMap(({ sandbox }) =>
      // By a process number, which means nothing to a later agent: it looks for itself.
      sandbox === undefined || sandbox.found === true ? [] : [sandbox],
    );
  const sandboxesChanged = (): void => {
    if (!closed && active) options.sandboxesChanged(allSandboxes());
  };

  /** Runs a step after the pod's earlier ones; its failure is the caller's, not the next step's. */
  const inTurn = async (record: PodRecord, step: () => Promise<void>): Promise<void> => {
    const turn = record.queue.then(step);
    record.queue = turn.catch(() => undefined);
    await turn;
  };

  /** The kernel's part of an enrolment takes tens of milliseconds; between two of them all else has its turn. */
  let turns = Promise.resolve();
  const nextTurn = async (): Promise<void> => {
    turns = turns.then(async () => new Promise<void>((resolve) => setImmediate(resolve)));
    await turns;
  };

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
      podIndex = indexFor(record.uid);
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
      setPhase(record, 'enrolled', 'Enrolled', `${identity} is in the mesh`);
    } catch (error) {
      redirection?.abandon();
      if (adopted.length > 0) {
        // Connections wait in them, and their vouchers name the pod by its number.
        options.listeners.giveBack(record.uid, listeners);
        if (podIndex !== undefined) keptIndices.set(record.uid, podIndex);
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

  /** Gives workers and kernel a new configuration; what the kernel refuses is tried again. */
  const update = (record: PodRecord, enrolled: Enrolled, workload: NodeWorkload): void => {
    const { namespace, podIndex, startedAtSeconds, listeners } = enrolled;
    options.workers.setPod({ ...workload.pod, netnsFd: namespace.fd, podIndex, startedAtSeconds }, listeners);
    if (!active) return;
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
    if (active) enrolled.redirection.close();
    else enrolled.redirection.letGo();
    await options.workers.removePod(record.uid);
    for (const listener of enrolled.listeners) enrolled.namespace.closeDescriptor(listener.fd);
    options.listeners.forget(record.uid);
    enrolled.namespace.close();
    identities.release(enrolled.identity);
    log.info({ pod: who(record), uid: record.uid }, 'pod left the mesh');
  };

  const scheduleRetry = (record: PodRecord): void => {
    if (closed || !active || record.retry !== undefined) return;
    const base = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** record.attempts++);
    record.retry = clock.after(base * (0.5 + options.random() / 2), () => {
      record.retry = undefined;
      // The process may be another's by now: found anew.
      if (record.enrolled === undefined && record.sandbox?.found === true) dropFound(record);
      else reconcile(record);
    });
  };

  /** Brings the pod to what its workload says, without anybody waiting. */
  const reconcile = (record: PodRecord): void => {
    if (closed || record.workload === undefined || record.sandbox === undefined) return;
    inTurn(record, async () => {
      const { workload, enrolled } = record;
      if (workload === undefined || record.sandbox === undefined) return;
      if (!active) {
        // Whatever else is to be done about it is the other agent's.
        if (enrolled !== undefined && workload.enrol)
          update(record, enrolled, addressed(workload, record.sandbox));
        return;
      }
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

  const isMissing = ({ sandbox, workload }: PodRecord): boolean =>
    sandbox === undefined && workload?.enrol === true && workload.pod.addresses.length > 0;

  const wanted = (chosen: (record: PodRecord) => boolean): WantedPod[] =>
    [...records.values()].filter(chosen).map(({ uid, workload, sandbox }) => ({
      uid,
      addresses: workload?.pod.addresses ?? sandbox?.addresses ?? [],
    }));

  const dropFound = (record: PodRecord): void => {
    if (record.sandbox?.found !== true) return;
    record.sandbox = undefined;
    inTurn(record, async () => leave(record)).then(
      () => {
        forgetIfEmpty(record);
        if (isMissing(record)) options.sandboxMissing();
      },
      (error: unknown) => log.warn({ pod: who(record), error: errorMessage(error) }, 'a pod could not leave'),
    );
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

  const enrolment: Enrolment = {
    async addPod(pod: CniPod): Promise<CniAddOutcome> {
      if (pod.uid === '') return { outcome: 'passed', reason: 'the runtime names no pod uid (K8S_POD_UID)' };
      const record = recordOf(pod.uid);
      const { containerId, uid, namespace, name, netnsPath, addresses, network, ifname } = pod;
      const before = record.sandbox;
      if (before?.containerId === containerId && (before.ifname ?? ifname) !== ifname) {
        return { outcome: 'passed', reason: `the pod is attached by ${before.ifname ?? '?'} already` };
      }
      if (before !== undefined && before.containerId !== containerId)
        await inTurn(record, async () => leave(record));
      record.sandbox = { containerId, uid, namespace, name, netnsPath, addresses, network, ifname };
      sandboxesChanged();
      await waitForWorkload(record);
      const gone: CniAddOutcome = {
        outcome: 'try-again',
        reason: `the sandbox of pod ${namespace}/${name} was removed meanwhile`,
      };
      if (record.sandbox?.containerId !== containerId) return gone;
      const { workload } = record;
      if (workload === undefined) {
        if (!anyPod && !namespaces.has(namespace) && !earlierPods.has(uid)) {
          return { outcome: 'passed', reason: `pod ${namespace}/${name} is not known to the mesh so far` };
        }
        return {
          outcome: 'try-again',
          reason: anyPod
            ? `the list of enrolled namespaces is damaged and destination has not told them yet, nor pod ${namespace}/${name}`
            : `pod ${namespace}/${name} is to be enrolled and destination has not named it yet`,
        };
      }
      if (!workload.enrol) {
        setPhase(record, 'left', 'NotEnrolled', workload.notEnrolledReason);
        return { outcome: 'passed', reason: workload.notEnrolledReason };
      }
      try {
        await inTurn(record, async () => enrol(record));
        return record.sandbox?.containerId === containerId ? { outcome: 'enrolled' } : gone;
      } catch (error) {
        return {
          outcome: 'try-again',
          reason: `pod ${namespace}/${name} cannot be enrolled: ${errorMessage(error)}`,
        };
      }
    },
    async checkPod({ containerId, uid, netnsPath, addresses }): Promise<CniCheckOutcome> {
      const record = records.get(uid);
      if (record?.workload?.enrol !== true) return { outcome: 'sound' };
      // A step under way may be the one that makes it sound.
      await record.queue;
      const broken = (reason: string): CniCheckOutcome => ({
        outcome: 'broken',
        reason: `pod ${who(record)} ${reason}`,
      });
      if (record.sandbox !== undefined && !isSandbox(record.sandbox, containerId))
        return broken(`has another sandbox by now: ${record.sandbox.containerId}`);
      if (record.enrolled === undefined)
        return broken(`is not in the mesh: ${record.reason || 'it is on its way'}`);
      const difference = record.enrolled.namespace.differs(netnsPath, addresses);
      return difference === undefined ? { outcome: 'sound' } : broken(difference);
    },
    async keepOnly(network, attachments) {
      const kept = new Set(attachments.map(({ containerId, ifname }) => `${containerId} ${ifname}`));
      const stale = [...records.values()].flatMap(({ sandbox }) =>
        sandbox?.network === network && !kept.has(`${sandbox.containerId} ${sandbox.ifname ?? ''}`)
          ? [sandbox]
          : [],
      );
      const results = await Promise.allSettled(
        stale.map(async ({ containerId, uid }) => enrolment.removePod(containerId, uid)),
      );
      if (stale.length > 0)
        log.info({ network, pods: stale.length }, 'let go of pods that the runtime has not any more');
      const failed = results.flatMap((result) =>
        result.status === 'rejected' ? [errorMessage(result.reason)] : [],
      );
      if (failed.length > 0)
        throw new MeshError(
          'MESH_CNI_TRY_AGAIN',
          `${failed.length} pods stay: ${failed.slice(0, 3).join('; ')}`,
        );
    },
    async removePod(containerId, uid, ifname = '') {
      const record =
        records.get(uid) ??
        [...records.values()].find((candidate) => candidate.sandbox?.containerId === containerId);
      if (record?.sandbox === undefined) return;
      if (!isSandbox(record.sandbox, containerId)) return;
      // Another interface of the pod goes, by which it is not attached to the mesh.
      if (ifname !== '' && (record.sandbox.ifname ?? ifname) !== ifname) return;
      record.retry?.cancel();
      record.retry = undefined;
      record.sandbox = undefined;
      keptIndices.delete(uid);
      sandboxesChanged();
      await inTurn(record, async () => leave(record));
      // Destination learns it from the pod's own end, or from what becomes of its next sandbox.
      if (record.enrolled === undefined) record.phase = 'pending';
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
      if (isMissing(record)) options.sandboxMissing();
    },
    removeWorkload(uid) {
      const record = records.get(uid);
      if (record === undefined) return;
      record.workload = undefined;
      record.retry?.cancel();
      record.retry = undefined;
      dropFound(record);
      // The runtime's word about its sandbox goes to the other agent.
      if (!active) record.sandbox = undefined;
      if (!active) void inTurn(record, async () => leave(record)).then(() => forgetIfEmpty(record));
      else forgetIfEmpty(record);
    },
    setEarlier(list) {
      anyPod = list.state === 'damaged';
      if (list.state !== 'whole') return;
      namespaces = new Set(list.namespaces);
      earlierPods = new Set(list.pods);
    },
    setNamespaces(names) {
      namespaces = new Set(names);
      anyPod = false;
    },
    withdrawn(uid) {
      const record = records.get(uid);
      const leaving = record?.leaving;
      if (record === undefined || leaving === undefined || leaving.withdrawnAtMs !== undefined) return;
      leaving.withdrawnAtMs = clock.nowMs();
      checkLeaving(record, leaving, options.leaveGraceMs);
    },
    restore(sandboxes, podIndices) {
      for (const [uid, podIndex] of podIndices ?? []) keptIndices.set(uid, podIndex);
      for (const sandbox of sandboxes) {
        const record = recordOf(sandbox.uid);
        record.sandbox ??= sandbox;
        reconcile(record);
      }
    },
    get sandboxes() {
      return allSandboxes();
    },
    get podIndices() {
      const kept = [...keptIndices].map(([uid, podIndex]) => ({ uid, podIndex }));
      for (const { uid, enrolled } of records.values())
        if (enrolled !== undefined) kept.push({ uid, podIndex: enrolled.podIndex });
      return kept;
    },
    setActive(next) {
      if (active === next) return;
      active = next;
      for (const record of records.values()) {
        record.retry?.cancel();
        record.retry = undefined;
        if (!active) continue;
        // The other agent may have written something else.
        if (record.enrolled !== undefined) record.enrolled.generation = -1;
        reconcile(record);
      }
      if (active) options.sandboxMissing();
    },
    repairListeners() {
      let repaired = 0;
      for (const record of records.values()) {
        const { enrolled, workload } = record;
        if (enrolled === undefined || workload === undefined || record.sandbox === undefined) continue;
        const { namespace, redirection } = enrolled;
        const dead = enrolled.listeners.filter(({ fd }) => !namespace.listens(fd));
        if (dead.length === 0) continue;
        repaired += dead.length;
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
        options.workers.setPod(
          { ...pod, netnsFd: namespace.fd, podIndex, startedAtSeconds, leaving },
          listeners,
        );
        for (const { fd } of dead) namespace.closeDescriptor(fd);
        log.warn({ pod: who(record), listeners: dead.length }, 'dead listeners of a pod were replaced');
      }
      return repaired;
    },
    get missing() {
      return wanted(isMissing);
    },
    get found() {
      return wanted(({ sandbox }) => sandbox?.found === true);
    },
    setFound(uid, netnsPath) {
      const record = records.get(uid);
      const pod = record?.workload?.pod;
      // The runtime's word, or the user's, may have come meanwhile.
      if (record === undefined || pod === undefined || !active || !isMissing(record)) return;
      const { namespace, name, addresses } = pod;
      record.sandbox = { containerId: '', uid, namespace, name, netnsPath, addresses, found: true };
      log.info({ pod: who(record), uid, netnsPath }, 'a running pod was found by its processes');
      reconcile(record);
    },
    setNotFound(uid) {
      const record = records.get(uid);
      if (record === undefined || record.searched || !isMissing(record)) return;
      record.searched = true;
      setPhase(record, 'pending', 'NoSandbox', 'no process of the pod is found on its node so far');
    },
    setFoundGone(uid) {
      const record = records.get(uid);
      if (record !== undefined) dropFound(record);
    },
    podOfAddress: (ip) => byAddress.get(ip),
    get pods() {
      return [...records.values()].map((record) => ({
        uid: record.uid,
        namespace: record.workload?.pod.namespace ?? record.sandbox?.namespace ?? '',
        name: record.workload?.pod.name ?? record.sandbox?.name ?? '',
        phase: record.phase,
        wanted: record.workload?.enrol === true,
        reason: record.reason,
        generation: record.workload?.pod.generation ?? 0,
        addresses: record.sandbox?.addresses ?? record.workload?.pod.addresses ?? [],
        identity: record.enrolled?.identity ?? '',
      }));
    },
    get settled() {
      return [...records.values()].every(
        (record) =>
          (record.sandbox === undefined && (record.searched || !isMissing(record))) ||
          record.leaving !== undefined ||
          (record.sandbox !== undefined && record.workload?.enrol === (record.enrolled !== undefined)),
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
  return enrolment;
}

/** One that was found has no name of the runtime's. */
const isSandbox = (sandbox: Sandbox, containerId: string): boolean =>
  sandbox.containerId === containerId || sandbox.found === true;

/** The CNI result's addresses: the pod's status may not be written yet, or still be that of an earlier sandbox. */
function addressed(workload: NodeWorkload, sandbox: Sandbox): NodeWorkload {
  if (sandbox.addresses.length === 0) return workload;
  return { ...workload, pod: { ...workload.pod, addresses: sandbox.addresses } };
}
