// SPDX-License-Identifier: Apache-2.0
// A hashed timer wheel: setting and cancelling a timeout are a few pointer writes, so every connection can have one per
// request. One per worker. Timeouts fire up to two ticks late, never early. Nodes are the caller's own objects.

import type { Clock } from '#lib/core/clock.ts';

export interface TimeoutNode {
  /** The wheel's own fields; start with null, null and 0. */
  timeoutPrevious: TimeoutNode | null;
  timeoutNext: TimeoutNode | null;
  timeoutTick: number;
  onTimeout(): void;
}

const TICK_MS = 100;
/** Longer timeouts stay in their slot for more than one turn of the wheel. */
const SLOTS = 512;

class Slot implements TimeoutNode {
  timeoutPrevious: TimeoutNode | null = this;
  timeoutNext: TimeoutNode | null = this;
  timeoutTick = 0;
  onTimeout(): void {}
}

export class TimerWheel {
  readonly #clock: Clock;
  readonly #startMs: number;
  readonly #slots = Array.from({ length: SLOTS }, () => new Slot());
  readonly #due = new Slot();
  /** Every tick up to this one was handled. */
  #tick = 0;
  #count = 0;
  #running = false;
  readonly #turn = (): void => this.#advance();

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#startMs = clock.nowMs();
  }

  get count(): number {
    return this.#count;
  }

  /** `nowMs` is the clock's; passed in because the caller has usually just read it. */
  schedule(node: TimeoutNode, nowMs: number, delayMs: number): void {
    if (node.timeoutNext !== null) this.cancel(node);
    if (!this.#running) {
      this.#running = true;
      this.#tick = Math.floor((nowMs - this.#startMs) / TICK_MS);
      this.#clock.after(TICK_MS, this.#turn);
    }
    node.timeoutTick = Math.ceil((nowMs - this.#startMs + delayMs) / TICK_MS);
    if (node.timeoutTick <= this.#tick) node.timeoutTick = this.#tick + 1;
    this.#link(node, this.#slots[node.timeoutTick % SLOTS] as Slot);
  }

  /** Does nothing when the node is not scheduled. */
  cancel(node: TimeoutNode): void {
    if (node.timeoutNext === null) return;
    (node.timeoutPrevious as TimeoutNode).timeoutNext = node.timeoutNext;
    node.timeoutNext.timeoutPrevious = node.timeoutPrevious;
    node.timeoutPrevious = null;
    node.timeoutNext = null;
    this.#count--;
  }

  #advance(): void {
    const now = Math.floor((this.#clock.nowMs() - this.#startMs) / TICK_MS);
    // After a long stall one turn of the wheel visits every slot.
    if (now - this.#tick > SLOTS) this.#tick = now - SLOTS;
    while (this.#tick < now) {
      this.#tick++;
      this.#fire(this.#slots[this.#tick % SLOTS] as Slot, now);
    }
    if (this.#count > 0) this.#clock.after(TICK_MS, this.#turn);
    else this.#running = false;
  }

  #fire(slot: Slot, now: number): void {
    // First gather, then call: what a callback cancels or sets again is linked somewhere at any time.
    const due = this.#due;
    for (let node = slot.timeoutNext as TimeoutNode; node !== slot; ) {
      const next = node.timeoutNext as TimeoutNode;
      if (node.timeoutTick <= now) {
        this.cancel(node);
        this.#link(node, due);
      }
      node = next;
    }
    while (due.timeoutNext !== due) {
      const node = due.timeoutNext as TimeoutNode;
      this.cancel(node);
      node.onTimeout();
    }
  }

  #link(node: TimeoutNode, slot: Slot): void {
    const last = slot.timeoutPrevious as TimeoutNode;
    node.timeoutPrevious = last;
    node.timeoutNext = slot;
    last.timeoutNext = node;
    slot.timeoutPrevious = node;
    this.#count++;
  }
}
