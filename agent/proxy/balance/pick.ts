// SPDX-License-Identifier: Apache-2.0
// Power of two choices: of two different endpoints drawn at random the one with the lower load. Allocates nothing
// after each endpoint's first request. Which endpoints there are is the target's concern.

import type { Random } from '#lib/core/clock.ts';
import { slotOf } from '../exchange/endpoint-slot.ts';
import type { HttpEndpoint } from '../exchange/types.ts';

/** `endpoints` is not empty. */
export function pickEndpoint(
  endpoints: readonly HttpEndpoint[],
  nowMs: number,
  random: Random,
): HttpEndpoint {
  const count = endpoints.length;
  if (count === 1) return endpoints[0] as HttpEndpoint;
  const first = Math.floor(random() * count);
  let second = Math.floor(random() * (count - 1));
  if (second >= first) second++;
  const left = endpoints[first] as HttpEndpoint;
  const right = endpoints[second] as HttpEndpoint;
  return slotOf(left, nowMs).load.load(nowMs) <= slotOf(right, nowMs).load.load(nowMs) ? left : right;
}
