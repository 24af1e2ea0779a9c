// SPDX-License-Identifier: Apache-2.0
// The rendering side: knows which cells of which threads make up each series, sums them and writes Prometheus'
// text format (0.0.4) or OpenMetrics (1.0.0). What a thread counted stays counted after its end; a series that none of its
// successors counts on goes after the time after which a thread gives up one that nobody holds.

import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '#lib/core/clock.ts';
import type { MetricDefinition, MetricFamily } from './model.ts';
import { cellsOf } from './model.ts';
import type { Exposition } from './exposition.ts';
import { SERIES_IDLE_MS } from './store.ts';

/** Lines between two pauses, so that a scrape never holds up the thread for long. */
const LINES_PER_TURN = 2_000;

interface Series {
  readonly labels: string;
  readonly owner: string;
  readonly sources: Map<string, { values: Float64Array; at: number }>;
  /** Counts of ended threads and given-up cells. */
  kept: Float64Array | undefined;
}

export interface Sample {
  readonly labels: string;
  /** A pod's uid, for the view of that pod alone; '' for the node's own. */
  readonly owner?: string;
  readonly value: number;
}

/** Of one process, for a later one: families -> their series' labels, owner and cells. */
export type Counts = Readonly<
  Record<string, readonly (readonly [labels: string, owner: string, cells: readonly number[]])[]>
>;

export class MetricRegistry {
  readonly #families: MetricFamily[] = [];
  readonly #series = new Map<string, Map<string, Series>>();
  readonly #slabs = new Map<string, Map<number, Float64Array>>();
  /** Owners that some thread has removed -> the threads that still have to say so. */
  readonly #leaving = new Map<string, Set<string>>();
  /** The present life of each counting thread. */
  readonly #stores = new Map<number, string>();
  /** Other processes whose counts are shown here and may still grow. */
  readonly #others = new Set<string>();
  readonly #collectors = new Map<string, (() => Iterable<Sample>)[]>();
  /** Series that only ended threads have counted, since when; the first one is the oldest. */
  readonly #orphans = new Map<Series, { readonly family: string; readonly sinceMs: number }>();
  readonly #clock: Pick<Clock, 'nowMs'>;

  constructor(families: readonly MetricFamily[], clock: Pick<Clock, 'nowMs'>) {
    this.#clock = clock;
    for (const family of families) this.#addFamily(family);
  }

  #addFamily(family: MetricFamily): void {
    if (this.#series.has(family.name)) return;
    this.#families.push(family);
    this.#series.set(family.name, new Map());
  }

  /** Series of the rendering thread itself, read when rendered; added to a family that may exist already. */
  collect(family: MetricFamily, read: () => Iterable<Sample>): void {
    this.#addFamily(family);
    const readers = this.#collectors.get(family.name) ?? [];
    readers.push(read);
    this.#collectors.set(family.name, readers);
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

  /** All series, or those of one owner. */
  async render(owner?: string, exposition: Exposition = 'text'): Promise<string> {
    this.#dropOrphans();
    const out: string[] = [];
    let lines = 0;
    const open = exposition === 'openmetrics';
    for (const family of this.#families) {
      // OpenMetrics names a counter without the ending of its samples, and types come first.
      const name = open && family.type === 'counter' ? family.name.replace(/_total$/, '') : family.name;
      const header = `# HELP ${name} ${family.help}\n# TYPE ${name} ${family.type}\n`;
      let headed = false;
      for (const sample of this.#samples(family, owner)) {
        if (!headed) out.push(header);
        headed = true;
        out.push(sample);
        if (++lines % LINES_PER_TURN === 0) await nextTurn();
      }
    }
    if (open) out.push('# EOF\n');
    return out.join('');
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

  *#samples(family: MetricFamily, owner: string | undefined): Iterable<string> {
    const cells = new Float64Array(cellsOf(family));
    for (const series of this.#series.get(family.name)?.values() ?? []) {
      if (owner !== undefined && series.owner !== owner) continue;
      this.#sum(family, series, cells);
      yield family.type === 'histogram'
        ? renderHistogram(family, series.labels, cells)
        : renderSample(family.name, series.labels, cells[0] ?? 0);
    }
    for (const read of this.#collectors.get(family.name) ?? []) {
      for (const sample of read()) {
        if (owner !== undefined && sample.owner !== owner) continue;
        yield renderSample(family.name, sample.labels, sample.value);
      }
    }
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

function renderSample(name: string, labels: string, value: number): string {
  return labels === '' ? `${name} ${value}\n` : `${name}{${labels}} ${value}\n`;
}

function renderHistogram(family: MetricFamily, labels: string, cells: Float64Array): string {
  const bounds = family.buckets ?? [];
  const comma = labels === '' ? '' : ',';
  let text = '';
  let count = 0;
  for (let index = 0; index <= bounds.length; index++) {
    count += cells[index] ?? 0;
    text += `${family.name}_bucket{${labels}${comma}le="${bounds[index] ?? '+Inf'}"} ${count}\n`;
  }
  text += renderSample(`${family.name}_sum`, labels, cells[bounds.length + 1] ?? 0);
  return text + renderSample(`${family.name}_count`, labels, count);
}
