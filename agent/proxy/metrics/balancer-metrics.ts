// SPDX-License-Identifier: Apache-2.0
// The families of one balancer (outbound_http_balancer_…, outbound_tcp_balancer_…): its endpoints, and the queue of what
// waits for one, which shuts for a while when waiting has been in vain. Each worker has a balancer of its own: levels
// of endpoints are the same in all, everything else adds up.

import type { Cell } from '#lib/metrics/store.ts';
import { cellAt, type SeriesPlace } from './series-place.ts';

export type BalancedProtocol = 'http' | 'tcp';

export class BalancerSeries {
  readonly #place: SeriesPlace;
  readonly #prefix: string;
  readonly #labels: string;
  readonly #cells: Cell[] = [];
  readonly #ready: Cell;
  readonly #pending: Cell;
  readonly #endpoints: Cell;
  readonly #added: Cell;
  readonly #removed: Cell;
  readonly #reset: Cell;
  readonly #length: Cell;
  readonly #requests: Cell;
  readonly #latency: Cell;
  readonly #opened: Cell;
  readonly #shut: Cell;
  readonly #openedAt: Cell;
  readonly #shutAt: Cell;

  constructor(place: SeriesPlace, protocol: BalancedProtocol, labels: string, timeoutMs: number) {
    this.#place = place;
    this.#prefix = `outbound_${protocol}_balancer_`;
    this.#labels = labels;
    this.#ready = this.#cell('endpoints', 'state="ready"');
    this.#pending = this.#cell('endpoints', 'state="pending"');
    this.#endpoints = this.#cell('p2c_endpoints');
    this.#reset = this.#cell('p2c_updates_total', 'op="Reset"');
    this.#added = this.#cell('p2c_updates_total', 'op="Add"');
    this.#removed = this.#cell('p2c_updates_total', 'op="Remove"');
    this.#length = this.#cell('queue_length');
    this.#requests = this.#cell('queue_requests_total');
    this.#latency = this.#cell('queue_latency_seconds');
    this.#opened = this.#cell('queue_gate_open_total');
    this.#shut = this.#cell('queue_gate_shut_total');
    this.#openedAt = this.#cell('queue_gate_open_time_seconds');
    this.#shutAt = this.#cell('queue_gate_shut_time_seconds');
    this.#cell('queue_gate_timeout_seconds').set(timeoutMs / 1000);
  }

  /** `pending`: those that get nothing now. */
  hasEndpoints(ready: number, pending: number): void {
    this.#ready.set(ready);
    this.#pending.set(pending);
    this.#endpoints.set(ready + pending);
  }

  /** `first`: the first set that is known. */
  updated(first: boolean, added: number, removed: number): void {
    if (first) {
      this.#reset.add(1);
      return;
    }
    this.#added.add(added);
    this.#removed.add(removed);
  }

  /** A request or connection that found an endpoint at once. */
  passed(): void {
    this.#requests.add(1);
    this.#latency.observe(0);
  }

  waits(): void {
    this.#requests.add(1);
    this.#length.add(1);
  }

  waited(seconds: number): void {
    this.#length.add(-1);
    this.#latency.observe(seconds);
  }

  shut(wallMs: number): void {
    this.#shut.add(1);
    this.#shutAt.set(wallMs / 1000);
  }

  opened(wallMs: number): void {
    this.#opened.add(1);
    this.#openedAt.set(wallMs / 1000);
  }

  close(): void {
    for (const cell of this.#cells.splice(0)) this.#place.store.release(cell);
  }

  #cell(name: string, own = ''): Cell {
    const cell = cellAt(this.#place, `${this.#prefix}${name}`, own, this.#labels);
    this.#cells.push(cell);
    return cell;
  }
}
