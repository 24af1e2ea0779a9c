// SPDX-License-Identifier: Apache-2.0
// Keeps a program running in its cgroup and namespace: starts it again when it ends, with a growing pause, and
// writes what it says to a log file. Containers have their own rules (container-worker.ts).

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { errnoName } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { inCgroup, inNetns } from './command.ts';

const PAUSE_FIRST_MS = 100;
const PAUSE_MAX_MS = 5000;
const STEADY_MS = 10_000;

export interface Program {
  readonly name: string;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly netns: string;
  readonly cgroup: string;
  readonly logFile: string;
  /** `argv` begins with agent-parent, which starts the program itself again: the program is its child. */
  readonly hasParent?: boolean;
}

const lastLine = (file: string): string =>
  existsSync(file) ? (readFileSync(file, 'utf8').trimEnd().split('\n').at(-1) ?? '').slice(0, 500) : '';

function readProc(path: string): string {
  try {
    return readFileSync(`/proc/${path}`, 'utf8');
  } catch (error) {
    if (errnoName(error) === 'ENOENT' || errnoName(error) === 'ESRCH') return '';
    throw error;
  }
}

function childOf(pid: number): number | undefined {
  const [child] = readProc(`${pid}/task/${pid}/children`).split(' ').filter(Boolean);
  return child === undefined ? undefined : Number(child);
}

/** agent-parent is named after it. */
const startsByParent = (pid: number): number =>
  Number(/^parent:(\d+)$/m.exec(readProc(`${pid}/comm`))?.[1] ?? 1);

function catchesHangup(pid: number): boolean {
  const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readProc(`${pid}/status`))?.[1] ?? '0';
  return (BigInt(`0x${caught}`) & 1n) === 1n;
}

export class SupervisedProgram {
  readonly #program: Program;
  readonly #clock: Clock;
  readonly #log: Log;
  #child: ChildProcess | undefined;
  #restart: Timer | undefined;
  #stopped = false;
  #pauseMs = PAUSE_FIRST_MS;
  #starts = 0;
  readonly #gone = Promise.withResolvers<void>();

  constructor(program: Program, clock: Clock, log: Log) {
    this.#program = program;
    this.#clock = clock;
    this.#log = log;
    this.#start();
  }

  /** The program itself. */
  get pid(): number | undefined {
    const pid = this.#child?.pid;
    return pid === undefined || this.#program.hasParent !== true ? pid : childOf(pid);
  }

  /** What the daemon has started: the program, or its parent. */
  get startedPid(): number | undefined {
    return this.#child?.pid;
  }

  /** How often the program was started. */
  get starts(): number {
    const pid = this.#child?.pid;
    if (this.#program.hasParent !== true || pid === undefined) return this.#starts;
    return this.#starts - 1 + startsByParent(pid);
  }

  /** Ends it for good: no more restarts. Resolves when it is gone. */
  retire(signal: NodeJS.Signals): Promise<void> {
    this.abandon();
    if (this.#child === undefined) this.#gone.resolve();
    else this.#child.kill(signal);
    return this.#gone.promise;
  }

  /** SIGHUP, unless the program does not listen for it yet: it would end it, and it has read nothing so far. */
  reload(): void {
    const pid = this.#child?.pid;
    if (pid !== undefined && catchesHangup(pid)) this.#child?.kill('SIGHUP');
  }

  /** No more restarts. The process itself goes with its cgroup. */
  abandon(): void {
    this.#stopped = true;
    this.#restart?.cancel();
  }

  #start(): void {
    const { argv, env, netns, cgroup, logFile, name } = this.#program;
    mkdirSync(dirname(logFile), { recursive: true, mode: 0o700 });
    const log = openSync(logFile, 'a', 0o600);
    const [program = '', ...args] = inCgroup(cgroup, inNetns(netns, argv));
    const child = spawn(program, args, { stdio: ['ignore', log, log], env, detached: true, cwd: '/' });
    closeSync(log);
    this.#child = child;
    this.#starts++;
    const begun = this.#clock.nowMs();
    let over = false;
    const ended = (how: string): void => {
      if (over) return;
      over = true;
      this.#child = undefined;
      if (this.#stopped) return this.#gone.resolve();
      const said = lastLine(logFile);
      this.#log.warn({ program: name, how, said, logFile }, 'a program ended; starting it again');
      if (this.#clock.nowMs() - begun > STEADY_MS) this.#pauseMs = PAUSE_FIRST_MS;
      this.#restart = this.#clock.after(this.#pauseMs, () => this.#start());
      this.#pauseMs = Math.min(PAUSE_MAX_MS, this.#pauseMs * 2);
    };
    child.on('error', (error) => ended(error.message));
    child.on('exit', (code, signal) => ended(signal ?? `exit code ${code}`));
  }
}
