// SPDX-License-Identifier: Apache-2.0
// The bounds of Linkerd's latencies in milliseconds: 1 to 5, 10 to 50, …, 10,000 to 50,000.

export const LATENCY_BUCKETS_MS: readonly number[] = [1, 10, 100, 1000, 10_000].flatMap((decade) =>
  [1, 2, 3, 4, 5].map((step) => step * decade),
);
