// SPDX-License-Identifier: Apache-2.0
// Between two pods of one node everything is as between nodes: the same scenarios, played over a carrier and in memory.
// A process has one private network in its life, and its tests one way, so each file runs as a program.

import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

/** Where one way may be unlike the other. */
const files = [
  'authorization',
  'endings',
  'errors',
  'http2',
  'identity',
  'route-telemetry',
  'transparency',
] as const;
/** Where what stands in the place of a connection may make a difference. */
const slowFiles = ['balancing', 'retries', 'shutdown', 'telemetry', 'timeouts'] as const;

for (const way of ['carrier', 'memory'] as const) {
  describe(`on one node: ${way}`, { concurrency: 2 }, () => {
    for (const file of way === 'memory' ? [...files, ...slowFiles] : files) {
      test(file, { timeout: 500_000 }, async () => {
        const { NODE_TEST_CONTEXT: _ours, ...environment } = process.env;
        const program = fileURLToPath(new URL(`${file}.test.ts`, import.meta.url));
        const child = spawn(process.execPath, ['--test-reporter=tap', program], {
          env: { ...environment, NODEMESH_TEST_SAME_NODE: way },
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        let said = '';
        child.stdout.on('data', (chunk: Buffer) => {
          said += chunk.toString();
        });
        const [status] = (await once(child, 'close')) as [number | null];
        assert.equal(status, 0, said);
        assert.match(said, /^# pass [1-9]/m);
      });
    }
  });
}
