// SPDX-License-Identifier: Apache-2.0
// Runs a program to its end and returns its output; a failure carries what the program said. Long-lived children
// are supervise.ts.

import { spawn } from 'node:child_process';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { netnsPath } from './layout.ts';

const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;

export interface CommandResult {
  /** Exit code; 128 + number if a signal ended the program. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly input?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly timeoutMs?: number;
}

const SIGNAL_NUMBERS: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGTERM: 15,
};

export const exitCodeOf = (code: number | null, signal: string | null): number =>
  code ?? 128 + (SIGNAL_NUMBERS[signal ?? ''] ?? 0);

/** Runs `argv` whatever its exit code; rejects only if it cannot be started or takes too long. */
export function runCommand(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const [program = '', ...args] = argv;
  return new Promise((resolve, reject) => {
    // A group of its own, so that a timeout ends what the program has started, too.
    const child = spawn(program, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
      ...(options.env === undefined ? {} : { env: options.env }),
    });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    let bytes = 0;
    const kill = (): void => {
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        child.kill('SIGKILL'); // the group is gone; the child may be too, which kill() tolerates
      }
    };
    const keep = (list: Buffer[]) => (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > OUTPUT_BYTES_MAX) {
        failure = new MeshError('MESH_LIMIT', `${program} wrote more than ${OUTPUT_BYTES_MAX} bytes`);
        kill();
      } else {
        list.push(chunk);
      }
    };
    let failure: MeshError | undefined;
    const timer =
      options.timeoutMs === undefined
        ? undefined
        : setTimeout(() => {
            failure = new MeshError('MESH_TIMEOUT', `${program} took longer than ${options.timeoutMs} ms`);
            kill();
          }, options.timeoutMs);
    child.stdout.on('data', keep(stdout));
    child.stderr.on('data', keep(stderr));
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(
        new MeshError('MESH_COMMAND_FAILED', `${program} cannot be started: ${errorMessage(error)}`, {
          cause: error,
        }),
      );
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (failure !== undefined) return reject(failure);
      resolve({
        code: exitCodeOf(code, signal),
        stdout: Buffer.concat(stdout).toString(),
        stderr: Buffer.concat(stderr).toString(),
      });
    });
    // The program may end without having read its input.
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input ?? '');
  });
}

/** Runs `argv`, which must succeed, and returns what it wrote to its standard output. */
export async function runChecked(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  const result = await runCommand(argv, options);
  if (result.code === 0) return result.stdout;
  const said = (result.stderr.trim() || result.stdout.trim()).slice(-2000);
  throw new MeshError(
    'MESH_COMMAND_FAILED',
    `"${argv.slice(0, 6).join(' ')}" failed with code ${result.code}: ${said}`,
  );
}

/** `argv` inside a network namespace that `ip netns` knows. */
export const inNetns = (netns: string, argv: readonly string[]): string[] => [
  'nsenter',
  `--net=${netnsPath(netns)}`,
  '--',
  ...argv,
];

/** `argv` in a cgroup: the shell moves itself, then becomes the program. */
export const inCgroup = (cgroup: string, argv: readonly string[]): string[] => [
  'sh',
  '-c',
  'echo 0 >"$0/cgroup.procs" && exec "$@"',
  cgroup,
  ...argv,
];
