// SPDX-License-Identifier: Apache-2.0
// Backends of outbound policies with everything that a linkerd2-proxy requires of them: queue, balancer, breaker. The
// agents have the same numbers built in.

import type { ClientPolicy } from '#lib/proto/client-policy.ts';
import { durationOfMs } from '#lib/proto/durations.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import type { WeightedAddr } from '#lib/proto/gen/linkerd/destination.ts';
import type { Backend, FailureAccrual } from '#lib/proto/gen/linkerd/outbound.ts';

const queue = { capacity: 100, failfastTimeout: durationOfMs(3_000) };
const peakEwma = { defaultRtt: durationOfMs(30), decay: durationOfMs(10_000) };

/** The endpoints that Get tells of an authority. */
export const balancer = (metadata: Metadata, path: string): Backend => ({
  metadata,
  queue,
  kind: {
    $case: 'balancer',
    balancer: { discovery: { kind: { $case: 'dst', dst: { path } } }, load: { $case: 'peakEwma', peakEwma } },
  },
});

/** One address. */
export const forward = (metadata: Metadata, address: WeightedAddr): Backend => ({
  metadata,
  queue,
  kind: { $case: 'forward', forward: address },
});

/** Nothing: a filter answers. */
export const nowhere = (metadata: Metadata): Backend => ({ metadata, queue, kind: undefined });

export function accrualMessage({ accrual }: ClientPolicy): FailureAccrual | undefined {
  if (accrual === undefined) return undefined;
  const { maxFailures, minPenaltyMs, maxPenaltyMs, jitterRatio } = accrual;
  const backoff = {
    minBackoff: durationOfMs(minPenaltyMs),
    maxBackoff: durationOfMs(maxPenaltyMs),
    jitterRatio,
  };
  return { kind: { $case: 'consecutiveFailures', consecutiveFailures: { maxFailures, backoff } } };
}
