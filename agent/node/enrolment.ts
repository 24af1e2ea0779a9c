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

import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { CniAddOutcome, CniCheckOutcome, CniPod } from '../../cni-plugin/logic/node.ts';
import type { Enrolment, EnrolmentOptions, Sandbox } from './enrolment-model.ts';
import type { WantedPod } from './find-namespace.ts';
import { createPodIndices } from './pod-indices.ts';
import {
  addressed,
  createPodRecord,
  inTurn,
  isMissing,
  isSandbox,
  type PodRecord,
  who,
} from './pod-record.ts';
import { createPodSteps } from './pod-steps.ts';

/** CNI ADD waits this long for the node stream to name the pod. */
const WORKLOAD_WAIT_MS = 2_000;
const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 30_000;

export function createEnrolment(options: EnrolmentOptions): Enrolment {
  const { clock, log } = options;
  const records = new Map<string, PodRecord>();
  let namespaces = new Set<string>();
  /** By an earlier agent's list; if that is damaged, any pod is of the mesh until destination has spoken. */
  let earlierPods = new Set<string>();
  let anyPod = false;
  let active = true;
  let closed = false;

  const indices = createPodIndices(options.random, () =>
    [...records.values()].flatMap(({ enrolled }) => (enrolled === undefined ? [] : [enrolled.podIndex])),
  );
  const steps = createPodSteps({
    ...options,
    indices,
    isActive: () => active,
    isClosed: () => closed,
  });

  const recordOf = (uid: string): PodRecord => {
    let record = records.get(uid);
    if (record === undefined) {
      record = createPodRecord(uid);
      records.set(uid, record);
    }
    return record;
  };

  const allSandboxes = (): Sandbox[] =>
    [...records.values()].flatMap(({ sandbox }) =>
      // By a process number, which means nothing to a later agent: it looks for itself.
      sandbox === undefined || sandbox.found === true ? [] : [sandbox],
    );
  const sandboxesChanged = (): void => {
    if (!closed && active) options.sandboxesChanged(allSandboxes());
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
    if (closed || record.workload === undefined) return;
    if (record.sandbox === undefined && !record.unsaid) return;
    inTurn(record, async () => {
      const { workload, enrolled } = record;
      if (workload === undefined) return;
      if (record.sandbox === undefined) {
        if (active && record.unsaid && !workload.enrol)
          steps.setPhase(record, 'left', 'NotEnrolled', workload.notEnrolledReason);
        return;
      }
      if (!active) {
        // Whatever else is to be done about it is the other agent's.
        if (enrolled !== undefined && workload.enrol)
          steps.update(record, enrolled, addressed(workload, record.sandbox));
        return;
      }
      if (workload.enrol && enrolled === undefined) {
        await steps.enrol(record);
      } else if (!workload.enrol && enrolled !== undefined) {
        if (record.leaving === undefined || enrolled.generation !== workload.pod.generation)
          steps.beginLeaving(record, enrolled, addressed(workload, record.sandbox));
      } else if (
        enrolled !== undefined &&
        (record.leaving !== undefined || enrolled.generation !== workload.pod.generation)
      ) {
        steps.update(record, enrolled, addressed(workload, record.sandbox));
      } else if (enrolled === undefined) {
        steps.setPhase(record, 'left', 'NotEnrolled', workload.notEnrolledReason);
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

  const wanted = (chosen: (record: PodRecord) => boolean): WantedPod[] =>
    [...records.values()].filter(chosen).map(({ uid, workload, sandbox }) => ({
      uid,
      addresses: workload?.pod.addresses ?? sandbox?.addresses ?? [],
    }));

  const dropFound = (record: PodRecord): void => {
    if (record.sandbox?.found !== true) return;
    record.sandbox = undefined;
    inTurn(record, async () => steps.leave(record)).then(
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
      if (pod.uid === '') {
        const reason = `the runtime names no uid (K8S_POD_UID) of pod ${pod.namespace}/${pod.name}`;
        return { outcome: anyPod || namespaces.has(pod.namespace) ? 'try-again' : 'passed', reason };
      }
      const record = recordOf(pod.uid);
      const { containerId, uid, namespace, name, netnsPath, addresses, network, ifname } = pod;
      const before = record.sandbox;
      if (before?.containerId === containerId && (before.ifname ?? ifname) !== ifname) {
        return { outcome: 'passed', reason: `the pod is attached by ${before.ifname ?? '?'} already` };
      }
      const place = (): void => {
        record.sandbox = { containerId, uid, namespace, name, netnsPath, addresses, network, ifname };
        sandboxesChanged();
      };
      if (before === undefined || before.containerId === containerId) place();
      // In one step: one that came in between would enrol the pod where it was.
      else
        await inTurn(record, async () => {
          await steps.leave(record);
          place();
        });
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
        steps.setPhase(record, 'left', 'NotEnrolled', workload.notEnrolledReason);
        return { outcome: 'passed', reason: workload.notEnrolledReason };
      }
      try {
        await inTurn(record, async () => steps.enrol(record));
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
      record.unsaid = true;
      indices.forget(uid);
      sandboxesChanged();
      await inTurn(record, async () => steps.leave(record));
      // Reported with the next sandbox, or when destination says that the pod has ended.
      if (record.enrolled === undefined && record.unsaid) record.phase = 'pending';
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
      if (!active) void inTurn(record, async () => steps.leave(record)).then(() => forgetIfEmpty(record));
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
      steps.checkLeaving(record, leaving, options.leaveGraceMs);
    },
    restore(sandboxes, podIndices) {
      for (const [uid, podIndex] of podIndices ?? []) indices.keep(uid, podIndex);
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
      const kept = [...indices.kept].map(([uid, podIndex]) => ({ uid, podIndex }));
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
    repairListeners(uid) {
      let repaired = 0;
      for (const record of records.values())
        if (uid === undefined || record.uid === uid) repaired += steps.repairListeners(record);
      return repaired;
    },
    setProblem(uid, problem) {
      const record = records.get(uid);
      if (record !== undefined) steps.setProblem(record, problem);
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
      steps.setPhase(record, 'pending', 'NoSandbox', 'no process of the pod is found on its node so far');
    },
    setFoundGone(uid) {
      const record = records.get(uid);
      if (record !== undefined) dropFound(record);
    },
    podOfAddress: (ip) => steps.podOfAddress(ip),
    get pods() {
      return [...records.values()].map((record) => ({
        uid: record.uid,
        namespace: record.workload?.pod.namespace ?? record.sandbox?.namespace ?? '',
        name: record.workload?.pod.name ?? record.sandbox?.name ?? '',
        phase: record.phase,
        wanted: record.workload?.enrol === true,
        reason: record.reason,
        problem: record.problem ?? '',
        netnsPath: record.sandbox?.found === true ? undefined : record.sandbox?.netnsPath,
        generation: record.workload?.pod.generation ?? 0,
        addresses: record.sandbox?.addresses ?? record.workload?.pod.addresses ?? [],
        identity: record.enrolled?.identity ?? '',
        ownerKind: record.workload?.pod.ownerKind ?? '',
        ownerName: record.workload?.pod.ownerName ?? '',
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
