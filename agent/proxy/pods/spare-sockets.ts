// SPDX-License-Identifier: Apache-2.0
// Unconnected sockets of one pod, made several per visit to its namespace while it is busy. An idle pod has none: a
// spare would keep the namespace of a dead pod alive.

import type { Clock } from '#lib/core/clock.ts';
import type { WorkerKernel } from '../accept/kernel.ts';

const BATCH_MAX = 16;
/** A batch used up within this time is followed by a larger one. */
const BUSY_MS = 1_000;
const IDLE_MS = 5_000;

interface Family {
  readonly family: 4 | 6;
  readonly free: number[];
  batch: number;
  filledAtMs: number;
  takenAtMs: number;
}

const familyOf = (family: 4 | 6): Family => ({
  family,
  free: [],
  batch: 1,
  filledAtMs: Number.NEGATIVE_INFINITY,
  takenAtMs: 0,
});

export class SpareSockets {
  readonly #kernel: WorkerKernel;
  readonly #clock: Clock;
  readonly #netnsFd: number;
  readonly #v4 = familyOf(4);
  readonly #v6 = familyOf(6);

  constructor(kernel: WorkerKernel, clock: Clock, netnsFd: number) {
    this.#kernel = kernel;
    this.#clock = clock;
    this.#netnsFd = netnsFd;
  }

  /** A descriptor for the caller, who marks it and hands it over or closes it. Throws MeshError. */
  take(family: 4 | 6): number {
    const spares = family === 4 ? this.#v4 : this.#v6;
    const now = this.#clock.nowMs();
    spares.takenAtMs = now;
    if (spares.free.length === 0) {
      spares.batch = now - spares.filledAtMs < BUSY_MS ? Math.min(spares.batch * 2, BATCH_MAX) : 1;
      spares.filledAtMs = now;
      spares.free.push(...this.#kernel.openSockets(this.#netnsFd, family, spares.batch));
    }
    return spares.free.pop() as number;
  }

  /** Called about once a second. */
  sweep(): void {
    const now = this.#clock.nowMs();
    for (const spares of [this.#v4, this.#v6]) if (now - spares.takenAtMs > IDLE_MS) this.#empty(spares);
  }

  close(): void {
    this.#empty(this.#v4);
    this.#empty(this.#v6);
  }

  #empty(spares: Family): void {
    for (const fd of spares.free.splice(0)) this.#kernel.closeDescriptor(fd);
  }
}
