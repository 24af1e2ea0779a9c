// SPDX-License-Identifier: Apache-2.0
// Power of two choices: of two different endpoints drawn at random the one with the lower load. Allocates nothing
// after each endpoint's first request. Which endpoints there are is the target's concern. Over HTTP/2 a connection comes
// first: as with Linkerd, an endpoint without one does not get requests that others can take.

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

/** Whether a request need not wait for a connection; `http2`: it travels over HTTP/2 to any endpoint. */
export function isConnected(endpoint: HttpEndpoint, http2: boolean): boolean {
  if (!http2 && !endpoint.multiplexed) return true;
  if (endpoint.passage !== null) return endpoint.passage.open;
  return endpoint.slot !== null && endpoint.slot.connections.length > 0;
}

/** Not `except`: one with a connection; if there is none one that is not known to be out of reach; or null. */
export function pickOther(
  endpoints: readonly HttpEndpoint[],
  except: HttpEndpoint,
  http2: boolean,
  nowMs: number,
  random: Random,
): HttpEndpoint | null {
  const others = endpoints.filter((endpoint) => endpoint !== except);
  const connected = others.filter((endpoint) => isConnected(endpoint, http2));
  if (connected.length > 0) return pickEndpoint(connected, nowMs, random);
  const near = others.filter((endpoint) => endpoint.slot === null || endpoint.slot.shunnedUntilMs <= nowMs);
  return near.length > 0 ? pickEndpoint(near, nowMs, random) : null;
}
