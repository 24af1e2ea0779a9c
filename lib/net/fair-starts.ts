// SPDX-License-Identifier: Apache-2.0
// Spreads work that comes in bursts and cannot be interrupted (a TLS handshake is a millisecond of computing) over turns
// of the event loop: a few starts a turn, one of each queue after the other. A burst of one pod is done as fast as
// before, but what others do comes between. Costs a counter where nothing waits.

/** Of all queues together: about 2 ms of work. */
export const STARTS_PER_TURN = 2;

/** What one pod wants to start. As long as what it is for: each entry holds a descriptor, which has its limit. */
export class StartQueue {
  readonly waiting: (() => void)[] = [];
  /** Something has to wait for a turn. */
  onHeld: () => void = () => undefined;
}

export class FairStarts {
  #left = STARTS_PER_TURN;
  #scheduled = false;
  /** Queues in which something waits, the next one first. */
  readonly #ring: StartQueue[] = [];
  readonly #run = (): void => this.#next();

  /** Runs `start` at once, or in the turn that it is due in. */
  start(queue: StartQueue, start: () => void): void {
    if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(this.#run);
    }
    if (this.#left > 0 && this.#ring.length === 0) {
      this.#left--;
      start();
      return;
    }
    if (queue.waiting.push(start) === 1) this.#ring.push(queue);
    queue.onHeld();
  }

  #next(): void {
    this.#scheduled = false;
    this.#left = STARTS_PER_TURN;
    while (this.#left > 0) {
      const queue = this.#ring.shift();
      const start = queue?.waiting.shift();
      if (queue === undefined || start === undefined) return;
      if (queue.waiting.length > 0) this.#ring.push(queue);
      if (!this.#scheduled) {
        this.#scheduled = true;
        setImmediate(this.#run);
      }
      this.#left--;
      start();
    }
  }
}
