// SPDX-License-Identifier: Apache-2.0
// What counting threads and the rendering thread agree on: families, the cells in shared memory, and the messages
// that say which cell is which series. Counting itself is an addition to a Float64Array, without a message.
//
//   counting thread: MetricStore ── MetricDefinition (once per series) ──▶ MetricRegistry: rendering thread
//                        └──────────── SharedArrayBuffer slabs ───────────────┘

export interface MetricFamily {
  readonly name: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  /** Upper bounds of a histogram, ascending, without +Inf. */
  readonly buckets?: readonly number[];
  /**
   * How the cells of several threads become one value; `sum` if absent. `min` is for when something began, 0: not so far;
   * it stays with the counts when those who counted end.
   */
  readonly merge?: 'sum' | 'max' | 'min';
}

/** `store` names one life of a counting thread: a successor's cells are not its predecessor's. */
export type MetricDefinition =
  | {
      readonly kind: 'slab';
      readonly store: string;
      readonly slab: number;
      readonly buffer: SharedArrayBuffer;
    }
  | {
      readonly kind: 'series';
      readonly store: string;
      readonly family: string;
      /** Rendered label pairs (`a="b",c="d"`), the series' name within the family. */
      readonly labels: string;
      /** Whom the series goes with (a pod's uid), or ''. */
      readonly owner: string;
      readonly slab: number;
      readonly at: number;
    }
  /** The cell is given up; these were its last values, so that a sum over threads never falls. */
  | {
      readonly kind: 'removed';
      readonly store: string;
      readonly family: string;
      readonly labels: string;
      readonly values: readonly number[];
    }
  | { readonly kind: 'owner-removed'; readonly store: string; readonly owner: string };

/** Cells of one series: a histogram has its buckets (not cumulative), +Inf and the sum. */
export function cellsOf(family: MetricFamily): number {
  return family.type === 'histogram' ? (family.buckets ?? []).length + 2 : 1;
}

/** `a="b",c="d"`; pairs with an undefined value are left out. */
export function renderLabels(labels: Readonly<Record<string, string | undefined>>): string {
  let text = '';
  for (const [name, value] of Object.entries(labels)) {
    if (value === undefined) continue;
    text += `${text === '' ? '' : ','}${name}="${escapeLabel(value)}"`;
  }
  return text;
}

function escapeLabel(value: string): string {
  return /["\\\n]/.test(value)
    ? value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
    : value;
}

/** Joins rendered labels, either of which may be empty. */
export function joinLabels(left: string, right: string): string {
  if (left === '') return right;
  return right === '' ? left : `${left},${right}`;
}
