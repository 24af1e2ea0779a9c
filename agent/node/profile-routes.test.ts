// SPDX-License-Identifier: Apache-2.0
// Targets of a service's profile as a route.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { DestinationProfile } from '#lib/proto/gen/linkerd/destination.ts';
import { profileRoutes } from './profile-routes.ts';

const profile = (...targets: readonly (readonly [authority: string, weight: number])[]) =>
  DestinationProfile.fromPartial({
    dstOverrides: targets.map(([authority, weight]) => ({ authority, weight })),
    profileRef: {
      kind: {
        $case: 'resource',
        resource: { group: 'linkerd.io', kind: 'ServiceProfile', name: 'web', namespace: 'shop' },
      },
    },
  });

it('all requests, shared by weight among what has one', () => {
  const found = profileRoutes(
    profile(['a.shop.svc.cluster.local:80', 500], ['b.shop.svc.cluster.local:81', 0]),
  );
  assert.deepEqual(found, {
    protocol: 'http',
    routes: [
      {
        reference: { group: 'linkerd.io', kind: 'ServiceProfile', namespace: 'shop', name: 'web', port: 0 },
        hosts: [],
        rules: [
          {
            matches: [],
            filters: [],
            policy: {},
            backends: [
              {
                authority: 'a.shop.svc.cluster.local:80',
                weight: 500,
                filters: [],
                reference: { group: 'core', kind: 'Service', namespace: 'shop', name: 'a', port: 80 },
              },
            ],
          },
        ],
      },
    ],
  });
});

it('large weights keep their relation, and none becomes nothing', () => {
  const weights = profileRoutes(profile(['a', 4_000_000_000], ['b', 1_000_000_000], ['c', 1]))?.routes[0]
    ?.rules[0];
  assert.deepEqual(
    weights?.backends.map(({ weight }) => weight),
    [1_000_000, 250_000, 1],
  );
});

it('a final dot of a name is left out', () => {
  const rule = profileRoutes(profile(['a.shop.svc.cluster.local.:80', 1], ['b.', 1]))?.routes[0]?.rules[0];
  assert.deepEqual(
    rule?.backends.map(({ authority }) => authority),
    ['a.shop.svc.cluster.local:80', 'b'],
  );
});

it('without targets, or with none that has a weight, it says nothing', () => {
  assert.equal(profileRoutes(profile()), undefined);
  assert.equal(profileRoutes(profile(['a', 0], ['b', 0])), undefined);
});
