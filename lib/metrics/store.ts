// SPDX-License-Identifier: Apache-2.0
// The counting side: hands out cells in shared memory for series. A caller resolves a series once, keeps the cell
// and releases it; counting is one addition (hot path, no allocation, no label handling).

import type { Clock } from '#lib/core/clock.ts';
import { MeshError } from '#lib/core/errors.ts';
import { cellsOf, type MetricDefinition, type MetricFamily } from './model.ts';

const SLAB_CELLS = 4096;
/** A series that nobody holds any more stays for a while, as a scraper expects of a counter. */
export const SERIES_IDLE_MS = 10 * 60_000;
/** A freed cell is not given out again at once: the other thread may be reading it as what it was. */
const QUARANTINE_MS = 60_000;
const SERIES_MAX = 100_000;
/** What clients say becomes labels (a server name, an address that is dialled): one pod must not use up the room. */
const OWNER_SERIES_MAX = 10_000;

/** Counts series that were not made, if the families have it. */
export const REFUSED_FAMILY = 'nodemesh_metric_series_refused_total';

/** Where cells write whose series is gone. */
const NOWHERE = new Float64Array(64);

/** A series' place in shared memory; released by whoever resolved it. */
export class Cell {
  values: Float64Array;
  at: number;
  readonly family: MetricFamily;
  readonly labels: string;
  readonly owner: string;
  holders = 0;
  idleSinceMs = 0;
  readonly #bounds: readonly number[];
  /** Into which bucket the last value fell: most likely the next one falls there, too. */
  #bucket = 0;

  constructor(family: MetricFamily, labels: string, owner: string, values: Float64Array, at: number) {
    this.family = family;
    this.labels = labels;
    this.owner = owner;
    this.values = values;
    this.at = at;
    this.#bounds = family.buckets ?? [];
  }

  /** Counters and gauges. */
  add(amount: number): void {
    this.values[this.at] = (this.values[this.at] ?? 0) + amount;
  }

  set(value: number): void {
    this.values[this.at] = value;
  }

  /** Histograms. */
  observe(value: number): void {
    const bounds = this.#bounds;
    let low = this.#bucket;
    if (!(value <= (bounds[low] ?? Infinity)) || (low > 0 && value <= (bounds[low - 1] as number))) {
      low = 0;
      let high = bounds.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (value <= (bounds[middle] ?? 0)) high = middle;
        else low = middle + 1;
      }
      this.#bucket = low;
    }
    const bucket = this.at + low;
    const sum = this.at + bounds.length + 1;
    this.values[bucket] = (this.values[bucket] ?? 0) + 1;
    this.values[sum] = (this.values[sum] ?? 0) + value;
  }
}

export interface MetricStoreOptions {
  /** Names this life of the thread; unique among all lives of all threads. */
  readonly id: string;
  readonly families: readonly MetricFamily[];
  readonly send: (definition: MetricDefinition) => void;
  readonly clock: Clock;
  readonly seriesMax?: number;
  readonly ownerSeriesMax?: number;
}

export class MetricStore {
  readonly #options: MetricStoreOptions;
  readonly #families: ReadonlyMap<string, MetricFamily>;
  readonly #seriesMax: number;
  readonly #ownerSeriesMax: number;
  readonly #series = new Map<string, Cell>();
  /** Series by owner. */
  readonly #owned = new Map<string, number>();
  readonly #slabs: Float64Array[] = [];
  /** Freed places by size, oldest first. */
  readonly #free = new Map<number, { values: Float64Array; at: number; freedAtMs: number }[]>();
  #used = SLAB_CELLS;
  /** Series that were not made because of the limit. */
  refused = 0;
  readonly #refusedCell: Cell | undefined;

  constructor(options: MetricStoreOptions) {
    this.#options = options;
    this.#families = new Map(options.families.map((family) => [family.name, family]));
    this.#seriesMax = options.seriesMax ?? SERIES_MAX;
    this.#ownerSeriesMax = options.ownerSeriesMax ?? OWNER_SERIES_MAX;
    // Before anybody can use up the room, and held for ever.
    if (this.#families.has(REFUSED_FAMILY)) this.#refusedCell = this.cell(REFUSED_FAMILY, '', '');
  }

  get size(): number {
    return this.#series.size;
  }

  /** The cell of a series; held until `release`. */
  cell(name: string, labels: string, owner: string): Cell {
    const key = `${name}{${labels}`;
    let cell = this.#series.get(key);
    if (cell === undefined) {
      const family = this.#families.get(name);
      if (family === undefined) throw new MeshError('MESH_CONFIG_INVALID', `no metric family ${name}`);
      const owned = this.#owned.get(owner) ?? 0;
      if (this.#series.size >= this.#seriesMax || owned >= this.#ownerSeriesMax) {
        this.refused++;
        this.#refusedCell?.add(1);
        return new Cell(family, labels, owner, NOWHERE, 0);
      }
      const place = this.#place(cellsOf(family));
      cell = new Cell(family, labels, owner, place.values, place.at);
      this.#series.set(key, cell);
      this.#owned.set(owner, owned + 1);
      this.#options.send({
        kind: 'series',
        store: this.#options.id,
        family: name,
        labels,
        owner,
        slab: this.#slabs.indexOf(place.values),
        at: place.at,
      });
    }
    cell.holders++;
    return cell;
  }

  release(cell: Cell): void {
    cell.holders--;
    if (cell.holders === 0) cell.idleSinceMs = this.#options.clock.nowMs();
  }

  /** Gives up series that nobody has held for long; called now and then. */
  sweep(): void {
    const now = this.#options.clock.nowMs();
    for (const [key, cell] of this.#series) {
      if (cell.holders > 0 || now - cell.idleSinceMs < SERIES_IDLE_MS) continue;
      this.#series.delete(key);
      this.#options.send({
        kind: 'removed',
        store: this.#options.id,
        family: cell.family.name,
        labels: cell.labels,
        values: [...cell.values.subarray(cell.at, cell.at + cellsOf(cell.family))],
      });
      this.#giveBack(cell);
    }
  }

  /** Every series of the owner goes; cells still held count nowhere. */
  removeOwner(owner: string): void {
    for (const [key, cell] of this.#series) {
      if (cell.owner !== owner) continue;
      this.#series.delete(key);
      this.#giveBack(cell);
    }
    this.#options.send({ kind: 'owner-removed', store: this.#options.id, owner });
  }

  #giveBack(cell: Cell): void {
    const owned = (this.#owned.get(cell.owner) ?? 0) - 1;
    if (owned > 0) this.#owned.set(cell.owner, owned);
    else this.#owned.delete(cell.owner);
    const size = cellsOf(cell.family);
    const places = this.#free.get(size) ?? [];
    places.push({ values: cell.values, at: cell.at, freedAtMs: this.#options.clock.nowMs() });
    this.#free.set(size, places);
    cell.values = NOWHERE;
    cell.at = 0;
  }

  #place(size: number): { values: Float64Array; at: number } {
    const places = this.#free.get(size);
    const oldest = places?.[0];
    if (oldest !== undefined && this.#options.clock.nowMs() - oldest.freedAtMs >= QUARANTINE_MS) {
      places?.shift();
      oldest.values.fill(0, oldest.at, oldest.at + size);
      return oldest;
    }
    let slab = this.#slabs.at(-1);
    if (slab === undefined || this.#used + size > SLAB_CELLS) {
      const buffer = new SharedArrayBuffer(SLAB_CELLS * Float64Array.BYTES_PER_ELEMENT);
      slab = new Float64Array(buffer);
      this.#used = 0;
      this.#slabs.push(slab);
      this.#options.send({
        kind: 'slab',
        store: this.#options.id,
        slab: this.#slabs.length - 1,
        buffer,
      });
    }
    const at = this.#used;
    this.#used += size;
    return { values: slab, at };
  }
}
