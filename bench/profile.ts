// SPDX-License-Identifier: Apache-2.0
// Preloaded into the agents when BENCH_PROFILE names a folder: each proxy worker writes CPU profiles there, five
// seconds each, of the times when it is busy. It begins late, because the profiler's signals would disturb the
// loading of eBPF programs (the verifier gives up with EAGAIN when a signal is pending).

import { mkdirSync, writeFileSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, threadId } from 'node:worker_threads';

const START_MS = 8000;
const WINDOW_MS = 5000;
const BUSY = 0.5;

async function profile(dir: string): Promise<void> {
  mkdirSync(dir, { recursive: true });
  await sleep(START_MS, undefined, { ref: false });
  const session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  for (let window = 1; ; window++) {
    const before = performance.eventLoopUtilization();
    await session.post('Profiler.start');
    await sleep(WINDOW_MS, undefined, { ref: false });
    const { profile: result } = await session.post('Profiler.stop');
    if (performance.eventLoopUtilization(before).utilization < BUSY) continue;
    writeFileSync(join(dir, `${process.pid}-${threadId}-${window}.cpuprofile`), JSON.stringify(result));
  }
}

const dir = process.env['BENCH_PROFILE'];
if (dir !== undefined && !isMainThread) void profile(dir);
