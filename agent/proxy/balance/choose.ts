// SPDX-License-Identifier: Apache-2.0
// The endpoint of a request where it matters which of them have a connection: HTTP/2, of which one carries many.

import type { Random } from '#lib/core/clock.ts';
import { slotOf } from '../exchange/endpoint-slot.ts';
import type { HttpEndpoint } from '../exchange/types.ts';
import type { StreamPool } from '../pool/stream-pool.ts';
import { isConnected, pickEndpoint, pickOther } from './pick.ts';

/** `http2`: the request travels over HTTP/2 only. One that is picked without a connection gets it for later. */
export function chooseEndpoint(
  endpoints: readonly HttpEndpoint[],
  http2: boolean,
  nowMs: number,
  { random, streams }: { readonly random: Random; readonly streams: StreamPool },
): HttpEndpoint {
  const picked = pickEndpoint(endpoints, nowMs, random);
  if (endpoints.length === 1 || isConnected(picked, http2)) return picked;
  const other = pickOther(endpoints, picked, http2, nowMs, random);
  if (other === null) return picked;
  const slot = slotOf(picked, nowMs);
  if (!isConnected(other, http2)) return slot.shunnedUntilMs <= nowMs ? picked : other;
  if (picked.passage === null) streams.prepare(picked, slot);
  else picked.passage.prepare();
  return other;
}
