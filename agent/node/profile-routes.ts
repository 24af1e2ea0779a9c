// SPDX-License-Identifier: Apache-2.0
// The targets of a service's profile (dst_overrides) as a route: all requests, shared by weight. With targets the routes
// of policies do not count, as with Linkerd.

import type { DestinationProfile } from '#lib/proto/gen/linkerd/destination.ts';
import type { ClientRoutes, ResourceReference, RouteBackend } from '../proxy/model.ts';
import { referenceOf, WEIGHT_MAX } from './route-conversion.ts';

/** Undefined: the profile says nothing, or of no target that it takes requests. */
export function profileRoutes({ dstOverrides, profileRef }: DestinationProfile): ClientRoutes | undefined {
  const targets = dstOverrides
    .filter(({ weight }) => weight > 0)
    .map(({ authority, weight }) => ({ authority: withoutFinalDot(authority), weight }));
  if (targets.length === 0) return undefined;
  const heaviest = Math.max(...targets.map(({ weight }) => weight));
  const divisor = Math.max(1, heaviest / WEIGHT_MAX);
  const backends = targets.map(
    ({ authority, weight }): RouteBackend => ({
      authority,
      weight: Math.max(1, Math.round(weight / divisor)),
      filters: [],
      reference: serviceOf(authority),
    }),
  );
  const rule = { matches: [], filters: [], backends, policy: {} };
  return { protocol: 'http', routes: [{ reference: referenceOf(profileRef), hosts: [], rules: [rule] }] };
}

/** People write names as DNS has them, and Linkerd's proxies take them so; destination knows them without the dot. */
const withoutFinalDot = (authority: string): string => authority.replace(/\.(?=:\d+$|$)/, '');

function serviceOf(authority: string): ResourceReference {
  const [host = '', port = ''] = authority.split(':');
  const [name = '', namespace = ''] = host.split('.');
  return { group: 'core', kind: 'Service', namespace, name, port: Number(port) };
}
