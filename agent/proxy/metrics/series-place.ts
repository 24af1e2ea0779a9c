// SPDX-License-Identifier: Apache-2.0
// Where a pod's series live, and how one of them is made.

import { joinLabels } from '#lib/metrics/model.ts';
import type { Cell, MetricStore } from '#lib/metrics/store.ts';

export interface SeriesPlace {
  readonly store: MetricStore;
  /** The pod's uid. */
  readonly owner: string;
  /** Of the pod, at the end of each of its series. */
  readonly podLabels: string;
}

/** To be released by the caller. */
export const cellAt = (
  { store, owner, podLabels }: SeriesPlace,
  family: string,
  ...labels: readonly string[]
): Cell => store.cell(family, [...labels, podLabels].reduce(joinLabels), owner);
