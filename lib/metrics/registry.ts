// SPDX-License-Identifier: Apache-2.0
// The rendering side: what threads count, and what is read when somebody asks, in Prometheus' text format (0.0.4) or in
// OpenMetrics (1.0.0).

import { setImmediate as nextTurn } from 'node:timers/promises';
import { CountedSeries } from './counted-series.ts';
import type { Exposition } from './exposition.ts';
import type { MetricFamily } from './model.ts';

/** Lines between two pauses, so that a scrape never holds up the thread for long. */
const LINES_PER_TURN = 2_000;

export interface Sample {
  readonly labels: string;
  /** A pod's uid, for the view of that pod alone; '' for the node's own. */
  readonly owner?: string;
  readonly value: number;
}

export class MetricRegistry extends CountedSeries {
  readonly #collectors = new Map<string, (() => Iterable<Sample>)[]>();

  /** Series of the rendering thread itself, read when rendered; added to a family that may exist already. */
  collect(family: MetricFamily, read: () => Iterable<Sample>): void {
    this.addFamily(family);
    const readers = this.#collectors.get(family.name) ?? [];
    readers.push(read);
    this.#collectors.set(family.name, readers);
  }

  /** All series, or those of one owner. */
  async render(owner?: string, exposition: Exposition = 'text'): Promise<string> {
    const out: string[] = [];
    let lines = 0;
    const open = exposition === 'openmetrics';
    for (const family of this.families) {
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

  *#samples(family: MetricFamily, owner: string | undefined): Iterable<string> {
    for (const { labels, cells } of this.sums(family, owner)) {
      yield family.type === 'histogram'
        ? renderHistogram(family, labels, cells)
        : renderSample(family.name, labels, cells[0] ?? 0);
    }
    for (const read of this.#collectors.get(family.name) ?? []) {
      for (const sample of read()) {
        if (owner !== undefined && sample.owner !== owner) continue;
        yield renderSample(family.name, sample.labels, sample.value);
      }
    }
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
