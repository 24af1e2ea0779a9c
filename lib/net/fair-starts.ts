// SPDX-License-Identifier: Apache-2.0
// Spreads work that comes in bursts and cannot be interrupted (TLS handshakes) over turns of the event loop: a few
// starts a turn, one of each queue after the other, and only so many of a queue under way, since their answers come
// together as well. A burst in one queue is done as fast as before, but what others do comes between. Costs two counters
// where nothing waits.

/** Of all queues together. Two TLS handshakes are about 2 ms of computing. */
export const STARTS_PER_TURN = 2;
/** Of one queue. Enough to keep a thread busy with peers that answer within milliseconds. */
export const UNDER_WAY_MAX = 16;
/** Those that take longer wait for a slow or dead peer and compute nothing: others do not wait for them. */
const UNDER_WAY_MS = 50;

/** Calls `over` once it has ended, whatever came of it. */
export type Start = (over: () => void) => void;

/** What one party wants to start. Has no limit of its own: what is queued is limited where it comes from. */
export class StartQueue {
  readonly waiting: Start[] = [];
  underWay = 0;
  /** Counted in `underWay` are those of this batch. */
  batch = 0;
  inRing = false;
  patience: NodeJS.Timeout | null = null;
  /** Called for each start that has to wait. */
  onHeld: () => void = () => undefined;
}

export class FairStarts {
  #left = STARTS_PER_TURN;
  #scheduled = false;
  /** Queues in which something may start, the next one first. */
  readonly #ring: StartQueue[] = [];
  readonly #run = (): void => this.#next();

  /** Runs `start` at once, or in the turn that it is due in. */
  start(queue: StartQueue, start: Start): void {
    this.#schedule();
    if (
      this.#left > 0 &&
      this.#ring.length === 0 &&
      queue.waiting.length === 0 &&
      queue.underWay < UNDER_WAY_MAX
    ) {
      this.#begin(queue, start);
      return;
    }
    queue.waiting.push(start);
    this.#admit(queue);
    queue.onHeld();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#run);
  }

  #begin(queue: StartQueue, start: Start): void {
    this.#left--;
    queue.underWay++;
    const { batch } = queue;
    start(() => {
      if (queue.batch !== batch) return;
      queue.underWay--;
      this.#admit(queue);
    });
  }

  #admit(queue: StartQueue): void {
    if (queue.inRing || queue.waiting.length === 0) return;
    if (queue.underWay >= UNDER_WAY_MAX) {
      queue.patience ??= setTimeout(() => {
        queue.patience = null;
        queue.batch++;
        queue.underWay = 0;
        this.#admit(queue);
      }, UNDER_WAY_MS);
      return;
    }
    queue.inRing = true;
    this.#ring.push(queue);
    this.#schedule();
  }

  #next(): void {
    this.#scheduled = false;
    this.#left = STARTS_PER_TURN;
    while (this.#left > 0) {
      const queue = this.#ring.shift();
      const start = queue?.waiting.shift();
      if (queue === undefined || start === undefined) return;
      queue.inRing = false;
      this.#schedule();
      this.#begin(queue, start);
      this.#admit(queue);
    }
  }
}
