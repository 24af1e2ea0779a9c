// SPDX-License-Identifier: Apache-2.0
// Asks a node's prober process (prober-main.ts) for HTTP and TCP probes; starts it when first needed.

import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { inCgroup, inNetns } from './command.ts';

export interface ProbeRequest {
  readonly id: number;
  readonly kind: 'http' | 'tcp';
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
  readonly scheme?: 'HTTP' | 'HTTPS';
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface ProbeAnswer {
  readonly id: number;
  /** Absent: the probe succeeded. */
  readonly problem?: string;
}

export interface Prober {
  /** What is wrong, or undefined. */
  probe(request: Omit<ProbeRequest, 'id'>): Promise<string | undefined>;
  close(): void;
}

export function createProber(netns: string, cgroup: string): Prober {
  const waiting = new Map<number, (problem: string | undefined) => void>();
  let child: ChildProcess | undefined;
  let lastId = 0;

  const start = (): ChildProcess => {
    const [program = '', ...args] = inCgroup(
      cgroup,
      inNetns(netns, [process.execPath, join(import.meta.dirname, 'prober-main.ts')]),
    );
    const started = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], detached: true });
    started.on('message', (answer: ProbeAnswer) => {
      waiting.get(answer.id)?.(answer.problem);
      waiting.delete(answer.id);
    });
    const lost = (): void => {
      if (child === started) child = undefined;
      for (const settle of waiting.values()) settle('the prober ended');
      waiting.clear();
    };
    started.on('exit', lost);
    started.on('error', lost);
    return started;
  };

  return {
    probe(request) {
      child ??= start();
      const id = ++lastId;
      const asked = child;
      return new Promise((resolve) => {
        waiting.set(id, resolve);
        asked.send({ ...request, id }, (error) => {
          if (error === null) return;
          waiting.delete(id);
          resolve(error.message);
        });
      });
    },
    close() {
      child?.disconnect();
      child = undefined;
    },
  };
}
