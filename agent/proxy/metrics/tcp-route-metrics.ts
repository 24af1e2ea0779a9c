// SPDX-License-Identifier: Apache-2.0
// Opaque connections of one route of one client pod: opened, and ended. Counts of connections that outlive their route's
// series go nowhere.

import type { Cell } from '#lib/metrics/store.ts';
import { cellAt, type SeriesPlace } from './series-place.ts';

export class TcpRouteSeries {
  readonly #place: SeriesPlace;
  readonly #opened: Cell;
  readonly #ended: Cell;
  readonly #failed: Cell;

  constructor(place: SeriesPlace, labels: string) {
    this.#place = place;
    this.#opened = cellAt(place, 'outbound_tcp_route_open_total', labels);
    this.#ended = cellAt(place, 'outbound_tcp_route_close_total', labels, 'error=""');
    this.#failed = cellAt(place, 'outbound_tcp_route_close_total', labels, 'error="unexpected"');
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
