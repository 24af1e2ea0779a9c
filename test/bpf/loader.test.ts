// SPDX-License-Identifier: Apache-2.0
// What holds for every BpfLoader: the same suite on libbpf with the kernel and on the one in memory.

import assert from 'node:assert/strict';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmdirSync, rmSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { encodeCookie, slotKey, structs, u32, u64 } from '#lib/bpf/abi.ts';
import { createFakeLoader } from '#lib/bpf/fake-loader.ts';
import { createLibbpfLoader } from '#lib/bpf/libbpf-loader.ts';
import type { BpfLoader } from '#lib/bpf/loader.ts';
import { type ErrorCode, MeshError } from '#lib/core/errors.ts';
import { buildOnce, cgroup2Mount, objectsDir, shell, unmountAll } from './harness.ts';

const coded =
  (code: ErrorCode, text: string) =>
  (error: unknown): boolean =>
    error instanceof MeshError && error.code === code && error.message.includes(text);

for (const [what, create] of [
  ['libbpf', createLibbpfLoader],
  ['memory', createFakeLoader],
] as const) {
  describe(`a loader: ${what}`, () => {
    let loader: BpfLoader;
    let folder: string;
    let cgroup: string;
    const file = (name: string): string => join(objectsDir, `${name}.bpf.o`);
    before(() => {
      buildOnce();
      loader = create();
      folder = mkdtempSync(join(tmpdir(), 'nmb-loader-'));
      cgroup = join(cgroup2Mount(), `nmb-loader-${what}`);
      mkdirSync(cgroup, { recursive: true });
      if (what === 'libbpf') shell('mount', '-t', 'bpf', 'bpf', folder);
    });
    after(() => {
      unmountAll(folder);
      rmSync(folder, { recursive: true });
      rmdirSync(cgroup);
    });

    it('knows where it can pin', () => {
      assert.equal(loader.canPin(folder), true);
      assert.equal(loader.canPin(join(folder, 'nonexistent')), false);
    });

    it('keeps entries of maps by key', () => {
      const object = loader.load(file('connect'), { pins: new Map() });
      const map = object.map('nm_load');
      assert.equal(map.lookup(encodeCookie(1n)), undefined);
      map.update(encodeCookie(1n), u64(7n));
      map.update(encodeCookie(2n), u64(8n));
      map.update(encodeCookie(1n), u64(9n));
      assert.deepEqual(map.lookup(encodeCookie(1n)), u64(9n));
      assert.equal(map.keys().length, 2);
      assert.equal(map.delete(encodeCookie(1n)), true);
      assert.equal(map.delete(encodeCookie(1n)), false);
      assert.deepEqual(map.keys(), [encodeCookie(2n)]);
      assert.throws(() => map.update(u32(1), u64(1n)), coded('MESH_BPF_MAP', 'nm_load'));
      assert.throws(() => map.update(encodeCookie(1n), u32(1)), coded('MESH_BPF_MAP', 'nm_load'));
      map.close();
      object.close();
    });

    it('names a full map', () => {
      const object = loader.load(file('sockops'), {
        pins: new Map(),
        maxEntries: new Map([['nm_inflight', 2]]),
      });
      const map = object.map('nm_inflight');
      const value = Buffer.alloc(structs.nm_record.size);
      const fill = (): void => {
        for (let index = 0; index < 3; index++) map.update(Buffer.alloc(structs.nm_flow.size, index), value);
      };
      assert.throws(fill, coded('MESH_BPF_MAP', 'nm_inflight is full'));
      map.close();
      object.close();
    });

    it('gives two objects the same map by its pin, also later', () => {
      const pins = new Map([['nm_load', join(folder, 'load')]]);
      const first = loader.load(file('connect'), { pins });
      first.map('nm_load').update(encodeCookie(5n), u64(1n));
      first.close();
      const second = loader.load(file('sockops'), { pins });
      assert.deepEqual(second.map('nm_load').lookup(encodeCookie(5n)), u64(1n));
      second.close();
      assert.deepEqual(loader.openMap(join(folder, 'load'))?.lookup(encodeCookie(5n)), u64(1n));
      assert.equal(loader.openMap(join(folder, 'nothing')), undefined);
      unlinkSync(join(folder, 'load'));
    });

    it('attaches, pins, finds again, updates and detaches', () => {
      const object = loader.load(file('connect'), { pins: new Map() });
      const fd = openSync(cgroup, 'r');
      const path = join(folder, 'link');
      const link = loader.attach(object.program('nm_connect4'), 'connect4', fd);
      link.pin(path);
      const target = link.target();
      assert.notEqual(target, 0n);
      link.close();
      const found = loader.openLink(path);
      assert.ok(found);
      assert.equal(found.target(), target);
      const newer = loader.load(file('connect'), { pins: new Map() });
      assert.equal(found.update(newer.program('nm_connect4')), true);
      found.detach();
      assert.equal(found.update(newer.program('nm_connect4')), false);
      assert.equal(found.target(), 0n);
      found.close();
      unlinkSync(path);
      assert.equal(loader.openLink(path), undefined);
      closeSync(fd);
      object.close();
      newer.close();
    });

    it('finds no program that excludes ours where links alone hang', () => {
      const object = loader.load(file('connect'), { pins: new Map() });
      const fd = openSync(cgroup, 'r');
      const link = loader.attach(object.program('nm_connect6'), 'connect6', fd);
      assert.deepEqual(loader.exclusivePrograms(fd, 'connect6'), []);
      link.detach();
      link.close();
      closeSync(fd);
      object.close();
    });

    it('says which object, program or map is missing', () => {
      assert.throws(
        () => loader.load(file('nonexistent'), { pins: new Map() }),
        coded('MESH_BPF_LOAD', 'nonexistent'),
      );
      const object = loader.load(file('lookup'), { pins: new Map() });
      assert.throws(() => object.program('nm_nothing'), coded('MESH_BPF_LOAD', 'nm_nothing'));
      assert.throws(() => object.map('nm_nothing'), coded('MESH_BPF_LOAD', 'nm_nothing'));
      assert.equal(object.map('nm_slots').delete(slotKey('inbound', 6, 3)), false);
      object.close();
    });
  });
}
