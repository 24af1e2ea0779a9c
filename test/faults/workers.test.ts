// SPDX-License-Identifier: Apache-2.0
// A proxy worker throws, fills its heap, spins: a successor takes its listeners. Nothing is refused, the other workers
// and the agent do not notice, and counters go on.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { scrape, total } from '../e2e/scrape.ts';
import {
  assertLostOnly,
  CounterWatch,
  harm,
  patientAgents,
  RATE,
  scene,
  servedAgain,
  SLOWEST_MS,
  startLoads,
  stopAll,
} from './agent-faults.ts';
import { summary } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const PRELOAD = fileURLToPath(new URL('programs/worker-fault.ts', import.meta.url));
const WORKERS = 2;

let mesh: LocalMesh;
let folder = '';
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'nodemesh-faults-'));
  mesh = await startMesh({
    name: 'a-workers',
    agentEnv: {
      ...patientAgents,
      NODE_OPTIONS: `--import ${PRELOAD}`,
      NODEMESH_TEST_FAULTS: folder,
      NODEMESH_WORKERS: String(WORKERS),
    },
    objects: scene(),
  });
  await mesh.waitReady();
});
after(async () => {
  await mesh?.down();
  rmSync(folder, { recursive: true });
});

const replaced = async (reason: string): Promise<number> =>
  total(await scrape(mesh, 'node1'), 'nodemesh_worker_replaced_total', { reason });

/** A crash is noticed at once, silence after 2 s; a heap takes its time to fill, and may be silent before it is full. */
const faults = [
  { name: 'throw', silent: [0] },
  { name: 'heap', silent: [0, 1] },
  { name: 'spin', silent: [1] },
];

for (const { name, silent } of faults) {
  it(`${name}, ${scale.kills} times: nothing is refused, only what the worker held is lost`, async (t) => {
    const agent = await mesh.node('node1').agentPid();
    const counters = new CounterWatch();
    const loads = await startLoads(mesh, ['near', 'far']);
    await sleep(500);
    for (let round = 0; round < scale.kills; round++) {
      counters.look(await scrape(mesh, 'node1'));
      const [exited, fellSilent] = [await replaced('exited'), await replaced('silent')];
      await harm(loads, async () => {
        writeFileSync(join(folder, `node1-${name}-${round % WORKERS}`), '');
        await until(`a worker is replaced (${name})`, 60_000, async () =>
          (await replaced('exited')) > exited ? true : undefined,
        );
      });
      counters.look(await scrape(mesh, 'node1'));
      await until('the successor serves', 30_000, async () => {
        const series = await scrape(mesh, 'node1');
        counters.look(series);
        return total(series, 'nodemesh_workers_serving', {}) === WORKERS ? true : undefined;
      });
      await servedAgain(mesh);
      counters.look(await scrape(mesh, 'node1'));
      assert.equal(await replaced('exited'), exited + 1, 'one worker ended, once');
      const silences = (await replaced('silent')) - fellSilent;
      assert.ok(silent.includes(silences), `${silences} were silent`);
    }
    const reports = await stopAll(loads);
    t.diagnostic(`${name}, ${scale.kills} times: ${summary(reports)}`);
    // One of two workers is hurt about half of the time, and loses what it was asked.
    for (const report of reports) assertLostOnly(report, { minRate: RATE / 2, slowestMs: SLOWEST_MS });
    assert.equal(await mesh.node('node1').agentPid(), agent, 'the agent lives');
    counters.assertLives(1);
  });
}
