// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { delaysEnv, longestDelay, readDelays } from './worker-delays.ts';

test('a worker that does something for 100 ms is seen as held up then, and not before', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-delays-test-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const { BENCH_DELAYS = '', NODE_OPTIONS = '' } = delaysEnv(dir);
  const program = `import { parentPort } from 'node:worker_threads';
    parentPort.on('message', () => {
      const fromMs = Date.now();
      while (Date.now() < fromMs + 100);
      parentPort.postMessage({ fromMs, toMs: Date.now() });
    });
    parentPort.postMessage('ready');`;
  // As a thread has it from the NODE_OPTIONS with which its process was started.
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(program)}`), {
    env: { ...process.env, BENCH_DELAYS },
    execArgv: [NODE_OPTIONS],
  });
  t.after(() => worker.terminate());
  const next = (): Promise<unknown> => new Promise((resolve) => worker.once('message', resolve));
  await next();
  const done = next();
  worker.postMessage('go');
  const { fromMs, toMs } = (await done) as { fromMs: number; toMs: number };
  const delays = await readDelays(dir, [process.pid]);
  assert.ok(longestDelay(delays, fromMs, toMs) >= 95);
  assert.equal(longestDelay([{ endMs: 200, ms: 50 }], 100, 149), 0);
  assert.equal(longestDelay([{ endMs: 200, ms: 50 }], 100, 150), 50);
  assert.equal(longestDelay([{ endMs: 200, ms: 50 }], 201, 300), 0);
});
