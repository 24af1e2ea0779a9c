// SPDX-License-Identifier: Apache-2.0
// How much several sockets together may read in one turn of the event loop, so that others have theirs: who has used it
// up stops reading and goes on in a later turn, first come, first served; what one read cost too much is made up for by
// turns without. Work counts as much as bytes: thousands of requests fit into one read. Costs an addition while there is
// enough, for large reads two looks at the clock.

/** In one turn: about 2 ms of work. */
export const TURN_BYTES = 1_048_576;
/** A read of few bytes is not cheaper than one of so many; its time is not measured. */
export const READ_BYTES_MIN = 4_096;
/** What a millisecond of work counts. */
const BYTES_PER_MS = 524_288;
/** The most that a byte counts: of a short read that took long the thread was kept from it. */
const WORK_PER_BYTE_MAX = 256;
/** Below it the rest is made whole again at the end of the turn. */
const SCHEDULE_BELOW = TURN_BYTES / 2;
/** Of those that wait, how many go on in one turn: each reads as much as the shared buffer takes, at least. */
const RELEASED_MAX = 16;
/** More is not made up for: a thread that was busy otherwise says nothing about who reads. */
const DEBT_MAX = 64 * TURN_BYTES;

export interface HeldReader {
  /** Reads on, unless somebody else has stopped it. */
  release(): void;
}

export class ReadBudget {
  #left = TURN_BYTES;
  #scheduled = false;
  #held: HeldReader[] = [];
  readonly #onHeld: () => void;
  readonly #run = (): void => this.#next();

  constructor(onHeld: () => void) {
    this.#onHeld = onHeld;
  }

  /** How many wait. */
  get held(): number {
    return this.#held.length;
  }

  /** Counts what was read and how long that took to handle; false: the reader stops, and `release` follows. */
  take(bytes: number, tookMs: number, reader: HeldReader): boolean {
    const worked = Math.min(tookMs * BYTES_PER_MS, bytes * WORK_PER_BYTE_MAX);
    const size = bytes < READ_BYTES_MIN ? READ_BYTES_MIN : bytes;
    this.#left -= worked > size ? worked : size;
    if (this.#left > SCHEDULE_BELOW) return true;
    if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(this.#run);
    }
    if (this.#left > 0 && this.#held.length === 0) return true;
    this.#held.push(reader);
    this.#onHeld();
    return false;
  }

  #next(): void {
    this.#scheduled = false;
    this.#left = Math.min(TURN_BYTES, Math.max(this.#left, -DEBT_MAX) + TURN_BYTES);
    const released = this.#left > 0 ? this.#held.splice(0, RELEASED_MAX) : [];
    if (this.#held.length > 0 || this.#left < TURN_BYTES) {
      this.#scheduled = true;
      setImmediate(this.#run);
    }
    for (const reader of released) reader.release();
  }
}
