// SPDX-License-Identifier: Apache-2.0
// bpf(2) by descriptor: maps, pins, links and queries. Safe in workers (no libbpf). The attribute block is one
// buffer per thread: calls are synchronous, so no two use it at a time.

import { MeshError } from '#lib/core/errors.ts';
import { addressOf, bpf, checked, close, ENOENT, errnoText, stableBytes } from '#lib/net/native.ts';
import type { AttachedProgram, AttachPoint, BpfLink, BpfMap, BpfProgram } from './loader.ts';

const command = {
  mapLookup: 1,
  mapUpdate: 2,
  mapDelete: 3,
  mapNextKey: 4,
  objPin: 6,
  objGet: 7,
  progFdById: 13,
  objInfo: 15,
  progQuery: 16,
  linkCreate: 28,
  linkUpdate: 29,
  linkDetach: 34,
} as const;

/** enum bpf_attach_type */
const attachTypes: Readonly<Record<AttachPoint, number>> = {
  sockops: 3,
  connect4: 10,
  connect6: 11,
  getpeername4: 29,
  getpeername6: 30,
  lookup: 36,
};

const E2BIG = 7;
const EINVAL = 22;
const ENOLINK = 67;
const BPF_F_ALLOW_MULTI = 2;
const BPF_LINK_TYPE_CGROUP = 3;
const BPF_MAP_TYPE_SOCKMAP = 15;
const NEXT_KEYS_MAX = 1_000_000;
const QUERY_PROGRAMS_MAX = 64;

const attr = stableBytes(128);

/** All fields are numbers of the machine's byte order; both supported machines are little-endian. */
function run(cmd: number, fill: (attr: Buffer) => void): number {
  attr.fill(0);
  fill(attr);
  return bpf(cmd, attr);
}

/** Buffers of one map, so that a call allocates nothing. */
export class MapCalls {
  readonly key: Buffer;
  readonly value: Buffer;
  readonly #fd: number;
  readonly #attr: Buffer;
  /** Deletion refuses an attribute block that names a value. */
  readonly #attrOfDelete: Buffer;

  constructor(fd: number, keySize: number, valueSize: number) {
    this.#fd = fd;
    this.key = stableBytes(keySize);
    this.value = stableBytes(valueSize);
    this.#attr = stableBytes(32);
    this.#attr.writeUInt32LE(fd, 0);
    this.#attr.writeBigUInt64LE(addressOf(this.key), 8);
    this.#attrOfDelete = stableBytes(32);
    this.#attrOfDelete.set(this.#attr);
    this.#attr.writeBigUInt64LE(addressOf(this.value), 16);
  }

  /** Reads the entry of `key` into `value`. 0, or -errno. */
  lookup(): number {
    return bpf(command.mapLookup, this.#attr);
  }

  update(): number {
    return bpf(command.mapUpdate, this.#attr);
  }

  delete(): number {
    return bpf(command.mapDelete, this.#attrOfDelete);
  }

  keys(): Buffer[] {
    return this.keysAfter(undefined, NEXT_KEYS_MAX);
  }

  /** After a key that is gone the kernel begins again with the first. */
  keysAfter(after: Buffer | undefined, count: number): Buffer[] {
    const found: Buffer[] = [];
    const next = stableBytes(this.key.byteLength);
    let previous = after;
    if (after !== undefined) this.key.set(after);
    while (found.length < count) {
      const answer = run(command.mapNextKey, (out) => {
        out.writeUInt32LE(this.#fd, 0);
        out.writeBigUInt64LE(previous === undefined ? 0n : addressOf(this.key), 8);
        out.writeBigUInt64LE(addressOf(next), 16);
      });
      if (answer === -ENOENT) break;
      checked('bpf(MAP_GET_NEXT_KEY)', answer, 'reading a map');
      previous = Buffer.from(next);
      found.push(previous);
      this.key.set(next);
    }
    return found;
  }
}

/** bpf_map_info: type, id, key_size, value_size, … */
function mapInfo(fd: number): { type: number; id: number; key: number; value: number } {
  const info = stableBytes(88);
  objectInfo(fd, info, 'reading what a map is');
  return {
    type: info.readUInt32LE(0),
    id: info.readUInt32LE(4),
    key: info.readUInt32LE(8),
    value: info.readUInt32LE(12),
  };
}

/** bpf_prog_info: type, id, … */
export function programId(program: BpfProgram): number {
  const info = stableBytes(128);
  objectInfo(program.fd, info, `reading the number of program ${program.name}`);
  return info.readUInt32LE(4);
}

function objectInfo(fd: number, info: Buffer, context: string): void {
  const answer = run(command.objInfo, (out) => {
    out.writeUInt32LE(fd, 0);
    out.writeUInt32LE(info.byteLength, 4);
    out.writeBigUInt64LE(addressOf(info), 8);
  });
  checked('bpf(OBJ_GET_INFO_BY_FD)', answer, context);
}

/** A map by its descriptor, which `close` closes. */
export function kernelMap(fd: number, name: string): BpfMap {
  const sizes = mapInfo(fd);
  const calls = new MapCalls(fd, sizes.key, sizes.value);
  const failed = (what: string, answer: number): MeshError =>
    new MeshError(
      'MESH_BPF_MAP',
      answer === -E2BIG
        ? `map ${name} is full: ${what} failed with E2BIG`
        : `map ${name}: ${what} failed with ${errnoText(answer)}`,
      { cause: Object.assign(new Error(what), { code: errnoText(answer), errno: answer }) },
    );
  const setKey = (key: Uint8Array): void => {
    if (key.byteLength !== sizes.key)
      throw new MeshError('MESH_BPF_MAP', `map ${name}: a key of ${key.byteLength} bytes, not ${sizes.key}`);
    calls.key.set(key);
  };
  return {
    fd,
    lookup: (key) => {
      setKey(key);
      const answer = calls.lookup();
      if (answer === -ENOENT) return undefined;
      if (answer < 0) throw failed('lookup', answer);
      return Buffer.from(calls.value);
    },
    update: (key, value) => {
      setKey(key);
      if (value.byteLength !== sizes.value)
        throw new MeshError(
          'MESH_BPF_MAP',
          `map ${name}: a value of ${value.byteLength} bytes, not ${sizes.value}`,
        );
      calls.value.set(value);
      const answer = calls.update();
      if (answer < 0) throw failed('update', answer);
    },
    delete: (key) => {
      setKey(key);
      const answer = calls.delete();
      /** A sockmap says EINVAL of an empty place. */
      if (answer === -ENOENT || (answer === -EINVAL && sizes.type === BPF_MAP_TYPE_SOCKMAP)) return false;
      if (answer < 0) throw failed('delete', answer);
      return true;
    },
    keys: () => calls.keys(),
    keysAfter: (key, count) => calls.keysAfter(key, count),
    id: () => sizes.id,
    pin: (path) => pin(fd, path),
    close: () => void close(fd),
  };
}

function cString(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  const out = stableBytes(bytes.byteLength + 1);
  out.set(bytes);
  return out;
}

function pin(fd: number, path: string): void {
  const name = cString(path);
  const answer = run(command.objPin, (out) => {
    out.writeBigUInt64LE(addressOf(name), 0);
    out.writeUInt32LE(fd, 8);
  });
  checked('bpf(OBJ_PIN)', answer, `pinning ${path}`);
}

/** The descriptor of what is pinned there; undefined if nothing is. */
export function openPin(path: string): number | undefined {
  const name = cString(path);
  const answer = run(command.objGet, (out) => out.writeBigUInt64LE(addressOf(name), 0));
  if (answer === -ENOENT) return undefined;
  return checked('bpf(OBJ_GET)', answer, `opening the pin ${path}`);
}

/** A link by its descriptor, which `close` closes. */
export function kernelLink(fd: number): BpfLink {
  /** bpf_link_info: type, id, prog_id, then at 16 a cgroup id (u64) or a namespace's inode (u32). */
  const read = (): Buffer => {
    const info = stableBytes(64);
    objectInfo(fd, info, 'reading what a link hangs on');
    return info;
  };
  return {
    update: (program) => {
      const answer = run(command.linkUpdate, (out) => {
        out.writeUInt32LE(fd, 0);
        out.writeUInt32LE(program.fd, 4);
      });
      if (answer === -ENOLINK) return false;
      checked('bpf(LINK_UPDATE)', answer, `updating the link of ${program.name}`);
      return true;
    },
    pin: (path) => pin(fd, path),
    target: () => {
      const info = read();
      return info.readUInt32LE(0) === BPF_LINK_TYPE_CGROUP
        ? info.readBigUInt64LE(16)
        : BigInt(info.readUInt32LE(16));
    },
    id: () => read().readUInt32LE(4),
    programId: () => read().readUInt32LE(8),
    detach: () => {
      const answer = run(command.linkDetach, (out) => out.writeUInt32LE(fd, 0));
      if (answer !== -ENOLINK) checked('bpf(LINK_DETACH)', answer, 'detaching a program');
    },
    close: () => void close(fd),
  };
}

export function createLink(program: BpfProgram, point: AttachPoint, target: number): BpfLink {
  const answer = run(command.linkCreate, (out) => {
    out.writeUInt32LE(program.fd, 0);
    out.writeUInt32LE(target, 4);
    out.writeUInt32LE(attachTypes[point], 8);
  });
  if (answer < 0) {
    throw new MeshError(
      'MESH_BPF_ATTACH',
      `cannot attach ${program.name} (${point}): bpf(LINK_CREATE) failed with ${errnoText(answer)}`,
      { cause: Object.assign(new Error('LINK_CREATE'), { code: errnoText(answer), errno: answer }) },
    );
  }
  return kernelLink(answer);
}

/** Programs of this very cgroup that were attached without BPF_F_ALLOW_MULTI. */
export function exclusivePrograms(cgroupFd: number, point: AttachPoint): AttachedProgram[] {
  const ids = stableBytes(4 * QUERY_PROGRAMS_MAX);
  const answer = run(command.progQuery, (out) => {
    out.writeUInt32LE(cgroupFd, 0);
    out.writeUInt32LE(attachTypes[point], 4);
    out.writeBigUInt64LE(addressOf(ids), 16);
    out.writeUInt32LE(QUERY_PROGRAMS_MAX, 24);
  });
  checked('bpf(PROG_QUERY)', answer, `asking for ${point} programs of a cgroup`);
  const count = attr.readUInt32LE(24);
  if (count === 0 || (attr.readUInt32LE(12) & BPF_F_ALLOW_MULTI) !== 0) return [];
  const found: AttachedProgram[] = [];
  for (let index = 0; index < count; index++) {
    const id = ids.readUInt32LE(index * 4);
    found.push({ id, name: programName(id) });
  }
  return found;
}

function programName(id: number): string {
  const fd = run(command.progFdById, (out) => out.writeUInt32LE(id, 0));
  /** It went away in between. */
  if (fd < 0) return '';
  try {
    const info = stableBytes(128);
    objectInfo(fd, info, `reading the name of program ${id}`);
    const name = info.subarray(64, 80);
    const end = name.indexOf(0);
    return name.toString('latin1', 0, end < 0 ? 16 : end);
  } finally {
    close(fd);
  }
}
