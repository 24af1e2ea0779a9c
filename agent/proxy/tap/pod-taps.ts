// SPDX-License-Identifier: Apache-2.0
// Who listens to a pod's exchanges in this worker. Each listener gets so many requests and no more.

import type { TapEvent, TapListener } from './events.ts';

export interface TapWish {
  /** Requests that are told of. */
  readonly requestsMax: number;
  readonly headers: boolean;
}

export class PodTaps {
  /** Replaced, never changed in place. */
  listeners: readonly TapListener[] = [];
  readonly #byTicket = new Map<number, TapListener>();

  add(ticket: number, wish: TapWish, heard: (event: TapEvent) => void): void {
    let left = wish.requestsMax;
    this.install(ticket, { headers: wish.headers, traces: false, takes: () => left-- > 0, heard });
  }

  install(ticket: number, listener: TapListener): void {
    this.#byTicket.set(ticket, listener);
    this.listeners = [...this.#byTicket.values()];
  }

  remove(ticket: number): void {
    if (this.#byTicket.delete(ticket)) this.listeners = [...this.#byTicket.values()];
  }
}
