// SPDX-License-Identifier: Apache-2.0
// One machine of a cluster: makes it (namespaces, root file system, a first process), starts and kills programs in
// it, runs commands in it. Which programs is parts.ts.

import { spawn } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { MeshError } from '#lib/core/errors.ts';
import { type CommandOptions, type CommandResult, runChecked, runCommand } from '../../local/command.ts';
import { makeCgroups } from './cgroups.ts';
import { type MachineLayout, netnsPath } from './layout.ts';
import type { Programs } from './programs.ts';

const BOOT_MS_MAX = 60_000;
const KILL_MS_MAX = 60_000;
const READY_MS_MAX = 120_000;
const READY_POLL_MS = 100;
/** The kernel cuts names of processes. */
const COMM_LENGTH = 15;

/** A program that keeps running in a machine. */
export interface Part {
  readonly name: string;
  readonly argv: readonly string[];
  /** A command that succeeds as soon as it works. */
  readonly ready: readonly string[];
}

const readProc = (path: string): string => {
  try {
    return readFileSync(`/proc/${path}`, 'utf8').trim();
  } catch {
    return ''; // the process has ended
  }
};

/** The first process of a machine, seen from outside; undefined: the machine is not running. */
export function machinePid(machine: MachineLayout): number | undefined {
  if (!existsSync(machine.pidFile)) return undefined;
  const pid = Number(readFileSync(machine.pidFile, 'utf8'));
  // Process ids come round: this one must be the first of a namespace below ours.
  const isFirst = /^NSpid:(?:\s+\d+)+\s+1$/m.test(readProc(`${pid}/status`));
  return isFirst && readProc(`${pid}/comm`) === 'pause' ? pid : undefined;
}

export function requireMachinePid(machine: MachineLayout): number {
  const pid = machinePid(machine);
  if (pid !== undefined) return pid;
  throw new MeshError('MESH_NOT_FOUND', `${machine.name} is not running`, {
    remedy: 'start the cluster: make cluster-up',
  });
}

/** nsenter does not move cgroups: whoever goes into a machine first puts itself into the machine's. */
const inCgroups = (groups: readonly string[], argv: readonly string[]): string[] => [
  'sh',
  '-c',
  'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 70; shift; done; shift; exec "$@"',
  'sh',
  ...groups,
  '--',
  ...argv,
];

const MACHINE_ENV = {
  PATH: '/opt/kubernetes:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  LANG: 'C.UTF-8',
};

/** Starts the machine's first process; its root file system holds what nodeFiles wrote. */
export async function bootMachine(machine: MachineLayout, programs: Programs): Promise<void> {
  for (const folder of ['opt', 'root', 'etc', 'var/log', 'var/lib', 'var/tmp'])
    mkdirSync(join(machine.root, folder), { recursive: true });
  copyFileSync(programs.pause, join(machine.root, 'opt/pause'));
  const groups = makeCgroups(machine.cgroup);
  const log = openSync(machine.logFile, 'a');
  const [program = '', ...args] = inCgroups(groups, [
    'nsenter',
    `--net=${netnsPath(machine.netns)}`,
    'unshare',
    '--mount',
    '--uts',
    '--ipc',
    '--pid',
    '--cgroup',
    '--fork',
    '--kill-child',
    '--propagation',
    'private',
    'bash',
    join(import.meta.dirname, 'machine-init.sh'),
    machine.root,
    machine.name,
    programs.kubernetes,
  ]);
  const child = spawn(program, args, {
    stdio: ['ignore', log, log],
    detached: true,
    cwd: '/',
    env: MACHINE_ENV,
  });
  closeSync(log);
  let ended: string | undefined;
  child.on('error', (error) => (ended = error.message));
  child.on('exit', (code, signal) => (ended = `it ended with ${signal ?? code}`));
  const endMs = performance.now() + BOOT_MS_MAX;
  for (;;) {
    const [first] = readProc(`${child.pid}/task/${child.pid}/children`).split(' ').filter(Boolean);
    // While the shell and nsenter run, children are passing ones; when the first one is pause, the root is built.
    if (
      first !== undefined &&
      readProc(`${child.pid}/comm`) === 'unshare' &&
      readProc(`${first}/comm`) === 'pause'
    ) {
      mkdirSync(dirname(machine.pidFile), { recursive: true });
      writeFileSync(machine.pidFile, first);
      child.unref();
      return;
    }
    if (ended !== undefined || performance.now() > endMs) {
      const said = readFileSync(machine.logFile, 'utf8').trimEnd().split('\n').slice(-5).join('; ');
      throw new MeshError('MESH_COMMAND_FAILED', `${machine.name} does not start: ${ended ?? ''} ${said}`);
    }
    await delay(10); // the kernel has no event for "this process has become another program"
  }
}

export const insideMachine = (machine: MachineLayout, argv: readonly string[]): string[] =>
  inCgroups(makeCgroups(machine.cgroup), [
    'nsenter',
    `--target=${requireMachinePid(machine)}`,
    '--all',
    '--',
    'env',
    '-i',
    ...Object.entries(MACHINE_ENV).map(([name, value]) => `${name}=${value}`),
    ...argv,
  ]);

export const runInMachine = (
  machine: MachineLayout,
  argv: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> => runCommand(insideMachine(machine, argv), options);

export const checkedInMachine = (
  machine: MachineLayout,
  argv: readonly string[],
  options: CommandOptions = {},
): Promise<string> => runChecked(insideMachine(machine, argv), options);

export const partLog = (machine: MachineLayout, part: string): string =>
  join(machine.root, 'var/log', `${part}.log`);

/** Starts it and waits until it works: some parts give up when another one is not there yet. */
export async function startPart(machine: MachineLayout, part: Part): Promise<void> {
  await checkedInMachine(machine, [
    'setsid',
    '-f',
    'sh',
    '-c',
    'log=$1; shift; exec "$@" >>"$log" 2>&1 </dev/null',
    'sh',
    `/var/log/${part.name}.log`,
    ...part.argv,
  ]);
  const endMs = performance.now() + READY_MS_MAX;
  while ((await runInMachine(machine, part.ready)).code !== 0) {
    if (performance.now() > endMs) {
      const said = readFileSync(partLog(machine, part.name), 'utf8')
        .trimEnd()
        .split('\n')
        .slice(-3)
        .join('; ');
      throw new MeshError(
        'MESH_TIMEOUT',
        `${part.name} of ${machine.name} does not start: ${said.slice(-1000)}`,
      );
    }
    await delay(READY_POLL_MS);
  }
}

/** By its name within the machine's process namespace: the same program elsewhere is out of reach. */
export async function partRuns(machine: MachineLayout, part: string): Promise<boolean> {
  const found = await runInMachine(machine, ['pgrep', '-x', part.slice(0, COMM_LENGTH)]);
  return found.code === 0;
}

export async function killPart(machine: MachineLayout, part: string, signal = 'KILL'): Promise<void> {
  await checkedInMachine(machine, ['pkill', `-${signal}`, '-x', part.slice(0, COMM_LENGTH)]);
  const endMs = performance.now() + KILL_MS_MAX;
  while (await partRuns(machine, part)) {
    if (performance.now() > endMs)
      throw new MeshError('MESH_TIMEOUT', `${part} of ${machine.name} does not end`);
    await delay(20); // it is a child of another process
  }
}
