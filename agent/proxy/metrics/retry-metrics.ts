// SPDX-License-Identifier: Apache-2.0
// Linkerd's counts of a route's retries. A series exists once there is something to count: most routes never retry.

import type { Cell } from '#lib/metrics/store.ts';
import type { RetryMetrics } from '../exchange/types.ts';
import type { RouteKind } from './route-metrics.ts';
import { cellAt, type SeriesPlace } from './series-place.ts';

export class RetrySeries implements RetryMetrics {
  readonly #place: SeriesPlace;
  readonly #prefix: string;
  readonly #labels: string;
  readonly #cells = new Map<string, Cell>();
  #closed = false;

  constructor(place: SeriesPlace, kind: RouteKind, labels: string) {
    this.#place = place;
    this.#prefix = `outbound_${kind}_route_retry`;
    this.#labels = labels;
  }

  retried(): void {
    this.#count('requests');
  }

  succeeded(): void {
    this.#count('successes');
  }

  limitExceeded(): void {
    this.#count('limit_exceeded');
  }

  overflowed(): void {
    this.#count('overflow');
  }

  /** What is under way counts on, in series nobody holds. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const cell of this.#cells.values()) this.#place.store.release(cell);
  }

  #count(what: string): void {
    let cell = this.#cells.get(what);
    if (cell === undefined) {
      cell = cellAt(this.#place, `${this.#prefix}_${what}_total`, this.#labels);
      this.#cells.set(what, cell);
      if (this.#closed) this.#place.store.release(cell);
    }
    cell.add(1);
  }
}
