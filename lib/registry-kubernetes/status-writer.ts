// SPDX-License-Identifier: Apache-2.0
// Writes enrolment conditions (through pods/status) and Events of pods. One write runs for a pod at a time, the
// newest report wins, the same again writes nothing, and all writes together keep to a rate.

import type { Clock } from '#lib/core/clock.ts';
import { createConcurrency } from '#lib/core/concurrency.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { ENROLLED_CONDITION } from '#lib/registry/model.ts';
import type { EnrolledCondition, PodEvent, PodRef, PodStatusReport } from '#lib/registry/registry.ts';
import type { KubernetesApi } from './api-client.ts';
import { ApiFailure } from './api-failure.ts';
import type { KubernetesCounts } from './counts.ts';
import { writeEvent } from './events.ts';
import { messageWithGeneration } from './kinds.ts';

export interface StatusWriterOptions {
  readonly api: KubernetesApi;
  readonly clock: Clock;
  readonly log: Log;
  readonly counts: KubernetesCounts;
  /** As the pod shows it now. */
  readonly condition: (pod: PodRef) => EnrolledCondition | undefined;
  readonly limits?: StatusWriterLimits;
}

export interface StatusWriterLimits {
  /** Between two writes for one pod. */
  readonly intervalMs: number;
  readonly atOnceMax: number;
  readonly perSecond: number;
  readonly eventsWaitingMax: number;
}

export const defaultStatusLimits: StatusWriterLimits = {
  intervalMs: 50,
  atOnceMax: 16,
  perSecond: 200,
  eventsWaitingMax: 1000,
};

/** Reports without end must not be kept: the pods that may be in flight are those of the cluster. */
const PODS_MAX = 200_000;
const EVENTS_PER_POD_MAX = 20;
const TRIES_MAX = 5;
const RETRY_MS = 200;
/** A watch that has not shown a write after so long is not going to: another writer was faster. */
const BROUGHT_BACK_MS = 10_000;

interface PodState {
  readonly pod: PodRef;
  wanted: EnrolledCondition | undefined;
  /** What this process wrote last, until the watch has brought it back: others may write too. */
  written: EnrolledCondition | undefined;
  /** The write that will carry `wanted`. */
  next: Promise<void> | undefined;
  running: Promise<void>;
  lastWriteMs: number;
  /** What was said, by its text. */
  readonly said: Set<string>;
}

export class StatusWriter {
  readonly #options: StatusWriterOptions;
  readonly #limits: StatusWriterLimits;
  readonly #pods = new Map<string, PodState>();
  readonly #concurrency;
  #eventsWaiting = 0;
  /** When the next write may begin at the earliest. */
  #slotMs = 0;

  constructor(options: StatusWriterOptions) {
    this.#options = options;
    this.#limits = options.limits ?? defaultStatusLimits;
    this.#concurrency = createConcurrency({
      what: 'status writes',
      runningMax: this.#limits.atOnceMax,
      waitingMax: PODS_MAX,
    });
  }

  async report(pod: PodRef, { condition, events }: PodStatusReport): Promise<void> {
    const state = this.#stateOf(pod);
    const before = state.wanted ?? this.#present(state);
    const transition =
      condition !== undefined && (before?.status !== condition.status || before.reason !== condition.reason);
    for (const event of events ?? []) this.#tell(state, event, transition);
    if (condition === undefined) return;
    if (before !== undefined && equal(before, condition)) {
      await (state.next ?? state.running);
      return;
    }
    state.wanted = condition;
    state.next ??= this.#writeNext(state);
    await state.next;
  }

  /** The watch shows the pod with this condition. */
  observed(uid: string, condition: EnrolledCondition): void {
    const state = this.#pods.get(uid);
    if (state?.written !== undefined && equal(state.written, condition)) state.written = undefined;
  }

  forget(uid: string): void {
    this.#pods.delete(uid);
  }

  #present(state: PodState): EnrolledCondition | undefined {
    const late = this.#options.clock.nowMs() - state.lastWriteMs > BROUGHT_BACK_MS;
    return (late ? undefined : state.written) ?? this.#options.condition(state.pod);
  }

  #stateOf(pod: PodRef): PodState {
    const known = this.#pods.get(pod.uid);
    if (known !== undefined) return known;
    if (this.#pods.size >= PODS_MAX) this.#pods.clear();
    const state: PodState = {
      pod,
      wanted: undefined,
      written: undefined,
      next: undefined,
      running: Promise.resolve(),
      lastWriteMs: Number.NEGATIVE_INFINITY,
      said: new Set(),
    };
    this.#pods.set(pod.uid, state);
    return state;
  }

  async #writeNext(state: PodState): Promise<void> {
    const { clock } = this.#options;
    // A failure of the write before was told to whoever asked for it.
    await state.running.catch(() => undefined);
    await this.#sleep(state.lastWriteMs + this.#limits.intervalMs - clock.nowMs());
    state.next = undefined;
    const { wanted } = state;
    state.wanted = undefined;
    if (wanted === undefined) return;
    state.lastWriteMs = clock.nowMs();
    state.running = this.#writeCondition(state, wanted);
    await state.running;
  }

  async #writeCondition(state: PodState, condition: EnrolledCondition): Promise<void> {
    const { counts, clock } = this.#options;
    const { namespace, name, uid } = state.pod;
    const before = this.#present(state);
    const written = state.written;
    state.written = condition;
    const entry = {
      type: ENROLLED_CONDITION,
      status: condition.status,
      reason: condition.reason,
      message: messageWithGeneration(condition.message, condition.generation),
      observedGeneration: condition.generation,
      ...(before?.status === condition.status
        ? {}
        : { lastTransitionTime: `${new Date(clock.wallMs()).toISOString().slice(0, 19)}Z` }),
    };
    try {
      await this.#attempts(() =>
        this.#options.api.call({
          method: 'PATCH',
          path: `/api/v1/namespaces/${namespace}/pods/${name}/status`,
          contentType: 'application/strategic-merge-patch+json',
          // The uid makes it fail for a successor of the same name.
          body: { metadata: { uid }, status: { conditions: [entry] } },
        }),
      );
      counts.wrote('condition', 'written');
    } catch (error) {
      if (state.written === condition) state.written = written;
      if (isGone(error)) {
        counts.wrote('condition', 'gone');
        throw new MeshError('MESH_NOT_FOUND', `pod ${namespace}/${name} (uid ${uid}) is gone`);
      }
      counts.wrote('condition', 'failed');
      throw MeshError.from(error, 'MESH_KUBERNETES', `writing the status of pod ${namespace}/${name}`);
    }
  }

  #tell(state: PodState, event: PodEvent, transition: boolean): void {
    const { counts, log } = this.#options;
    const text = JSON.stringify([event.type, event.reason, event.message]);
    const known = state.said.delete(text);
    state.said.add(text);
    for (const oldest of state.said) {
      if (state.said.size <= EVENTS_PER_POD_MAX) break;
      state.said.delete(oldest);
    }
    // Said before, and nothing happened since.
    if (known && !transition) return;
    if (this.#eventsWaiting >= this.#limits.eventsWaitingMax) {
      counts.wrote('event', 'dropped');
      return;
    }
    this.#eventsWaiting++;
    const { namespace, name, uid } = state.pod;
    const subject = { apiVersion: 'v1', kind: 'Pod', namespace, name, uid };
    const options = { ...this.#options, component: 'nodemesh-destination' };
    this.#attempts(() => writeEvent(options, subject, event, transition))
      .then(
        () => counts.wrote('event', 'written'),
        (error: unknown) => {
          counts.wrote('event', isGone(error) ? 'gone' : 'failed');
          log.warn({ pod: `${namespace}/${name}`, reason: errorMessage(error) }, 'event was not written');
        },
      )
      .finally(() => this.#eventsWaiting--);
  }

  /** Tries again what may succeed later. */
  async #attempts<T>(write: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#concurrency.run(async () => {
          await this.#turn();
          return await write();
        });
      } catch (error) {
        if (attempt >= TRIES_MAX || !isPassing(error)) throw error;
        const retryAfterMs = error instanceof ApiFailure ? error.retryAfterMs : 0;
        await this.#sleep(Math.max(retryAfterMs, RETRY_MS * 2 ** attempt));
      }
    }
  }

  /** Waits so that no more writes begin than the rate allows; a burst of one second is let through. */
  async #turn(): Promise<void> {
    const nowMs = this.#options.clock.nowMs();
    const { perSecond } = this.#limits;
    this.#slotMs = Math.max(this.#slotMs, nowMs - 1000) + 1000 / perSecond;
    await this.#sleep(this.#slotMs - nowMs);
  }

  async #sleep(ms: number): Promise<void> {
    if (ms <= 0) return;
    await new Promise<void>((resolve) => this.#options.clock.after(ms, resolve));
  }
}

const equal = (a: EnrolledCondition, b: EnrolledCondition): boolean =>
  a.status === b.status && a.reason === b.reason && a.message === b.message && a.generation === b.generation;

/** Not there, or another object under the same name. */
const isGone = (error: unknown): boolean =>
  error instanceof ApiFailure &&
  (error.status === 404 || (error.status === 409 && /uid/i.test(error.message)));

/** No answer, too many requests, a conflict of two writers, a server's fault. */
const isPassing = (error: unknown): boolean =>
  error instanceof ApiFailure &&
  !isGone(error) &&
  (error.status === 0 || error.status === 409 || error.status === 429 || error.status >= 500);
