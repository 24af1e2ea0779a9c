// SPDX-License-Identifier: Apache-2.0
// What threads, and earlier or later processes, count: which cells of whom make up each series, and their sum. What a
// thread counted stays counted after its end; a series that none of its successors counts on goes after the time after
// which a thread gives up one that nobody holds.

import type { Clock } from '#lib/core/clock.ts';
import type { MetricDefinition, MetricFamily } from './model.ts';
import { cellsOf } from './model.ts';
import { SERIES_IDLE_MS } from './store.ts';

interface Series {
  readonly labels: string;
  readonly owner: string;
  readonly sources: Map<string, { values: Float64Array; at: number }>;
  /** Counts of ended threads and given-up cells. */
  kept: Float64Array | undefined;
}

/** Of one process, for a later one: families -> their series' labels, owner and cells. */
export type Counts = Readonly<
  Record<string, readonly (readonly [labels: string, owner: string, cells: readonly number[]])[]>
>;

export class CountedSeries {
  readonly #families: MetricFamily[] = [];
  readonly #series = new Map<string, Map<string, Series>>();
  readonly #slabs = new Map<string, Map<number, Float64Array>>();
  /** Owners that some thread has removed -> the threads that still have to say so. */
  readonly #leaving = new Map<string, Set<string>>();
  /** The present life of each counting thread. */
  readonly #stores = new Map<number, string>();
  /** Other processes whose counts are shown here and may still grow. */
  readonly #others = new Set<string>();
  /** Series that only ended threads have counted, since when; the first one is the oldest. */
  readonly #orphans = new Map<Series, { readonly family: string; readonly sinceMs: number }>();
  readonly #clock: Pick<Clock, 'nowMs'>;

  constructor(families: readonly MetricFamily[], clock: Pick<Clock, 'nowMs'>) {
    this.#clock = clock;
    for (const family of families) this.addFamily(family);
  }

  get families(): readonly MetricFamily[] {
    return this.#families;
  }

  /** Unless there is one of that name. */
  addFamily(family: MetricFamily): void {
    if (this.#series.has(family.name)) return;
    this.#families.push(family);
    this.#series.set(family.name, new Map());
  }

  /** Takes a message of the counting thread `source`. */
  define(source: number, definition: MetricDefinition): void {
    const { store } = definition;
    const before = this.#stores.get(source);
    if (before !== store) {
      if (before !== undefined) this.#retire(before);
      this.#stores.set(source, store);
    }
    switch (definition.kind) {
      case 'slab': {
        const slabs = this.#slabs.get(store) ?? new Map<number, Float64Array>();
        slabs.set(definition.slab, new Float64Array(definition.buffer));
        this.#slabs.set(store, slabs);
        break;
      }
      case 'series': {
        const values = this.#slabs.get(store)?.get(definition.slab);
        const family = this.#series.get(definition.family);
        if (values === undefined || family === undefined) break;
        this.#count(family, definition, { values, at: definition.at });
        break;
      }
      case 'removed': {
        const series = this.#series.get(definition.family)?.get(definition.labels);
        if (series === undefined || !series.sources.delete(store)) break;
        if (series.sources.size === 0) this.#series.get(definition.family)?.delete(definition.labels);
        else this.#keep(this.#familyOf(definition.family), series, definition.values);
        break;
      }
      case 'owner-removed':
        this.#removeOwner(definition.owner, store);
        break;
    }
  }

  #count(
    family: Map<string, Series>,
    { store, labels, owner }: { readonly store: string; readonly labels: string; readonly owner: string },
    cells: { readonly values: Float64Array; readonly at: number },
  ): void {
    let series = family.get(labels);
    if (series === undefined) {
      series = { labels, owner, sources: new Map(), kept: undefined };
      family.set(labels, series);
    }
    series.sources.set(store, cells);
    this.#orphans.delete(series);
  }

  /** What was counted here, or by processes that have ended (see `endOther`), so far. */
  counts(): Counts {
    const counts: Record<string, [string, string, number[]][]> = {};
    for (const family of this.#families) {
      if (!isLasting(family)) continue;
      const cells = new Float64Array(cellsOf(family));
      const all = [...(this.#series.get(family.name)?.values() ?? [])]
        .filter(
          ({ kept, sources }) => kept !== undefined || sources.keys().some((one) => !this.#others.has(one)),
        )
        .map((series): [string, string, number[]] => [
          series.labels,
          series.owner,
          [...this.#sum(family, series, cells, this.#others)],
        ]);
      if (all.length > 0) counts[family.name] = all;
    }
    return counts;
  }

  /** Shows `counts` of the process `name` with those of this one, in place of its earlier ones; other forms of a family are left out. */
  takeCounts(name: string, counts: Counts): void {
    this.#others.add(name);
    for (const family of this.#families) {
      const known = this.#series.get(family.name);
      if (known === undefined || !isLasting(family)) continue;
      for (const [labels, owner, cells] of counts[family.name] ?? []) {
        if (cells.length !== cellsOf(family) || this.#leaving.get(owner)?.has(name) === true) continue;
        this.#count(known, { store: name, labels, owner }, { values: Float64Array.from(cells), at: 0 });
      }
    }
  }

  /** That process counts no more: what it counted stays. */
  endOther(name: string): void {
    this.#others.delete(name);
    this.#retire(name);
  }

  /**
   * The first thread's word ends all series of the owner, what other threads count for it too: with a part of it only, a
   * sum would go back. Later words end what those threads had of that life; a new one may have begun meanwhile.
   */
  #removeOwner(owner: string, store: string): void {
    const leaving = this.#leaving.get(owner);
    const isFirst = leaving?.delete(store) !== true;
    const others = new Set<string>();
    for (const family of this.#series.values()) {
      for (const [labels, series] of family) {
        if (series.owner !== owner) continue;
        if (isFirst) for (const source of series.sources.keys()) others.add(source);
        else series.sources.delete(store);
        if (!isFirst && series.sources.size > 0) continue;
        family.delete(labels);
        this.#orphans.delete(series);
      }
    }
    if (!isFirst) {
      if (leaving?.size === 0) this.#leaving.delete(owner);
      return;
    }
    others.delete(store);
    if (others.size > 0) this.#leaving.set(owner, others);
  }

  /** The counts of a thread that ended stay; its gauges, which speak of the present, go. */
  #retire(store: string): void {
    this.#dropOrphans();
    const sinceMs = this.#clock.nowMs();
    this.#slabs.delete(store);
    for (const [owner, stores] of this.#leaving) {
      if (stores.delete(store) && stores.size === 0) this.#leaving.delete(owner);
    }
    for (const family of this.#families) {
      for (const [labels, series] of this.#series.get(family.name) ?? []) {
        const source = series.sources.get(store);
        if (source === undefined) continue;
        series.sources.delete(store);
        if (isLasting(family)) {
          this.#keep(family, series, source.values.subarray(source.at, source.at + cellsOf(family)));
          if (series.sources.size === 0) this.#orphans.set(series, { family: family.name, sinceMs });
        } else if (series.sources.size === 0) {
          this.#series.get(family.name)?.delete(labels);
        }
      }
    }
  }

  #dropOrphans(): void {
    const untilMs = this.#clock.nowMs() - SERIES_IDLE_MS;
    for (const [series, { family, sinceMs }] of this.#orphans) {
      if (sinceMs > untilMs) break;
      this.#orphans.delete(series);
      this.#series.get(family)?.delete(series.labels);
    }
  }

  #familyOf(name: string): MetricFamily | undefined {
    return this.#families.find((family) => family.name === name);
  }

  #keep(family: MetricFamily | undefined, series: Series, values: ArrayLike<number>): void {
    if (family === undefined || !isLasting(family)) return;
    series.kept ??= new Float64Array(values.length);
    merge(family, series.kept, values, 0);
  }

  get seriesCount(): number {
    let count = 0;
    for (const family of this.#series.values()) count += family.size;
    return count;
  }

  /** Of one family, what each series has come to, of one owner or all; `cells` are those of the next series after a step. */
  *sums(
    family: MetricFamily,
    owner?: string,
  ): Iterable<{ readonly labels: string; readonly cells: Float64Array }> {
    this.#dropOrphans();
    const cells = new Float64Array(cellsOf(family));
    for (const series of this.#series.get(family.name)?.values() ?? []) {
      if (owner !== undefined && series.owner !== owner) continue;
      yield { labels: series.labels, cells: this.#sum(family, series, cells) };
    }
  }

  /** Into `cells`, one array for all series of a family. */
  #sum(
    family: MetricFamily,
    series: Series,
    cells: Float64Array,
    without?: ReadonlySet<string>,
  ): Float64Array {
    if (series.kept === undefined) cells.fill(0);
    else cells.set(series.kept);
    for (const [store, { values, at }] of series.sources) {
      if (without?.has(store) === true) continue;
      merge(family, cells, values, at);
    }
    return cells;
  }
}

/** What outlives those who counted it; other gauges speak of the present. */
const isLasting = (family: MetricFamily): boolean => family.type !== 'gauge' || family.merge === 'min';

/** Merges the cells of `values` from `at` on into `into`, where 0 is nothing so far. */
function merge(family: MetricFamily, into: Float64Array, values: ArrayLike<number>, at: number): void {
  for (let index = 0; index < into.length; index++) {
    const value = values[at + index] ?? 0;
    const before = into[index] ?? 0;
    if (family.merge === 'max') into[index] = Math.max(before, value);
    else if (family.merge !== 'min') into[index] = before + value;
    else if (value !== 0) into[index] = before === 0 ? value : Math.min(before, value);
  }
}
