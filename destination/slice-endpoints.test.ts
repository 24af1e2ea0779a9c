// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { EndpointSlice, Service } from '#lib/registry/model.ts';
import { parseResource } from '#lib/registry/resource-schema.ts';
import { sliceEndpoints, type WantedEndpoints } from './slice-endpoints.ts';

const parsed = (kind: 'Service' | 'EndpointSlice', raw: object): unknown => {
  const result = parseResource(kind, { metadata: { name: 'db', namespace: 'shop' }, ...raw }, 'local');
  assert.ok(result.ok, JSON.stringify(result));
  return result.resource;
};
const service = (ports: readonly object[] = [{ name: 'sql', port: 5432 }]): Service =>
  parsed('Service', { spec: { ports } }) as Service;
const slice = (endpoints: readonly object[], extra: object = {}): EndpointSlice =>
  parsed('EndpointSlice', {
    addressType: 'IPv4',
    ports: [{ name: 'sql', port: 15432 }],
    endpoints,
    ...extra,
  }) as EndpointSlice;

describe('endpoints of services without a selector', () => {
  const found = (
    slices: readonly EndpointSlice[],
    wanted: Partial<WantedEndpoints> = {},
    family: 'IPv4' | 'IPv6' = 'IPv4',
    of = service(),
  ): string[] =>
    sliceEndpoints(
      of,
      slices,
      {
        authority: { port: 5432, instance: '' },
        local: false,
        nodeName: 'n1',
        zone: 'a',
        ...wanted,
      },
      family,
    ).map(({ ip, port }) => `${ip}:${port}`);

  it('are the ready ones, on the port of the same name', () => {
    const slices = [
      slice([
        { addresses: ['10.9.0.1'] },
        { addresses: ['10.9.0.2'], conditions: { ready: true } },
        { addresses: ['10.9.0.3'], conditions: { ready: false } },
        { addresses: ['10.9.0.4'], conditions: { ready: false, serving: true, terminating: true } },
        { addresses: ['10.9.0.5'], conditions: { ready: null } },
      ]),
      slice([{ addresses: ['10.9.0.6'] }], { ports: [{ name: 'other', port: 1 }] }),
      slice([{ addresses: ['10.9.0.7'] }], { ports: [{ name: 'sql', port: 1, protocol: 'UDP' }] }),
    ];
    assert.deepEqual(found(slices), ['10.9.0.1:15432', '10.9.0.2:15432', '10.9.0.5:15432']);
    assert.deepEqual(
      found(slices, {}, 'IPv4', service([{ name: 'sql', port: 1 }])).length,
      5,
      'a target port',
    );
  });

  it('are those of the wanted family, and the others if there are none', () => {
    const both = [
      slice([{ addresses: ['10.9.0.1'] }]),
      slice([{ addresses: ['fd00::1'] }], { addressType: 'IPv6' }),
    ];
    assert.deepEqual(found(both), ['10.9.0.1:15432']);
    assert.deepEqual(found(both, {}, 'IPv6'), ['fd00::1:15432']);
    assert.deepEqual(found(both.slice(0, 1), {}, 'IPv6'), ['10.9.0.1:15432']);
    const names = slice([{ addresses: ['db.example.org'] }], { addressType: 'FQDN' });
    assert.deepEqual(found([names]), []);
  });

  it('are those of the zone if every one has a hint, of the node if the service says so, of one host name', () => {
    const forZone = (name: string) => ({ hints: { forZones: [{ name }] } });
    const a = { addresses: ['10.9.0.1'], nodeName: 'n1', hostname: 'db-0', ...forZone('a') };
    const b = { addresses: ['10.9.0.2'], nodeName: 'n2', hostname: 'db-1', ...forZone('b') };
    assert.deepEqual(found([slice([a, b])]), ['10.9.0.1:15432']);
    assert.deepEqual(found([slice([a, b])], { zone: 'c' }).length, 2);
    assert.deepEqual(found([slice([a, b, { addresses: ['10.9.0.3'] }])]).length, 3);
    assert.deepEqual(found([slice([a, b])], { local: true, nodeName: 'n2', zone: '' }), ['10.9.0.2:15432']);
    const authority = { port: 5432, instance: 'db-1' };
    assert.deepEqual(found([slice([a, b])], { authority }), ['10.9.0.2:15432']);
  });
});
