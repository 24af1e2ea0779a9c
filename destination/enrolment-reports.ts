// SPDX-License-Identifier: Apache-2.0
// What agents report of their pods becomes a condition and Events on the pod. Late reports are recognised: by
// sequence within one agent process, by generation against the workload as it is now.

import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { type EnrolmentReport, EnrolmentState, type Hello } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import type { Pod } from '#lib/registry/model.ts';
import type { EnrolledCondition, PodEvent, Registry } from '#lib/registry/registry.ts';

export type ReportOutcome = 'written' | 'kept' | 'stale' | 'refused';

/** A feature of agents: they take HTTP/1 over HTTP/2 on the mesh port. */
const HTTP2_FEATURE = 'http2';
/** Reason of the condition of pods whose agent lacks it: every replica of destination reads it there. */
export const ENROLLED_HTTP1_ONLY = 'EnrolledHttp1Only';

interface LastReport {
  readonly instanceId: string;
  readonly http2: boolean;
  readonly report: EnrolmentReport;
}

/** How a report's workload stands now; undefined if the pod is not on the agent's node. */
export interface CurrentWorkload {
  readonly pod: Pod;
  readonly generation: bigint;
}

export interface EnrolmentReportsOptions {
  readonly registry: Registry;
  readonly log: Log;
}

const PODS_MAX = 200_000;

export class EnrolmentReports {
  readonly #options: EnrolmentReportsOptions;
  readonly #last = new Map<string, LastReport>();

  constructor(options: EnrolmentReportsOptions) {
    this.#options = options;
  }

  take(
    node: string,
    { instanceId, features }: Pick<Hello, 'instanceId' | 'features'>,
    report: EnrolmentReport,
    current: CurrentWorkload | undefined,
  ): ReportOutcome {
    const { log } = this.#options;
    if (current === undefined) {
      log.warn(
        { node, uid: report.uid },
        'report about a pod that is not on the node of its agent is refused',
      );
      return 'refused';
    }
    const last = this.#last.get(report.uid);
    if (last?.instanceId === instanceId && report.sequence <= last.report.sequence) {
      log.debug({ node, uid: report.uid, sequence: String(report.sequence) }, 'late report is left out');
      return 'stale';
    }
    if (this.#last.size >= PODS_MAX && last === undefined) this.#last.clear();
    const http2 = features.includes(HTTP2_FEATURE);
    this.#last.set(report.uid, { instanceId, http2, report });
    if (report.generation !== current.generation) return 'kept';
    this.#write(current.pod, report, http2);
    return 'written';
  }

  /** The workload is as `current` now: a report that came before it is acted on. */
  workloadChanged(uid: string, current: CurrentWorkload): void {
    const last = this.#last.get(uid);
    if (last?.report.generation === current.generation) this.#write(current.pod, last.report, last.http2);
  }

  forget(uid: string): void {
    this.#last.delete(uid);
  }

  #write(pod: Pod, report: EnrolmentReport, http2: boolean): void {
    const { registry, log } = this.#options;
    const { uid, name, namespace } = pod.metadata;
    const condition = conditionOf(report, http2);
    registry
      .reportStatus({ cluster: pod.cluster, namespace, name, uid }, { condition, events: eventsOf(report) })
      .catch((error: unknown) => {
        log.warn(
          { pod: `${namespace}/${name}`, uid, error: errorMessage(error) },
          'enrolment was not written on the pod',
        );
      });
  }
}

function conditionOf(report: EnrolmentReport, http2: boolean): EnrolledCondition {
  const names: Partial<Record<number, string>> = {
    [EnrolmentState.ENROLMENT_STATE_PENDING]: 'Pending',
    [EnrolmentState.ENROLMENT_STATE_ENROLLED]: 'Enrolled',
    [EnrolmentState.ENROLMENT_STATE_FAILED]: 'Failed',
    [EnrolmentState.ENROLMENT_STATE_LEAVING]: 'Leaving',
    [EnrolmentState.ENROLMENT_STATE_LEFT]: 'Left',
  };
  const enrolled = report.state === EnrolmentState.ENROLMENT_STATE_ENROLLED;
  return {
    status: enrolled ? 'True' : 'False',
    reason:
      (enrolled && !http2 ? ENROLLED_HTTP1_ONLY : reasonOf(report.reason)) ??
      names[report.state] ??
      'Unknown',
    message: report.message === '' ? report.reason : report.message,
    generation: Number(report.generation),
  };
}

/** Kubernetes allows CamelCase words as reasons. */
const reasonOf = (text: string): string | undefined =>
  /^[A-Za-z]([A-Za-z0-9_,:]{0,100}[A-Za-z0-9_])?$/.test(text) ? text : undefined;

function eventsOf(report: EnrolmentReport): PodEvent[] {
  const message = report.message || report.reason;
  const { state } = report;
  if (state === EnrolmentState.ENROLMENT_STATE_ENROLLED) {
    return [{ type: 'Normal', reason: 'MeshEnrolled', message: 'The pod is in the mesh' }];
  }
  if (state === EnrolmentState.ENROLMENT_STATE_LEAVING) {
    return [{ type: 'Normal', reason: 'MeshLeaving', message }];
  }
  // Of a pod that has never been in the mesh there is nothing to tell.
  if (state === EnrolmentState.ENROLMENT_STATE_LEFT && report.reason === LEFT_REASON) {
    return [{ type: 'Normal', reason: 'MeshLeft', message }];
  }
  if (state !== EnrolmentState.ENROLMENT_STATE_FAILED) return [];
  return [{ type: 'Warning', reason: 'MeshEnrolmentFailed', message }];
}

/** Agents' reason for LEFT when the user opted out; other pods without the mesh have others. */
const LEFT_REASON = 'OptedOut';
