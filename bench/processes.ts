// SPDX-License-Identifier: Apache-2.0
// What the kernel says of processes: CPU time, memory, descendants; and on which cores they may run.

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** USER_HZ: fixed at 100 on the architectures that Node.js supports. */
const TICK_US = 10_000;

interface Stat {
  readonly pid: number;
  readonly parent: number;
  readonly cpuUs: number;
}

function readStat(pid: number): Stat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined; // it has ended
  }
  // The name in parentheses may hold anything; what follows the last one is numbers (proc(5)).
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { pid, parent: Number(fields[1]), cpuUs: (Number(fields[11]) + Number(fields[12])) * TICK_US };
}

/** `roots` and everything that descends from them. */
export function withDescendants(roots: readonly number[]): number[] {
  const all = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => readStat(Number(name)))
    .filter((stat) => stat !== undefined);
  const found = new Set(roots);
  for (let before = 0; before !== found.size; ) {
    before = found.size;
    for (const stat of all) if (found.has(stat.parent)) found.add(stat.pid);
  }
  return [...found];
}

/** User and system time of all threads of these processes so far, in microseconds. */
export function cpuUsOf(pids: readonly number[]): number {
  let sum = 0;
  for (const pid of pids) {
    const stat = readStat(pid);
    if (stat === undefined) throw new Error(`process ${pid} ended while it was measured`);
    sum += stat.cpuUs;
  }
  return sum;
}

/** What all of the machine's cores did so far, in microseconds. */
export function machineCpuUs(): number {
  const [line = ''] = readFileSync('/proc/stat', 'latin1').split('\n');
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = line.split(/\s+/).slice(1).map(Number);
  return (user + nice + system + irq + softirq) * TICK_US;
}

/** Memory with what is shared divided among its users, in bytes. */
export function pssBytesOf(pids: readonly number[]): number {
  let sum = 0;
  for (const pid of pids) {
    const match = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'));
    sum += Number(match?.[1]) * 1024;
  }
  return sum;
}

/** Lets all threads of these processes run on these cores only (a list as taskset reads it). */
export function pin(pids: readonly number[], cores: string): void {
  for (const pid of pids)
    execFileSync('taskset', ['-a', '-p', '-c', cores, String(pid)], { stdio: 'ignore' });
}
