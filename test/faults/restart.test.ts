// SPDX-License-Identifier: Apache-2.0
// kill -9 of agent and keeper and SIGTERM of an agent under load: connections wait for the next agent, which adopts the listeners and
// serves before the control plane answers. Only what the dead one held is lost.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { scrape, total } from '../e2e/scrape.ts';
import {
  assertLostOnly,
  CounterWatch,
  keeperConnected,
  killAgent,
  patientAgents,
  RATE,
  scene,
  SLOWEST_MS,
  startLoads,
  servedAgain,
  stopAgent,
  stopAll,
} from './agent-faults.ts';
import { takeAway } from './away.ts';
import { assertOnly, summary } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const DRAIN_MS = 8_000;
/** Until a SIGTERM has arrived, and until the clients see the end of the drain. */
const SLACK_MS = 1_000;
const demands = { minRate: RATE * 0.5, slowestMs: SLOWEST_MS };

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'a-restart',
    agentEnv: { ...patientAgents, NODEMESH_SHUTDOWN_GRACE: `${DRAIN_MS / 1000}s` },
    objects: scene(),
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

it(`kill -9, ${scale.kills} times: nothing is refused, only what it held is lost, counters begin anew`, async (t) => {
  const node = mesh.node('node1');
  const counters = new CounterWatch();
  const againMs: number[] = [];
  const loads = await startLoads(mesh, ['near', 'far']);
  for (let round = 0; round < scale.kills; round++) {
    counters.look(await scrape(mesh, 'node1'));
    await killAgent(mesh, loads);
    againMs.push(await servedAgain(mesh));
    await node.agentReady();
    const series = await scrape(mesh, 'node1');
    counters.look(series);
    assert.equal(total(series, 'nodemesh_pods_adopted_total', {}), 2, 'both pods were adopted');
    await sleep(1_500);
  }
  counters.look(await scrape(mesh, 'node1'));
  const reports = await stopAll(loads);
  t.diagnostic(
    `kill -9 of the agent, ${scale.kills} times: ${summary(reports)}; served again after ${againMs.join(', ')} ms`,
  );
  for (const report of reports) assertLostOnly(report, demands);
  counters.assertLives(scale.kills + 1);
});

it('kill -9 while destination and identity are away: the next agent serves from what the last one knew', async (t) => {
  const loads = await startLoads(mesh, ['near', 'far']);
  const away = ['identity/main.ts', 'destination/main.ts'].map((program) => takeAway(mesh, program));
  try {
    await until('both are gone', 10_000, () => (away.every(({ kills }) => kills > 0) ? true : undefined));
    await killAgent(mesh, loads);
    await mesh.node('node1').agentReady();
    await sleep(2_000);
  } finally {
    for (const one of away) await one.end();
  }
  const reports = await stopAll(loads);
  t.diagnostic(`kill -9 without a control plane: ${summary(reports)}`);
  for (const report of reports) assertLostOnly(report, demands);
});

/** Losses of the keeper that the present agent has counted. */
const losses = async (): Promise<number> =>
  total(await scrape(mesh, 'node1'), 'nodemesh_keeper_failures_total', {});

it(`kill -9 of the keeper, ${scale.kills} times: no request fails, and the next agent adopts all the same`, async (t) => {
  const node = mesh.node('node1');
  const loads = await startLoads(mesh, ['near', 'far']);
  for (let round = 0; round < scale.kills; round++) {
    const before = await node.keeperPid();
    const counted = await losses();
    await node.killKeeper();
    await until('another keeper', 20_000, async () =>
      (await node.keeperPid()) === before ? undefined : true,
    );
    await until('the loss is noticed', 20_000, async () => ((await losses()) > counted ? true : undefined));
    await keeperConnected(mesh);
  }
  const reports = await stopAll(loads);
  t.diagnostic(`kill -9 of the keeper, ${scale.kills} times: ${summary(reports)}`);
  for (const report of reports) assertOnly(report, { minRate: RATE * 0.7 });

  const again = await startLoads(mesh, ['near', 'far']);
  await killAgent(mesh, again);
  await node.agentReady();
  assert.equal(total(await scrape(mesh, 'node1'), 'nodemesh_pods_adopted_total', {}), 2);
  await sleep(1_000);
  for (const report of await stopAll(again)) {
    assertLostOnly(report, demands);
  }
});

it('an agent with another number of workers, and another setting of slots, adopts every listener', async (t) => {
  const node = mesh.node('node1');
  const loads = await startLoads(mesh, ['near', 'far']);
  const kept = async (): Promise<number> => total(await scrape(mesh, 'node1'), 'nodemesh_keeper_entries', {});
  const before = await kept();
  for (const [workers, slots] of [
    ['3', '8'],
    ['1', '2'],
    ['2', '4'],
  ] as const) {
    await stopAgent(mesh, loads);
    await node.startAgent({ env: { NODEMESH_WORKERS: workers, NODEMESH_LISTENER_SLOTS: slots } });
    const series = await scrape(mesh, 'node1');
    assert.equal(total(series, 'nodemesh_workers_serving', {}), Number(workers));
    assert.equal(total(series, 'nodemesh_pods_adopted_total', {}), 2);
    assert.equal(await kept(), before, 'a pod has as many listeners as it was enrolled with');
    await servedAgain(mesh);
  }
  const reports = await stopAll(loads);
  t.diagnostic(`workers and slots changed across restarts: ${summary(reports)}`);
  for (const report of reports) assertLostOnly(report, demands);
});

it('SIGTERM without a successor: served to the end of the drain, and then by the next agent', async (t) => {
  const node = mesh.node('node1');
  const loads = await startLoads(mesh, ['near', 'far']);
  const before = await node.agentPid();
  const begunMs = Date.now();
  await node.restartAgent();
  assert.notEqual(await node.agentPid(), before);
  await sleep(2_000);
  const reports = await stopAll(loads);
  t.diagnostic(`SIGTERM: ${summary(reports)}`);
  for (const report of reports) {
    // Kept TCP connections know no way to end in order: the end of the drain cuts them, and whatever else is under way.
    assertOnly(report, {
      allow: [
        { kind: 'reset-kept-before' },
        { kind: 'reset-new' },
        { kind: 'eof' },
        { kind: 'bad-status', atMost: 5 },
      ],
      minRate: demands.minRate,
    });
    assert.deepEqual(
      report.failures.filter(({ atMs }) => atMs < begunMs + DRAIN_MS - SLACK_MS),
      [],
      'nothing is lost while it drains',
    );
  }
});
