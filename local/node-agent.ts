// SPDX-License-Identifier: Apache-2.0
// The agent of one local node through crashes, restarts and upgrades: one that is current, and earlier ones that serve
// what they still have. Each runs under build/agent-parent. Knows nothing of what agents say to each other.

import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoName, MeshError } from '#lib/core/errors.ts';
import type { SupervisedProgram } from './supervise.ts';

export const AGENT_PORT = 4191;
const POLL_MS = 50;
const READY_PATIENCE_MS = 60_000;
const TCP_LISTEN = '0A';

export interface NodeAgentOptions {
  readonly name: string;
  readonly start: (env: Readonly<Record<string, string>>) => SupervisedProgram;
  /** What keeps :4191 of the node from saying that it is ready; undefined: nothing. */
  readonly probe: () => Promise<string | undefined>;
}

/** What can be done to the agent of a node. */
export type AgentAction = 'restart' | 'kill' | 'upgrade' | 'stop' | 'start' | 'ready';

export class NodeAgent {
  readonly #options: NodeAgentOptions;
  #current: SupervisedProgram | undefined;
  readonly #earlier = new Set<SupervisedProgram>();
  #closed = false;
  /** What was asked for beside the program's own. */
  #env: Readonly<Record<string, string>> = {};

  constructor(options: NodeAgentOptions) {
    this.#options = options;
    this.#current = options.start(this.#env);
  }

  /** Its programs by name; those that an upgrade replaced and that have not ended come last. */
  *programs(): Iterable<readonly [string, SupervisedProgram]> {
    if (this.#current !== undefined) yield [this.#options.name, this.#current];
    let index = 0;
    for (const program of this.#earlier) yield [`${this.#options.name} (earlier ${++index})`, program];
  }

  async act(
    action: AgentAction,
    wait: boolean,
    env: Readonly<Record<string, string>> = {},
  ): Promise<{ readonly pid: number | undefined }> {
    this.#env = { ...this.#env, ...env };
    switch (action) {
      case 'kill':
        await this.#replaced('SIGKILL');
        break;
      case 'restart':
        await this.#replaced('SIGTERM');
        break;
      case 'upgrade':
        await this.#upgrade(wait);
        return { pid: this.#current?.pid };
      case 'stop':
        await this.#stop();
        return { pid: undefined };
      case 'start':
        this.#start();
        break;
      case 'ready':
        break;
    }
    if (wait) await this.#ready(this.#require());
    return { pid: this.#current?.pid };
  }

  /** No more restarts; the processes go with their cgroup. */
  abandon(): void {
    this.#closed = true;
    for (const [, program] of this.programs()) program.abandon();
  }

  #require(): SupervisedProgram {
    if (this.#current !== undefined) return this.#current;
    throw new MeshError('MESH_NOT_FOUND', `${this.#options.name} was stopped`, { remedy: 'start it first' });
  }

  /** The process ends by the signal; its parent, or after a SIGTERM the daemon, starts the next one. */
  async #replaced(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const program = this.#require();
    const pid = await this.#until(() => program.pid, `${this.#options.name} has no process`);
    process.kill(signal === 'SIGKILL' ? pid : (program.startedPid ?? pid), signal);
    // A drain may take as long as its setting allows.
    while (!this.#closed && (program.pid === undefined || program.pid === pid)) await delay(POLL_MS);
  }

  async #upgrade(wait: boolean): Promise<void> {
    const old = this.#require();
    const next = this.#options.start(this.#env);
    this.#current = next;
    this.#earlier.add(old);
    try {
      await this.#ready(next);
    } catch (error) {
      this.#current = old;
      this.#earlier.delete(old);
      await next.retire('SIGKILL');
      throw error;
    }
    const gone = old.retire('SIGTERM').finally(() => this.#earlier.delete(old));
    if (wait) await gone;
  }

  /** Every agent of the node, at once and for good. */
  async #stop(): Promise<void> {
    const programs = [...this.programs()];
    const pids = programs.flatMap(([, { pid }]) => (pid === undefined ? [] : [pid]));
    this.#current = undefined;
    await Promise.all(programs.map(([, program]) => program.retire('SIGKILL')));
    // Each dies with its parent, a moment later.
    await this.#until(
      () => pids.every((pid) => !existsSync(`/proc/${pid}`)) || undefined,
      `${this.#options.name} does not end`,
    );
  }

  #start(): void {
    if (this.#current !== undefined) {
      throw new MeshError('MESH_ALREADY_EXISTS', `${this.#options.name} runs`);
    }
    this.#current = this.#options.start(this.#env);
  }

  /** Waits until this very process, not an earlier one, answers at :4191 that it is ready. */
  async #ready(program: SupervisedProgram): Promise<void> {
    let problem: string | undefined;
    await this.#until(() => {
      const { pid } = program;
      return pid !== undefined && listensAt(pid, AGENT_PORT) ? pid : undefined;
    }, `${this.#options.name} does not listen at ${AGENT_PORT}`);
    await this.#until(
      async () => {
        problem = await this.#options.probe();
        return problem === undefined ? true : undefined;
      },
      () => `${this.#options.name} is not ready: ${problem}`,
    );
  }

  async #until<T>(
    look: () => T | undefined | Promise<T | undefined>,
    what: string | (() => string),
  ): Promise<T> {
    const deadline = performance.now() + READY_PATIENCE_MS;
    for (;;) {
      const found = await look();
      if (found !== undefined) return found;
      if (this.#closed || performance.now() > deadline) {
        throw new MeshError('MESH_TIMEOUT', typeof what === 'string' ? what : what(), { retryable: true });
      }
      await delay(POLL_MS);
    }
  }
}

/** Whether the process itself owns a TCP listener at the port, in its own network namespace. */
function listensAt(pid: number, port: number): boolean {
  const hexPort = port.toString(16).toUpperCase().padStart(4, '0');
  try {
    const inodes = new Set<string>();
    for (const table of ['tcp', 'tcp6']) {
      for (const line of readFileSync(`/proc/${pid}/net/${table}`, 'utf8').split('\n')) {
        const fields = line.trim().split(/\s+/);
        const isListener = fields[1]?.endsWith(`:${hexPort}`) === true && fields[3] === TCP_LISTEN;
        if (isListener && fields[9] !== undefined) inodes.add(`socket:[${fields[9]}]`);
      }
    }
    return readdirSync(`/proc/${pid}/fd`).some((fd) => inodes.has(linkOrEmpty(`/proc/${pid}/fd/${fd}`)));
  } catch (error) {
    if (errnoName(error) === 'ENOENT' || errnoName(error) === 'ESRCH') return false;
    throw error;
  }
}

function linkOrEmpty(path: string): string {
  try {
    return readlinkSync(path);
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return ''; // closed meanwhile
    throw error;
  }
}
