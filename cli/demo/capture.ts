// SPDX-License-Identifier: Apache-2.0
// Records what passes between the nodes (tcpdump) and searches it. What is searched for is only said to be absent
// if something sent in the clear was found in the same recording, before and after.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoName, MeshError } from '#lib/core/errors.ts';

const POLL_MS = 200;
const CONTROL_MS = 15_000;

export interface CaptureOptions {
  /** Puts a program where the nodes' traffic passes. */
  readonly wrap: (argv: readonly string[]) => readonly string[];
  readonly device: string;
  /** Sends a text in the clear from one node to another. */
  readonly sendInClear: (text: string) => Promise<void>;
}

export class Capture {
  readonly #options: CaptureOptions;
  readonly #folder = mkdtempSync(join(tmpdir(), 'nodemesh-capture-'));
  readonly #tcpdump: ChildProcess;

  constructor(options: CaptureOptions) {
    this.#options = options;
    const command = `tcpdump --interface ${options.device} --snapshot-length=0 --packet-buffered --immediate-mode -n -Z root -w`;
    const [program = '', ...args] = options.wrap([...command.split(' '), this.#file]);
    this.#tcpdump = spawn(program, args, { stdio: 'ignore' });
    this.#tcpdump.on('error', () => undefined); // shows as a recording in which nothing is found
  }

  get #file(): string {
    return join(this.#folder, 'wire.pcap');
  }

  contains(text: string): boolean {
    try {
      return readFileSync(this.#file).includes(text);
    } catch (error) {
      if (errnoName(error) === 'ENOENT') return false;
      throw MeshError.from(error, 'MESH_COMMAND_FAILED', 'the recording between the nodes cannot be read');
    }
  }

  /** Sends `text` in the clear until the recording has it; false if that never happens. */
  async control(text: string): Promise<boolean> {
    const giveUp = performance.now() + CONTROL_MS;
    while (performance.now() < giveUp) {
      await this.#options.sendInClear(text);
      if (this.contains(text)) return true;
      await sleep(POLL_MS);
    }
    return false;
  }

  async close(): Promise<void> {
    if (
      this.#tcpdump.exitCode === null &&
      this.#tcpdump.signalCode === null &&
      this.#tcpdump.pid !== undefined
    ) {
      const ended = once(this.#tcpdump, 'exit');
      this.#tcpdump.kill('SIGTERM');
      await ended;
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
