// SPDX-License-Identifier: Apache-2.0
// Loaded into an agent before anything else (NODE_OPTIONS=--import): a proxy worker looks for a file and does to itself
// what the file is named after. Only for tests; nothing of the agent knows of it.
//   NODEMESH_TEST_FAULTS = folder; node1-throw-0, node2-spin-1, … = node, fault and worker

import { existsSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { isMainThread, workerData } from 'node:worker_threads';

const LOOK_MS = 50;

const faults = {
  throw(): void {
    throw new Error('a fault of the test');
  },
  heap(): void {
    const kept: object[][] = [];
    for (;;) kept.push(Array.from({ length: 100_000 }, () => ({})));
  },
  spin(): void {
    for (;;);
  },
};

const folder = process.env['NODEMESH_TEST_FAULTS'];
const node = process.env['NODEMESH_NODE_NAME'];
const worker = (workerData as { readonly workerIndex?: number } | null)?.workerIndex;
if (!isMainThread && folder !== undefined && worker !== undefined) {
  setInterval(() => {
    for (const [name, run] of Object.entries(faults)) {
      const file = join(folder, `${node}-${name}-${worker}`);
      if (!existsSync(file)) continue;
      unlinkSync(file);
      run();
    }
  }, LOOK_MS).unref();
}
