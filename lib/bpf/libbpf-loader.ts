// SPDX-License-Identifier: Apache-2.0
// The real BpfLoader: libbpf (by koffi) opens, relocates and loads objects; all else goes through bpf(2) directly.
// libbpf belongs to the control thread: a worker gets descriptors (socket-records.ts).

import { existsSync, statfsSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
import koffi from 'koffi';
import { errorMessage, invariant, MeshError } from '#lib/core/errors.ts';
import { addressOf, dup, EAGAIN, errnoText, stableBytes } from '#lib/net/native.ts';
import { createLink, exclusivePrograms, kernelLink, kernelMap, openPin, programId } from './kernel-calls.ts';
import type { BpfLoader, BpfObject, LoadOptions } from './loader.ts';

const BPF_FS_MAGIC = 0xcafe4a11;
/** A signal that is pending makes the verifier give up with EAGAIN; libbpf itself tries five times. */
const LOAD_ATTEMPTS = 5;
const LOG_BYTES = 1 << 20;
/** The end of the verifier's log is where the reason stands. */
const LOG_SHOWN = 6000;

/** struct bpf_object_open_opts, as far as libbpf 0.7 knows it. */
const openOptions = { size: 80, logBuffer: 56, logSize: 64, logLevel: 72 } as const;

type Pointer = bigint | null;

function bindLibbpf() {
  let library: ReturnType<typeof koffi.load>;
  try {
    library = koffi.load('libbpf.so.1');
  } catch (error) {
    throw new MeshError('MESH_HOST_UNFIT', `libbpf.so.1 cannot be loaded: ${errorMessage(error)}`, {
      cause: error,
      remedy: 'install libbpf 1.0 or newer (Debian: libbpf1)',
    });
  }
  const libc = koffi.load(null);
  const functions = {
    setPrint: library.func('void *libbpf_set_print(void *print)') as (print: null) => Pointer,
    open: library.func('void *bpf_object__open_file(const char *path, void *options)') as (
      path: string,
      options: Uint8Array,
    ) => Pointer,
    load: library.func('int bpf_object__load(void *object)') as (object: Pointer) => number,
    closeObject: library.func('void bpf_object__close(void *object)') as (object: Pointer) => void,
    findMap: library.func('void *bpf_object__find_map_by_name(void *object, const char *name)') as (
      object: Pointer,
      name: string,
    ) => Pointer,
    findProgram: library.func('void *bpf_object__find_program_by_name(void *object, const char *name)') as (
      object: Pointer,
      name: string,
    ) => Pointer,
    mapFd: library.func('int bpf_map__fd(void *map)') as (map: Pointer) => number,
    setPinPath: library.func('int bpf_map__set_pin_path(void *map, const char *path)') as (
      map: Pointer,
      path: string,
    ) => number,
    setMaxEntries: library.func('int bpf_map__set_max_entries(void *map, unsigned int count)') as (
      map: Pointer,
      count: number,
    ) => number,
    initialValue: library.func('void *bpf_map__initial_value(void *map, void *size)') as (
      map: Pointer,
      size: Uint8Array,
    ) => Pointer,
    programFd: library.func('int bpf_program__fd(void *program)') as (program: Pointer) => number,
    copy: libc.func('void *memcpy(void *to, const void *from, unsigned long size)') as (
      to: Pointer,
      from: Uint8Array,
      size: number,
    ) => Pointer,
  };
  functions.setPrint(null);
  return functions;
}

/** Only on the main thread. */
export function createLibbpfLoader(): BpfLoader {
  invariant(isMainThread, 'libbpf belongs to the control thread');
  const libbpf = bindLibbpf();
  const log = stableBytes(LOG_BYTES);
  const options = stableBytes(openOptions.size);
  options.writeBigUInt64LE(BigInt(openOptions.size), 0);
  options.writeBigUInt64LE(addressOf(log), openOptions.logBuffer);
  options.writeBigUInt64LE(BigInt(LOG_BYTES), openOptions.logSize);

  const verifierLog = (): string => {
    const end = log.indexOf(0);
    const text = log.toString('utf8', 0, end < 0 ? LOG_BYTES : end).trim();
    return text.length > LOG_SHOWN ? `…${text.slice(-LOG_SHOWN)}` : text;
  };

  const prepare = (object: Pointer, file: string, load: LoadOptions): void => {
    const named = (name: string): Pointer => {
      const map = libbpf.findMap(object, name);
      if (map === null) throw new MeshError('MESH_BPF_LOAD', `${file} has no map ${name}`);
      return map;
    };
    const set = (what: string, answer: number): void => {
      if (answer !== 0)
        throw new MeshError('MESH_BPF_LOAD', `${file}: ${what} failed with ${errnoText(answer)}`);
    };
    for (const [name, count] of load.maxEntries ?? [])
      set(`setting the size of ${name}`, libbpf.setMaxEntries(named(name), count));
    for (const [name, path] of load.pins)
      set(`setting the pin of ${name}`, libbpf.setPinPath(named(name), path));
    if (load.config === undefined) return;
    const size = stableBytes(8);
    const memory = libbpf.initialValue(named('.rodata.nm'), size);
    if (memory === null || size.readBigUInt64LE() !== BigInt(load.config.byteLength))
      throw new MeshError(
        'MESH_BPF_LOAD',
        `${file}: its constants are not ${load.config.byteLength} bytes long`,
        {
          remedy: 'compile the objects again: they are of another version than the agent',
        },
      );
    libbpf.copy(memory, load.config, load.config.byteLength);
  };

  const tryLoad = (file: string, load: LoadOptions): { object: Pointer; answer: number } => {
    log[0] = 0;
    const object = existsSync(file) ? libbpf.open(file, options) : null;
    if (object === null)
      throw new MeshError('MESH_BPF_LOAD', `${file} is missing or no eBPF object`, {
        remedy: 'build the objects (make -C bpf) and point NODEMESH_BPF_OBJECTS at their folder',
      });
    try {
      prepare(object, file, load);
    } catch (error) {
      libbpf.closeObject(object);
      throw error;
    }
    return { object, answer: libbpf.load(object) };
  };

  return {
    canPin: (folder) => existsSync(folder) && statfsSync(folder).type === BPF_FS_MAGIC,
    load: (file, load) => {
      for (let attempt = 1; ; attempt++) {
        const { object, answer } = tryLoad(file, load);
        if (answer === 0) return loaded(object, file);
        libbpf.closeObject(object);
        if (answer !== -EAGAIN || attempt === LOAD_ATTEMPTS)
          throw loadError(file, answer, verifierLog(), load);
      }
    },
    attach: createLink,
    programId,
    openLink: (path) => {
      const fd = openPin(path);
      return fd === undefined ? undefined : kernelLink(fd);
    },
    openMap: (path) => {
      const fd = openPin(path);
      return fd === undefined ? undefined : kernelMap(fd, path);
    },
    exclusivePrograms,
  };

  function loaded(object: Pointer, file: string): BpfObject {
    return {
      map: (name) => {
        const map = libbpf.findMap(object, name);
        if (map === null) throw new MeshError('MESH_BPF_LOAD', `${file} has no map ${name}`);
        /** The object closes its own descriptors; maps may live longer. */
        return kernelMap(dup(libbpf.mapFd(map)), name);
      },
      program: (name) => {
        const program = libbpf.findProgram(object, name);
        if (program === null) throw new MeshError('MESH_BPF_LOAD', `${file} has no program ${name}`);
        return { name, fd: libbpf.programFd(program) };
      },
      close: () => libbpf.closeObject(object),
    };
  }
}

function loadError(file: string, answer: number, log: string, load: LoadOptions): MeshError {
  const name = errnoText(answer);
  const pinned = [...load.pins.values()].filter((path) => existsSync(path));
  const remedy =
    name === 'EPERM'
      ? 'run as root (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN)'
      : name === 'EINVAL' && log === '' && pinned.length > 0
        ? `a pinned map may be of another shape: look at ${pinned.join(', ')}`
        : undefined;
  return new MeshError(
    'MESH_BPF_LOAD',
    `the kernel refused ${file} with ${name}${log === '' ? '' : `; the verifier says:\n${log}\n`}`,
    {
      cause: Object.assign(new Error(`bpf_object__load: ${name}`), { code: name, errno: answer }),
      ...(remedy === undefined ? {} : { remedy }),
    },
  );
}
