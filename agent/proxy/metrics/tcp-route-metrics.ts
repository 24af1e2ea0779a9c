// SPDX-License-Identifier: Apache-2.0
// Opaque connections of one route of one client pod: opened, and ended. Counts of connections that outlive their route's
// series go nowhere.

import { joinLabels } from '#lib/metrics/model.ts';
import type { Cell } from '#lib/metrics/store.ts';
import type { SeriesPlace } from './route-metrics.ts';

export class TcpRouteSeries {
  readonly #place: SeriesPlace;
  readonly #opened: Cell;
  readonly #ended: Cell;
  readonly #failed: Cell;

  constructor(place: SeriesPlace, labels: string) {
    this.#place = place;
    const cell = (family: string, own: string): Cell =>
      place.store.cell(family, [labels, own, place.podLabels].reduce(joinLabels), place.owner);
    this.#opened = cell('outbound_tcp_route_open_total', '');
    this.#ended = cell('outbound_tcp_route_close_total', 'error=""');
    this.#failed = cell('outbound_tcp_route_close_total', 'error="unexpected"');
  }

  opened(): void {
    this.#opened.add(1);
  }

  closed(failed: boolean): void {
    (failed ? this.#failed : this.#ended).add(1);
  }

  close(): void {
    for (const cell of [this.#opened, this.#ended, this.#failed]) this.#place.store.release(cell);
  }
}
