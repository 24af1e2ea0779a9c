// SPDX-License-Identifier: Apache-2.0
// Runs one container: namespaces and cgroup around container-script.ts, its log, its end. Restarting is kubelet.ts.

import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { errnoName, errorMessage, invariant, MeshError } from '#lib/core/errors.ts';
import { makeCgroup, removeCgroup } from './cgroups.ts';
import { exitCodeOf, inCgroup, inNetns } from './command.ts';
import { type ContainerPlan, containerScript, enterCommand, quote, STARTED } from './container-script.ts';

export interface ContainerHome {
  readonly netns: string;
  readonly cgroup: string;
  readonly logFile: string;
  readonly resolvConf: string;
  readonly hosts: string;
}

const NAMESPACES = ['--mount', '--pid', '--uts', '--ipc', '--cgroup'] as const;
const NO_SUCH_PROCESS = 'ESRCH';

/** The machine's id of the container's process 1, once it has one. */
function processOne(plan: ContainerPlan): number | undefined {
  try {
    const pid = Number(readFileSync(join(plan.dir, 'pid'), 'utf8'));
    return Number.isInteger(pid) && pid > 1 ? pid : undefined;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return undefined;
    throw error;
  }
}

export interface RunningContainer {
  /** Resolves with the exit code when the container has ended and its cgroup is gone. */
  readonly exited: Promise<number>;
  /** SIGTERM, and SIGKILL for all that is left after `graceMs`. */
  stop(graceMs: number): void;
}

/** True once the script has said that all is in place, false if it ends without. */
async function readStarted(pipe: unknown): Promise<boolean> {
  invariant(pipe instanceof Readable, 'descriptor 3 of the child is a pipe');
  // Not until the end: `unshare`, which waits for the container, keeps the descriptor open.
  for await (const chunk of pipe) if (String(chunk).includes(STARTED)) return true;
  return false;
}

export async function startContainer(home: ContainerHome, plan: ContainerPlan): Promise<RunningContainer> {
  await removeCgroup(home.cgroup);
  await makeCgroup(home.cgroup);
  mkdirSync(plan.dir, { recursive: true, mode: 0o700 });
  mkdirSync(dirname(home.logFile), { recursive: true, mode: 0o700 });
  rmSync(join(plan.dir, 'pid'), { force: true });
  const script = join(plan.dir, 'start.sh');
  writeFileSync(script, containerScript(plan, home), { mode: 0o600 });
  const argv = inCgroup(
    home.cgroup,
    inNetns(home.netns, [
      'unshare',
      ...NAMESPACES,
      '--propagation=private',
      '--fork',
      '--kill-child',
      'sh',
      script,
    ]),
  );
  const log = openSync(home.logFile, 'a', 0o600);
  const [program = '', ...args] = argv;
  const child = spawn(program, args, { stdio: ['ignore', log, log, 'pipe'], detached: true, cwd: '/' });
  closeSync(log);
  let killTimer: NodeJS.Timeout | undefined;
  const ended = new Promise<number>((resolve, reject) => {
    child.on('error', (error) =>
      reject(new MeshError('MESH_COMMAND_FAILED', `container cannot be started: ${errorMessage(error)}`)),
    );
    child.on('exit', (code, signal) => resolve(exitCodeOf(code, signal)));
  });
  const cleanUp = async (): Promise<number> => {
    try {
      return await ended;
    } finally {
      clearTimeout(killTimer);
      await removeCgroup(home.cgroup);
    }
  };
  const exited = cleanUp();
  const begun = await Promise.race([readStarted(child.stdio[3]), exited.then(() => false)]);
  if (!begun) {
    const code = await exited;
    throw new MeshError(
      'MESH_COMMAND_FAILED',
      `the container could not be set up (code ${code}); see its log`,
    );
  }
  const killAll = (): void => {
    writeFileSync(join(home.cgroup, 'cgroup.kill'), '1');
  };
  return {
    exited,
    stop(graceMs) {
      if (killTimer !== undefined || child.exitCode !== null || child.signalCode !== null) return;
      const pid = processOne(plan);
      if (pid === undefined || graceMs === 0) return killAll();
      killTimer = setTimeout(killAll, graceMs);
      try {
        process.kill(pid, 'SIGTERM');
      } catch (error) {
        if (errnoName(error) !== NO_SUCH_PROCESS) throw error;
      }
    },
  };
}

/** The command line that runs `argv` inside a running container, with the container's user and limits. */
export function execArgv(home: ContainerHome, plan: ContainerPlan, argv: readonly string[]): string[] {
  const pid = processOne(plan);
  if (pid === undefined) {
    throw new MeshError('MESH_NOT_FOUND', `the container is not running`, { retryable: true });
  }
  const enter = [
    'nsenter',
    `--target=${pid}`,
    '--net',
    ...NAMESPACES,
    '--',
    'sh',
    '-c',
    enterCommand(plan, argv),
  ];
  return inCgroup(home.cgroup, ['sh', '-c', `exec ${enter.map(quote).join(' ')}`]);
}
