// SPDX-License-Identifier: Apache-2.0
// For tests of the keeper: starts the real one, gives it listeners of a network namespace of their own, and agents that
// can be killed (programs/owner.ts). Everything goes with `close`.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connectKeeper, type KeeperClient } from '#lib/keeper/client.ts';
import { checked, close, getsockname, stableBytes } from '#lib/net/native.ts';
import { closeNamespace, openNamespace } from '#lib/net/netns.ts';
import { openListener, openSockets } from '#lib/net/sockets.ts';

export const KEEPER = fileURLToPath(new URL('../../build/keeper', import.meta.url));
export const PARENT = fileURLToPath(new URL('../../build/agent-parent', import.meta.url));
const OWNER = fileURLToPath(new URL('programs/owner.ts', import.meta.url));
const PATIENCE_MS = 30_000;
const POLL_MS = 10;

/** Waits until `look` answers something. */
export async function eventually<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
    await sleep(POLL_MS);
  }
}

export const openDescriptors = (pid: number | 'self' = 'self'): number =>
  readdirSync(`/proc/${pid}/fd`).length;

export interface KeeperOptions {
  readonly limitMs?: number;
  readonly uid?: number;
  /** What stands before the keeper's own command line. */
  readonly prefix?: readonly string[];
}

export interface LogLine {
  readonly level: string;
  readonly msg: string;
  readonly [field: string]: unknown;
}

export class KeeperProcess {
  readonly child: ChildProcess;
  readonly log: LogLine[] = [];
  readonly #exit: Promise<unknown>;

  constructor(socketPath: string, { limitMs = 30_000, uid, prefix = [] }: KeeperOptions) {
    const [program = '', ...args] = [
      ...prefix,
      KEEPER,
      '--socket',
      socketPath,
      '--limit-ms',
      String(limitMs),
      ...(uid === undefined ? [] : ['--uid', String(uid)]),
    ];
    this.child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#exit = once(this.child, 'exit');
    let rest = '';
    this.child.stderr?.on('data', (chunk) => {
      const lines = (rest + String(chunk)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.log.push(JSON.parse(line) as LogLine);
    });
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  said(message: string): LogLine | undefined {
    return this.log.find(({ msg }) => msg.includes(message));
  }

  /** The exit code, or null after a signal. */
  async ended(): Promise<number | null> {
    await this.#exit;
    return this.child.exitCode;
  }

  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal);
    await this.#exit;
  }
}

/** A folder, a network namespace, and what runs in them. */
export class KeeperScene {
  readonly dir = mkdtempSync(join(tmpdir(), 'nodemesh-keeper-'));
  readonly socketPath = join(this.dir, 'keeper.sock');
  readonly #netns: string;
  readonly #netnsFd: number;
  readonly #keepers: KeeperProcess[] = [];
  readonly #children: ChildProcess[] = [];
  readonly #clients: KeeperClient[] = [];
  readonly #descriptors: number[] = [];

  constructor(name: string) {
    this.#netns = `nm-kp-${name}-${process.pid}`;
    removeOfKilledRuns();
    execFileSync('ip', ['netns', 'add', this.#netns]);
    execFileSync('ip', ['-n', this.#netns, 'link', 'set', 'lo', 'up']);
    this.#netnsFd = openNamespace(`/run/netns/${this.#netns}`);
  }

  async keeper(options: KeeperOptions = {}): Promise<KeeperProcess> {
    const keeper = new KeeperProcess(this.socketPath, options);
    this.#keepers.push(keeper);
    await eventually(
      'the keeper runs',
      () => keeper.said('the keeper runs') ?? keeper.child.exitCode ?? undefined,
    );
    return keeper;
  }

  client(): KeeperClient {
    const client = connectKeeper(this.socketPath, { timeoutMs: 5000 });
    this.#clients.push(client);
    return client;
  }

  /** A listener in the namespace; the scene closes it unless the test did. */
  listener(): { readonly fd: number; readonly port: number } {
    const fd = openListener(this.#netnsFd, 4);
    this.#descriptors.push(fd);
    return { fd, port: portOf(fd) };
  }

  closeListener(fd: number): void {
    this.#descriptors.splice(this.#descriptors.indexOf(fd), 1);
    close(fd);
  }

  /** A connection from inside the namespace. Settles with 'connected' or the error's code. */
  dial(port: number): { readonly socket: Socket; readonly outcome: Promise<string> } {
    const [fd] = openSockets(this.#netnsFd, 4, 1);
    const socket = new Socket({ fd: fd ?? -1 });
    const outcome = new Promise<string>((resolve) => {
      socket.once('connect', () => resolve('connected'));
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    });
    socket.connect(port, '127.0.0.1');
    return { socket, outcome };
  }

  /** A process that puts a listener (the caller's is closed), holds and beats until it is killed. */
  async owner(key: string, listener: number): Promise<ChildProcess> {
    const child = spawn(process.execPath, [OWNER, this.socketPath, key], {
      stdio: ['ignore', 'pipe', 'inherit', listener],
    });
    this.#children.push(child);
    this.closeListener(listener);
    if (child.stdout === null) throw new Error('no output');
    await once(child.stdout, 'data');
    return child;
  }

  async close(): Promise<void> {
    for (const client of this.#clients) client.close();
    for (const fd of this.#descriptors) close(fd);
    for (const child of this.#children) child.kill('SIGKILL');
    for (const keeper of this.#keepers) {
      keeper.child.kill('SIGCONT');
      await keeper.end('SIGKILL');
    }
    closeNamespace(this.#netnsFd);
    execFileSync('ip', ['netns', 'del', this.#netns]);
    rmSync(this.dir, { recursive: true });
  }
}

function removeOfKilledRuns(): void {
  for (const line of execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).split('\n')) {
    const match = /^(nm-kp-(?:keeper|many|hostile|strict)-(\d+))\b/.exec(line);
    if (match?.[1] === undefined || existsSync(`/proc/${match[2]}`)) continue;
    execFileSync('ip', ['netns', 'del', match[1]]);
  }
}

export function portOf(fd: number): number {
  const address = stableBytes(28);
  const length = stableBytes(4);
  length.writeUInt32LE(28);
  checked('getsockname', getsockname(fd, address, length), 'asking for the port');
  return address.readUInt16BE(2);
}
