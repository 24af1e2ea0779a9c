// SPDX-License-Identifier: Apache-2.0
// What the agent needs of eBPF: loading objects, maps, links. Implemented by libbpf-loader.ts (the kernel) and
// fake-loader.ts (memory, for tests); loader.behaviour.ts holds for both. Control thread only.

/** Where a program hangs. */
export type AttachPoint = 'connect4' | 'connect6' | 'getpeername4' | 'getpeername6' | 'sockops' | 'lookup';

export interface BpfMap {
  /** For socket records in workers; -1 in fakes. */
  readonly fd: number;
  lookup(key: Uint8Array): Buffer | undefined;
  /** Throws MESH_BPF_MAP; a full map is named. */
  update(key: Uint8Array, value: Uint8Array): void;
  /** False: there was no such entry. */
  delete(key: Uint8Array): boolean;
  keys(): Buffer[];
  /** Up to `count` keys after this one (or from the first), so that a large map is read in several turns. */
  keysAfter(key: Buffer | undefined, count: number): Buffer[];
  /** The kernel's number of this very map. */
  id(): number;
  pin(path: string): void;
  close(): void;
}

export interface BpfProgram {
  readonly name: string;
  readonly fd: number;
}

export interface BpfLink {
  /** Puts another program in the place of the present one; false: what it hung on is gone. */
  update(program: BpfProgram): boolean;
  /** Outlives the process under this path of a bpffs. */
  pin(path: string): void;
  /** Inode of the cgroup or network namespace that it hangs on; 0: that is gone, or the link was detached. */
  target(): bigint;
  /** The kernel's number of this very link. */
  id(): number;
  /** The number of the program that runs, as `BpfLoader.programId` has it. */
  programId(): number;
  /** Ends the effect at once, pinned or not. */
  detach(): void;
  /** Lets go of the descriptor; a pinned link stays in effect. */
  close(): void;
}

export interface BpfObject {
  map(name: string): BpfMap;
  program(name: string): BpfProgram;
  /** Programs and maps that are neither pinned nor attached go. */
  close(): void;
}

export interface LoadOptions {
  /** Maps by name to the path where they are pinned: opened there, or made and pinned. */
  readonly pins: ReadonlyMap<string, string>;
  /** Contents of .rodata.nm. */
  readonly config?: Uint8Array;
  readonly maxEntries?: ReadonlyMap<string, number>;
}

export interface AttachedProgram {
  readonly id: number;
  readonly name: string;
}

export interface BpfLoader {
  /** Whether links and maps can be pinned below this folder. */
  canPin(folder: string): boolean;
  /** Throws MESH_BPF_LOAD with the verifier's log. */
  load(file: string, options: LoadOptions): BpfObject;
  /** `target`: descriptor of a cgroup folder, or for `lookup` of a network namespace. Throws MESH_BPF_ATTACH. */
  attach(program: BpfProgram, point: AttachPoint, target: number): BpfLink;
  programId(program: BpfProgram): number;
  openLink(path: string): BpfLink | undefined;
  openMap(path: string): BpfMap | undefined;
  /** Programs attached directly to this cgroup without BPF_F_ALLOW_MULTI. */
  exclusivePrograms(cgroupFd: number, point: AttachPoint): AttachedProgram[];
}
