// SPDX-License-Identifier: Apache-2.0
// Addresses of destination as endpoints.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { socketToWire } from '#lib/proto/addresses.ts';
import { WeightedAddr } from '#lib/proto/gen/linkerd/destination.ts';
import { endpointOf } from './service-lookup.ts';

const gateway = (authority: string, more: Partial<WeightedAddr> = {}) =>
  endpointOf(
    {
      ...WeightedAddr.fromPartial({
        addr: socketToWire('192.0.2.1', 4143),
        weight: 1,
        tlsIdentity: { strategy: { $case: 'dnsLikeIdentity', dnsLikeIdentity: { name: 'gateway.west' } } },
        protocolHint: { protocol: { $case: 'h2', h2: {} } },
        authorityOverride: { authorityOverride: authority },
      }),
      ...more,
    },
    {},
    () => undefined,
  );

it('a gateway is asked for another authority, over HTTP/2 though it names no port of its proxy', () => {
  assert.deepEqual(gateway('web.far.svc.cluster.local:8080'), {
    ip: '192.0.2.1',
    port: 4143,
    identity: 'gateway.west',
    inboundPort: undefined,
    authorityOverride: 'web.far.svc.cluster.local:8080',
    http2: true,
    weight: 1,
    labels: {},
    localPodUid: undefined,
  });
  assert.equal(gateway('web.far')?.authorityOverride, 'web.far');
});

it('in plain text nobody is told that it is HTTP/2', () => {
  assert.equal(gateway('web.far:80', { tlsIdentity: undefined })?.http2, undefined);
});

it('an authority that cannot be sent leaves its endpoint out', () => {
  for (const authority of [
    '',
    ':80',
    'web:0',
    'web:65536',
    'web:080',
    'a b',
    'web:80\r\nx: y',
    'web/x',
    'wéb',
    'u@web',
  ]) {
    assert.equal(gateway(authority), undefined, authority);
  }
  for (const authority of ['web:1', 'web:65535', `${'a'.repeat(253)}:9999`]) {
    assert.equal(gateway(authority)?.authorityOverride, authority);
  }
  assert.equal(gateway('a'.repeat(254)), undefined);
});

const SPIFFE = 'spiffe://root.local/vm';

it('an identity that is a URI is asked for by the name that comes with it', () => {
  const strategy = { $case: 'uriLikeIdentity' as const, uriLikeIdentity: { uri: SPIFFE } };
  const found = gateway('vm:80', { tlsIdentity: { strategy, serverName: { name: 'vm.example' } } });
  assert.deepEqual([found?.identity, found?.serverName], [SPIFFE, 'vm.example']);
  const unnamed = gateway('vm:80', { tlsIdentity: { strategy, serverName: undefined } });
  assert.deepEqual([unnamed?.identity, unnamed?.serverName], [undefined, undefined]);
});

it('an identity that is a name may be asked for by another', () => {
  const strategy = { $case: 'dnsLikeIdentity' as const, dnsLikeIdentity: { name: 'web.shop' } };
  const named = gateway('web:80', { tlsIdentity: { strategy, serverName: { name: 'web.example' } } });
  assert.deepEqual([named?.identity, named?.serverName], ['web.shop', 'web.example']);
  const same = gateway('web:80', { tlsIdentity: { strategy, serverName: { name: 'web.shop' } } });
  assert.equal(same?.serverName, undefined);
});
