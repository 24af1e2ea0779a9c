// SPDX-License-Identifier: Apache-2.0
// A new agent beside the old one, as a rolling upgrade of the DaemonSet does it: no request fails, and long streams
// live as long as the old one drains.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { scrape, total } from '../e2e/scrape.ts';
import { CounterWatch, scene, startLoads, stopAll } from './agent-faults.ts';
import { assertOnly, summary, TCP_PORT } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const LONG_STREAM = fileURLToPath(new URL('programs/long-stream.ts', import.meta.url));
const DRAIN_MS = 12_000;
/** Each kept connection is asked again within 3.3 s: one that is idle for 5 s is closed, and a request could meet that. */
const RATE = 50;
const STREAM_LIMIT_MS = 150_000;
const CONNECTIONS = 200;
/** From the end of a connection until it is seen, on a machine that is busy. */
const SLACK_MS = 3_000;
/** Of the program above. */
const LINE_MS = 100;

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'a-upgrade',
    agentEnv: { NODEMESH_SHUTDOWN_GRACE: `${DRAIN_MS / 1000}s` },
    objects: scene(),
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

interface Stream {
  readonly endedMs: number;
  readonly lastMs: number;
  readonly asked: number;
  readonly answered: number;
  readonly how: string;
}

/** Resolves when the stream is being answered, to its end. */
async function longStream(from: string, name: string): Promise<{ readonly end: Promise<Stream> }> {
  const begun = `/run/long-${process.pid}-${name}.begun`;
  const argv = ['node', LONG_STREAM, 'echo', String(TCP_PORT), String(STREAM_LIMIT_MS), begun];
  const run = mesh.exec(from, argv, { ns: 'mesh', timeoutMs: STREAM_LIMIT_MS + 30_000 });
  await until('a long stream is answered', 30_000, async () =>
    (await mesh.exec(from, ['rm', begun], { ns: 'mesh' })).code === 0 ? true : undefined,
  );
  return {
    end: run.then(({ code, stdout, stderr }) => {
      assert.equal(code, 0, stderr);
      return JSON.parse(stdout) as Stream;
    }),
  };
}

/** When the old agent learned that another one holds the role: its drain runs from then. */
function replacedMs(): number {
  const text = readFileSync(join(mesh.node('node1').layout.logDir, 'agent.log'), 'utf8');
  const line = text.split('\n').findLast((one) => one.includes('another agent of this node serves now'));
  assert.ok(line !== undefined, 'the old agent was told');
  return Date.parse((JSON.parse(line) as { time: string }).time);
}

it(`200 connections and long streams, ${scale.upgrades} times: no request fails, streams live until the drain ends`, async (t) => {
  const node = mesh.node('node1');
  const counters = new CounterWatch();
  let answered = 0;
  for (let round = 0; round < scale.upgrades; round++) {
    const loads = await startLoads(mesh, ['near', 'far'], {
      rate: RATE,
      connections: CONNECTIONS / 2,
      kinds: ['http-kept', 'http-new', 'http-kept', 'tcp-new', 'http-kept'],
    });
    const streams = await Promise.all(
      ['near', 'near', 'far', 'far'].map((name, index) => longStream(name, `${round}-${index}`)),
    );
    // Each of the kept connections is in use by then.
    await sleep((CONNECTIONS / RATE) * 1_000);
    counters.look(await scrape(mesh, 'node1'));
    const old = await node.agentPid();
    await node.upgradeAgent();
    const goneMs = Date.now();
    assert.notEqual(await node.agentPid(), old);
    counters.look(await scrape(mesh, 'node1'));
    const earliestMs = replacedMs() + DRAIN_MS;
    for (const { end } of streams) {
      const { endedMs, lastMs, asked, answered, how } = await end;
      assert.notEqual(how, 'never cut');
      assert.ok(endedMs > earliestMs - SLACK_MS, `a stream was cut ${earliestMs - endedMs} ms early`);
      assert.ok(endedMs < goneMs + SLACK_MS, `a stream outlived its agent by ${endedMs - goneMs} ms`);
      // What is under way when it is cut is lost; before that every line comes back.
      assert.ok(answered > 0 && endedMs - lastMs < SLACK_MS, `no answer in its last ${endedMs - lastMs} ms`);
      assert.ok(asked - answered <= SLACK_MS / LINE_MS, `${answered} of ${asked} lines came back`);
    }
    await sleep(2_000);
    const reports = await stopAll(loads);
    t.diagnostic(`upgrade ${round + 1}: ${summary(reports)}`);
    for (const report of reports) {
      assertOnly(report, { minRate: RATE * 0.7 });
      assert.equal(report.keptMax, CONNECTIONS / 2);
      answered += report.byConnection['http-new'] + report.byConnection['http-kept'];
    }
    // Clients have their answers before the last of them is counted.
    const counted = await until('all is counted', 20_000, async () => {
      const series = await scrape(mesh, 'node1');
      counters.look(series);
      const sum = total(series, 'response_total', { direction: 'inbound', pod: 'echo' });
      return sum >= answered && sum;
    });
    assert.equal(counted, answered, 'the agents together have counted what the clients saw answered');
  }
  counters.assertLives(1, scale.upgrades + 1);
});

it('the new agent has the port, the sockets and the role; what it did not hear of itself it takes over', async () => {
  const node = mesh.node('node1');
  await node.upgradeAgent();
  const series = await scrape(mesh, 'node1');
  assert.equal(total(series, 'nodemesh_agent_holder', {}), 1);
  assert.equal(total(series, 'nodemesh_keeper_connected', {}), 1);
  assert.equal(total(series, 'nodemesh_pods', { state: 'enrolled' }), 2);
  const state = await node.exec([
    'curl',
    '-s',
    '--unix-socket',
    join(node.layout.runDir, 'agent.sock'),
    'http://x/state',
  ]);
  assert.equal((JSON.parse(state.stdout) as { role: string }).role, 'holder');
});
