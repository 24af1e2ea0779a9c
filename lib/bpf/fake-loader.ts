// SPDX-License-Identifier: Apache-2.0
// A BpfLoader in memory, for tests of what is built on it. Pins are empty files, so that code which lists and removes
// them works as on a bpffs. It runs no program: it only remembers what hangs where.

import { existsSync, fstatSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import { counterRows, SLOTS_MAX, structs } from './abi.ts';
import type { AttachedProgram, AttachPoint, BpfLink, BpfLoader, BpfMap, BpfProgram } from './loader.ts';

interface MapShape {
  readonly key: number;
  readonly value: number;
  readonly entries: number;
  /** Arrays have all their entries from the start. */
  readonly array?: boolean;
}

const pod = structs.nm_pod.size;
const listen = structs.nm_listen_key.size;
const shapes: Readonly<Record<string, MapShape>> = {
  nm_pods: { key: 8, value: pod, entries: 4096 },
  nm_load: { key: 8, value: 8, entries: 4096 },
  nm_lost: { key: 8, value: 8, entries: 4096 },
  nm_inflight: { key: structs.nm_flow.size, value: structs.nm_record.size, entries: 20_480 },
  nm_listen: { key: listen, value: 4, entries: 65_536 },
  nm_seeded: { key: listen, value: 4, entries: 65_536 },
  nm_counters: { key: 4, value: 8, entries: counterRows.length, array: true },
  nm_mark: { key: 4, value: structs.nm_mark.size, entries: 65_536 },
  nm_peer: { key: 4, value: structs.nm_peer.size, entries: 65_536 },
  nm_accepted: { key: 4, value: structs.nm_accepted.size, entries: 65_536 },
  nm_noted: { key: 4, value: listen, entries: 65_536 },
  nm_slots: { key: 4, value: 8, entries: 4 * SLOTS_MAX },
};

const programs: Readonly<Record<string, readonly string[]>> = {
  connect: ['nm_connect4', 'nm_connect6', 'nm_getpeername4', 'nm_getpeername6'],
  sockops: ['nm_sockops'],
  lookup: ['nm_lookup'],
};

let lastId = 0;

class FakeMap implements BpfMap {
  readonly fd = -1;
  readonly #entries = new Map<string, Buffer>();
  readonly #name: string;
  readonly #shape: MapShape;
  readonly #id = ++lastId;
  readonly #pins: Map<string, FakeMap>;

  constructor(name: string, shape: MapShape, pins: Map<string, FakeMap>) {
    this.#name = name;
    this.#shape = shape;
    this.#pins = pins;
  }

  #key(key: Uint8Array): string {
    if (key.byteLength !== this.#shape.key)
      throw new MeshError(
        'MESH_BPF_MAP',
        `map ${this.#name}: a key of ${key.byteLength} bytes, not ${this.#shape.key}`,
      );
    return Buffer.from(key).toString('latin1');
  }

  lookup(key: Uint8Array): Buffer | undefined {
    const found = this.#entries.get(this.#key(key));
    return found === undefined && this.#shape.array === true ? Buffer.alloc(this.#shape.value) : found;
  }

  update(key: Uint8Array, value: Uint8Array): void {
    const text = this.#key(key);
    if (value.byteLength !== this.#shape.value)
      throw new MeshError(
        'MESH_BPF_MAP',
        `map ${this.#name}: a value of ${value.byteLength} bytes, not ${this.#shape.value}`,
      );
    if (!this.#entries.has(text) && this.#entries.size >= this.#shape.entries)
      throw new MeshError('MESH_BPF_MAP', `map ${this.#name} is full: update failed with E2BIG`);
    this.#entries.set(text, Buffer.from(value));
  }

  delete(key: Uint8Array): boolean {
    return this.#entries.delete(this.#key(key));
  }

  keys(): Buffer[] {
    return [...this.#entries.keys()].map((key) => Buffer.from(key, 'latin1'));
  }

  keysAfter(key: Buffer | undefined, count: number): Buffer[] {
    const keys = this.keys();
    const from = key === undefined ? 0 : keys.findIndex((other) => other.equals(key)) + 1;
    return keys.slice(from, from + count);
  }

  id(): number {
    return this.#id;
  }

  pin(path: string): void {
    pinFile(path);
    this.#pins.set(path, this);
  }

  close(): void {
    /** Memory needs none. */
  }
}

function pinFile(path: string): void {
  if (existsSync(path))
    throw new MeshError('MESH_SYSCALL', `pinning ${path}: bpf(OBJ_PIN) failed with EEXIST`);
  writeFileSync(path, '');
}

interface Hung {
  readonly id: number;
  program: BpfProgram;
  readonly point: AttachPoint;
  /** 0 after detaching. */
  target: bigint;
}

export interface FakeLoader extends BpfLoader {
  /** What hangs somewhere, in the order in which it was attached. */
  readonly attached: readonly Readonly<Hung>[];
  /** The map of a pin, or undefined. */
  pinned(path: string): BpfMap | undefined;
  /** Programs of others, by cgroup inode, that exclude ours. */
  readonly exclusive: Map<bigint, AttachedProgram>;
  /** The next attach at this point fails. */
  failAttach: AttachPoint | undefined;
}

export function createFakeLoader(): FakeLoader {
  const maps = new Map<string, FakeMap>();
  const links = new Map<string, Hung>();
  const attached: Hung[] = [];
  const exclusive = new Map<bigint, AttachedProgram>();
  let programFds = 1000;

  const inodeOf = (fd: number): bigint => fstatSync(fd, { bigint: true }).ino;

  const linkOf = (hung: Hung): BpfLink => ({
    update: (program) => {
      if (hung.target === 0n) return false;
      hung.program = program;
      return true;
    },
    pin: (path) => {
      pinFile(path);
      links.set(path, hung);
    },
    target: () => hung.target,
    id: () => hung.id,
    programId: () => hung.program.fd,
    detach: () => {
      hung.target = 0n;
      const at = attached.indexOf(hung);
      if (at >= 0) attached.splice(at, 1);
    },
    close: () => undefined,
  });

  const mapOf = (name: string, path: string | undefined, entries: number | undefined): FakeMap => {
    const known = path === undefined || !existsSync(path) ? undefined : maps.get(path);
    if (known !== undefined) return known;
    const shape = shapes[name];
    if (shape === undefined) throw new MeshError('MESH_BPF_LOAD', `there is no map ${name}`);
    const map = new FakeMap(name, entries === undefined ? shape : { ...shape, entries }, maps);
    if (path !== undefined) {
      writeFileSync(path, '');
      maps.set(path, map);
    }
    return map;
  };

  const loader: FakeLoader = {
    attached,
    exclusive,
    failAttach: undefined,
    pinned: (path) => (existsSync(path) ? maps.get(path) : undefined),
    canPin: (folder) => existsSync(folder),
    load: (file, options) => {
      const names = programs[basename(file, '.bpf.o')];
      if (names === undefined) throw new MeshError('MESH_BPF_LOAD', `${file} is missing or no eBPF object`);
      const own = new Map<string, FakeMap>();
      for (const [name, path] of options.pins)
        own.set(name, mapOf(name, path, options.maxEntries?.get(name)));
      return {
        map: (name) => {
          const map = own.get(name) ?? mapOf(name, undefined, options.maxEntries?.get(name));
          own.set(name, map);
          return map;
        },
        program: (name) => {
          if (!names.includes(name)) throw new MeshError('MESH_BPF_LOAD', `${file} has no program ${name}`);
          return { name, fd: programFds++ };
        },
        close: () => undefined,
      };
    },
    attach: (program, point, target) => {
      if (loader.failAttach === point) {
        loader.failAttach = undefined;
        throw new MeshError(
          'MESH_BPF_ATTACH',
          `cannot attach ${program.name} (${point}): as the test wanted`,
        );
      }
      const hung: Hung = { id: ++lastId, program, point, target: inodeOf(target) };
      attached.push(hung);
      return linkOf(hung);
    },
    programId: (program) => program.fd,
    openLink: (path) => {
      const hung = existsSync(path) ? links.get(path) : undefined;
      return hung === undefined ? undefined : linkOf(hung);
    },
    openMap: (path) => loader.pinned(path),
    exclusivePrograms: (cgroupFd) => {
      const foreign = exclusive.get(inodeOf(cgroupFd));
      return foreign === undefined ? [] : [foreign];
    },
  };
  return loader;
}
