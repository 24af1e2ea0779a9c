// SPDX-License-Identifier: Apache-2.0
// The pods of one node: a worker for each pod that is scheduled here, ended when the pod is deleted.

import { errorMessage } from '#lib/core/errors.ts';
import { isTerminating, namespaceOf, podIsFinished, type PodObject } from './objects.ts';
import { type PodHost, PodWorker } from './pod-worker.ts';

export class Kubelet {
  readonly #host: PodHost;
  readonly #workers = new Map<string, PodWorker>();
  readonly #ending = new Set<string>();
  readonly #unsubscribe: () => void;

  constructor(host: PodHost) {
    this.#host = host;
    this.#unsubscribe = host.store.subscribe(({ object, removed }) => {
      if (object.kind === 'Pod' && !removed) this.#look(object);
    });
    // A node that comes back does not start again what had ended.
    for (const pod of host.store.list('Pod')) if (!podIsFinished(pod)) this.#look(pod);
  }

  worker(pod: PodObject): PodWorker | undefined {
    return this.#workers.get(pod.metadata.uid);
  }

  /** Takes no further pods and abandons those it has. */
  async close(): Promise<void> {
    this.#unsubscribe();
    await Promise.all([...this.#workers.values()].map((worker) => worker.abandon()));
  }

  /** Of a closed one: removes what its pods have left, network included. */
  async clearAway(): Promise<void> {
    await Promise.all([...this.#workers.values()].map((worker) => worker.clearAway()));
  }

  #look(pod: PodObject): void {
    const { uid } = pod.metadata;
    if (pod.spec.nodeName !== this.#host.node.name || isManaged(pod)) return;
    const worker = this.#workers.get(uid);
    if (!isTerminating(pod)) {
      if (worker === undefined) this.#workers.set(uid, new PodWorker(this.#host, pod));
      return;
    }
    if (this.#ending.has(uid)) return;
    this.#ending.add(uid);
    void (worker ?? new PodWorker(this.#host, pod))
      .terminate()
      .catch((error: unknown) => {
        this.#host.log.error(
          { namespace: namespaceOf(pod), pod: pod.metadata.name, error: errorMessage(error) },
          'the pod could not be ended',
        );
      })
      .finally(() => {
        this.#workers.delete(uid);
        this.#ending.delete(uid);
      });
  }
}

/** Pods that stand for the mesh's own processes, which supervise.ts runs. */
export const MANAGED_ANNOTATION = 'nodemesh.io/local-managed';

export const isManaged = (pod: PodObject): boolean => MANAGED_ANNOTATION in pod.metadata.annotations;
