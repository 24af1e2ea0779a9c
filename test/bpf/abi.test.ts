// SPDX-License-Identifier: Apache-2.0
// lib/bpf/abi.ts says the same as bpf/include/mesh_abi.h: compared through the BTF of the compiled objects, and for
// constants through the preprocessor.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import {
  ADDRESSES_MAX,
  counterRows,
  INFLIGHT_RESERVE,
  kinds,
  LAYOUT,
  PORT_COUNT,
  PORT_FIRST,
  RANGES_MAX,
  SLOTS_MAX,
  SUBNETS_MAX,
  structs,
} from '#lib/bpf/abi.ts';
import { buildOnce, objectsDir, repository, shell } from './harness.ts';

interface BtfType {
  readonly kind: string;
  readonly name: string;
  readonly size?: number;
  readonly members?: readonly { readonly name: string; readonly bits_offset: number }[];
  readonly values?: readonly { readonly name: string; readonly val: number }[];
}

describe('layouts', () => {
  const types = new Map<string, BtfType>();
  before(() => {
    buildOnce();
    for (const object of ['connect', 'sockops', 'lookup']) {
      const text = shell('bpftool', '-j', 'btf', 'dump', 'file', join(objectsDir, `${object}.bpf.o`));
      const dump = JSON.parse(text) as { readonly types: readonly BtfType[] };
      for (const type of dump.types)
        if (type.name.startsWith('nm_')) types.set(`${type.kind} ${type.name}`, type);
    }
  });

  for (const [name, layout] of Object.entries(structs)) {
    it(`agree on struct ${name}`, () => {
      const type = types.get(`STRUCT ${name}`);
      assert.ok(type, 'the objects know it');
      assert.equal(layout.size, type.size);
      assert.deepEqual(
        layout.fields,
        Object.fromEntries(type.members?.map((member) => [member.name, member.bits_offset / 8]) ?? []),
      );
    });
  }

  it('leave no struct out', () => {
    const known = new Set(Object.keys(structs));
    const ours = [...types.values()].filter((type) => type.kind === 'STRUCT').map((type) => type.name);
    assert.deepEqual(
      ours.filter((name) => !known.has(name)),
      [],
    );
  });

  it('agree on constants', () => {
    const header = join(repository, 'bpf/include/mesh_abi.h');
    const text = shell('clang', '-E', '-dM', '-include', 'linux/types.h', '-x', 'c', header);
    const constant = (name: string): number => Number(new RegExp(`#define ${name} (\\d+)`).exec(text)?.[1]);
    assert.deepEqual(
      [
        'NM_LAYOUT',
        'NM_ADDRESSES_MAX',
        'NM_RANGES_MAX',
        'NM_SUBNETS_MAX',
        'NM_SLOTS_MAX',
        'NM_INFLIGHT_RESERVE',
        'NM_PORT_FIRST',
        'NM_PORT_COUNT',
      ].map(constant),
      [LAYOUT, ADDRESSES_MAX, RANGES_MAX, SUBNETS_MAX, SLOTS_MAX, INFLIGHT_RESERVE, PORT_FIRST, PORT_COUNT],
    );
    assert.equal(PORT_FIRST + PORT_COUNT, 65_536);
  });

  it('agree on kinds and counters', () => {
    const values = (prefix: string): [string, number][] =>
      [
        ...shell('cat', join(repository, 'bpf/include/mesh_abi.h')).matchAll(
          new RegExp(`${prefix}(\\w+) = (\\d+)`, 'g'),
        ),
      ].map(([, name = '', value]) => [name.toLowerCase(), Number(value)]);
    assert.deepEqual(Object.fromEntries(values('NM_KIND_')), { none: 0, ...kinds });
    assert.deepEqual(
      values('NM_COUNT_'),
      counterRows.map((name, row) => [name, row]),
    );
    assert.match(
      shell('cat', join(repository, 'bpf/include/mesh_abi.h')),
      new RegExp(`NM_COUNTERS = ${counterRows.length},`),
    );
  });
});
