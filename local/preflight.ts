// SPDX-License-Identifier: Apache-2.0
// Whether this machine can run a local mesh. `problems` is pure: facts in, one line with its remedy out for each
// thing that is missing. Gathering the facts is below it.

import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { delimiter, join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import { findCgroup2 } from './cgroups.ts';

export interface HostFacts {
  readonly uid: number;
  /** As `uname -r` says. */
  readonly kernel: string;
  readonly btf: boolean;
  readonly cgroup2: string | undefined;
  readonly missingPrograms: readonly string[];
  readonly missingFiles: readonly string[];
}

/** Programs with the Debian package that has them. */
export const NEEDED_PROGRAMS: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  nft: 'nftables',
  dnsmasq: 'dnsmasq-base',
  nsenter: 'util-linux',
  unshare: 'util-linux',
  setpriv: 'util-linux',
  mount: 'mount',
  umount: 'mount',
};

export const NEEDED_FILES: Readonly<Record<string, string>> = {
  '/usr/lib/cni/bridge': 'containernetworking-plugins',
  '/usr/lib/cni/host-local': 'containernetworking-plugins',
  '/usr/lib/cni/loopback': 'containernetworking-plugins',
};

const KERNEL_FLOOR = [5, 15] as const;

function kernelIsOld(kernel: string): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10));
  return major < KERNEL_FLOOR[0] || (major === KERNEL_FLOOR[0] && minor < KERNEL_FLOOR[1]);
}

/** One line per problem: what is missing and what to do. `meshed` false: plain pods need no BTF. */
export function problems(facts: HostFacts, meshed: boolean): string[] {
  const found: string[] = [];
  if (facts.uid !== 0) found.push('mesh local needs root: run it again with sudo');
  if (kernelIsOld(facts.kernel)) {
    found.push(
      `Linux ${facts.kernel} is too old: use a machine with Linux ${KERNEL_FLOOR.join('.')} or newer`,
    );
  }
  if (meshed && !facts.btf) {
    found.push(
      "the kernel has no BTF (/sys/kernel/btf/vmlinux): use a kernel built with CONFIG_DEBUG_INFO_BTF, such as Debian's, or run with --no-mesh",
    );
  }
  if (facts.cgroup2 === undefined) {
    found.push(
      'no cgroup2 is mounted: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified',
    );
  }
  for (const program of facts.missingPrograms) {
    found.push(`${program} is not installed: apt-get install ${NEEDED_PROGRAMS[program] ?? program}`);
  }
  for (const file of facts.missingFiles) {
    found.push(`${file} is not there: apt-get install ${NEEDED_FILES[file] ?? 'its package'}`);
  }
  return found;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // absent or not executable: the same to us
  }
}

export function gatherFacts(): HostFacts {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return {
    uid: process.getuid?.() ?? -1,
    kernel: release(),
    btf: existsSync('/sys/kernel/btf/vmlinux'),
    cgroup2: findCgroup2(readFileSync('/proc/mounts', 'utf8')),
    missingPrograms: Object.keys(NEEDED_PROGRAMS).filter(
      (program) => !folders.some((folder) => isExecutable(join(folder, program))),
    ),
    missingFiles: Object.keys(NEEDED_FILES).filter((file) => !existsSync(file)),
  };
}

/** Throws one error with all problems. */
export function requireFitHost(meshed: boolean): void {
  const facts = gatherFacts();
  const found = problems(facts, meshed);
  if (found.length === 0) return;
  throw new MeshError(facts.uid === 0 ? 'MESH_HOST_UNFIT' : 'MESH_NOT_ROOT', found.join('\n'));
}
