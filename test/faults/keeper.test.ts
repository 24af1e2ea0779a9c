// SPDX-License-Identifier: Apache-2.0
// Keeper and agent die together: connections are refused until the next agent is there. The agent is gone for good:
// connections are refused within the keeper's limit, and none gets past policy.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { keeperConnected, scene, startLoads, stopAll } from './agent-faults.ts';
import { echoServer, HTTP_PORT, summary } from './load.ts';
import { patientClock, until } from './until.ts';

const LIMIT_MS = 8_000;
/** Of the machine, which may be busy. */
const SLACK_MS = 4_000;
const HANGS_SECONDS = 30;

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'a-keeper',
    keeperLimitMs: LIMIT_MS,
    objects: scene(
      ...echoServer('mesh', 'strict', {
        node: 'node1',
        annotations: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
      }),
    ),
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

it('keeper and agent together: refused until the next agent has made new listeners, then served', async (t) => {
  const node = mesh.node('node1');
  const loads = await startLoads(mesh, ['far']);
  const begunMs = Date.now();
  await Promise.all([node.killKeeper(), node.restartAgent({ kill: true })]);
  await keeperConnected(mesh);
  const servedMs = Date.now();
  await sleep(1_500);
  const reports = await stopAll(loads);
  t.diagnostic(`kill -9 of keeper and agent: ${summary(reports)}`);
  for (const { failures } of reports) {
    assert.ok(failures.length > 0, 'the listeners were gone');
    // Whom the server's node refuses is told 502 to 504 by the own agent, or reset.
    assert.deepEqual(
      failures.filter(
        ({ kind, dueMs, atMs }) => kind === 'timeout' || atMs < begunMs || dueMs > servedMs + SLACK_MS,
      ),
      [],
    );
  }
});

interface Attempt {
  readonly from: string;
  /** curl's: 7 refused, 28 too late, 52 and 56 cut off. */
  readonly code: number;
  readonly status: string;
  readonly tookMs: number;
}

async function attempt(from: 'outside' | 'near' | 'far', to: string): Promise<Attempt> {
  const { podIP = '' } = (await mesh.pod(to, 'mesh')).status ?? {};
  const argv = [
    'curl',
    '-s',
    '-o',
    '/dev/null',
    '-w',
    '%{http_code}',
    '--max-time',
    String(HANGS_SECONDS),
    `http://${podIP}:${HTTP_PORT}/`,
  ];
  const begunMs = patientClock.nowMs();
  const { code, stdout } =
    from === 'outside' ? await mesh.node('node2').exec(argv) : await mesh.exec(from, argv, { ns: 'mesh' });
  return { from, code, status: stdout, tookMs: patientClock.nowMs() - begunMs };
}

it('an agent that is gone for good: refused within the limit, none hangs, none reaches the application', async (t) => {
  const node = mesh.node('node1');
  assert.equal((await attempt('outside', 'echo')).status, '200');
  assert.equal((await attempt('outside', 'strict')).status, '403', 'policy holds before');
  assert.equal((await attempt('far', 'strict')).status, '200');
  await node.stopAgent();
  const goneMs = patientClock.nowMs();

  // Those that come before the limit wait, and are cut off by it. `near` is of the node itself.
  const waiting = await Promise.all([
    attempt('outside', 'echo'),
    attempt('outside', 'strict'),
    attempt('near', 'strict'),
    attempt('far', 'strict'),
  ]);
  for (const { from, status, tookMs } of waiting) {
    assert.ok(!['200', '403'].includes(status), `${from} was answered ${status} by whom?`);
    assert.ok(tookMs < LIMIT_MS + SLACK_MS, `${from} waited ${tookMs} ms`);
  }
  await until('the limit is over', LIMIT_MS + SLACK_MS, async () =>
    (await attempt('outside', 'echo')).code === 7 ? true : undefined,
  );
  const refusedMs = patientClock.nowMs() - goneMs;

  let slowestMs = 0;
  for (let turn = 0; turn < 5; turn++) {
    for (const refused of [
      await attempt('outside', 'echo'),
      await attempt('outside', 'strict'),
      await attempt('near', 'echo'),
    ]) {
      assert.equal(refused.code, 7, JSON.stringify(refused));
      slowestMs = Math.max(slowestMs, refused.tookMs);
    }
    // Its own agent, on the other node, says so.
    const far = await attempt('far', 'strict');
    assert.match(far.status, /^50[234]$/, JSON.stringify(far));
    slowestMs = Math.max(slowestMs, far.tookMs);
  }
  assert.ok(slowestMs < LIMIT_MS, `one waited ${slowestMs} ms to be refused`);
  t.diagnostic(
    `agent gone for good, limit ${LIMIT_MS} ms: refused after ${Math.round(refusedMs)} ms, ` +
      `from then on within ${Math.round(slowestMs)} ms`,
  );

  await node.startAgent();
  await keeperConnected(mesh);
  await until('served again', 30_000, async () =>
    (await attempt('outside', 'echo')).status === '200' ? true : undefined,
  );
  await until('and under its policy', 30_000, async () =>
    (await attempt('far', 'strict')).status === '200' ? true : undefined,
  );
  assert.equal((await attempt('outside', 'strict')).status, '403');
});
