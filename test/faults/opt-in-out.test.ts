// SPDX-License-Identifier: Apache-2.0
// Opting a namespace in and out, again and again, under load: nobody notices, and state and Events tell what happened.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { enrolmentStatus, eventCount, untilReason } from '../e2e/enrolment-status.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { scrape, total } from '../e2e/scrape.ts';
import { assertOnly, echoServer, type Load, startLoad } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const CYCLES = scale.optInOut.cycles;
/** The pods that go in and out: a server on each node and a client. */
const MOVING = ['near', 'far', 'caller'];
const RATE = 25;

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'li-inout',
    agentEnv: { NODEMESH_LEAVE_GRACE: '1s', NODEMESH_LEAVE_LIMIT: '10m' },
    objects: [
      namespace('moving'),
      namespace('steady', meshed),
      namespace('plain'),
      ...echoServer('moving', 'near', { node: 'node1' }),
      ...echoServer('moving', 'far', { node: 'node2' }),
      pod('moving', 'caller', [], { node: 'node1' }),
      ...echoServer('steady', 'echo', { node: 'node2' }),
      pod('steady', 'client', [], { node: 'node1' }),
      pod('plain', 'outsider', [], { node: 'node1' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

const opt = async (value: 'enabled' | 'disabled'): Promise<void> =>
  mesh.annotate('Namespace', '', 'moving', `linkerd.io/inject=${value}`);

const loads = async (kinds: Parameters<typeof startLoad>[1]['kinds'], streams: number): Promise<Load[]> => {
  const ways = [
    { from: { ns: 'steady', pod: 'client' }, to: 'near.moving' },
    { from: { ns: 'steady', pod: 'client' }, to: 'far.moving' },
    { from: { ns: 'plain', pod: 'outsider' }, to: 'far.moving' },
    { from: { ns: 'moving', pod: 'caller' }, to: 'echo.steady' },
    { from: { ns: 'moving', pod: 'caller' }, to: 'near.moving' },
  ];
  return Promise.all(
    ways.map((way) => startLoad(mesh, { ...way, rate: RATE, connections: 2, kinds: kinds ?? [], streams })),
  );
};

/** The server's own agent has seen the client's identity on connections over TLS. */
const provenByServer = async (): Promise<void> => {
  await until('the far server sees mTLS of the steady client', 30_000, async () => {
    const labels = {
      pod: 'far',
      direction: 'inbound',
      peer: 'src',
      tls: 'true',
      client_id: 'default.steady.serviceaccount.identity.linkerd.cluster.local',
    };
    return total(await scrape(mesh, 'node2'), 'tcp_open_total', labels) > 0 ? true : undefined;
  });
};

const dials = async (name: string): Promise<number> => {
  const ip = (await mesh.pod(name, 'moving')).status?.podIP ?? '';
  const argv = ['curl', '-s', '-o', '/dev/null', '--max-time', '5', `http://${ip}:4143/`];
  return (await mesh.exec('outsider', argv, { ns: 'plain' })).code;
};

it(`${CYCLES} times in and wholly out under load: nothing fails`, async () => {
  const running = await loads(['http-new', 'http-kept', 'tcp-new'], 0);
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    for (const load of running) load.mark(`in ${cycle}`);
    await opt('enabled');
    await untilReason(mesh, 'moving', MOVING, 'Enrolled');
    await provenByServer();
    for (const load of running) load.mark(`out ${cycle}`);
    await opt('disabled');
    await untilReason(mesh, 'moving', MOVING, 'OptedOut');
    assert.equal(await dials('far'), 7, 'nobody answers at the mesh port of a pod that left');
  }
  const reports = await Promise.all(running.map((load) => load.stop()));
  for (const report of reports) assertOnly(report, { minRate: RATE * 0.7 });
  for (const name of MOVING) {
    const status = await enrolmentStatus(mesh, name, 'moving');
    assert.equal(status.condition?.status, 'False');
    assert.equal(status.condition?.reason, 'OptedOut');
    // Each step once: no flapping, nothing told twice.
    for (const reason of ['MeshEnrolled', 'MeshLeaving', 'MeshLeft'])
      assert.equal(eventCount(status, reason), CYCLES, `${name}: ${reason}`);
    assert.equal(eventCount(status, 'MeshEnrolmentFailed'), 0);
  }
});

it('connections that never end live on: opting in again while leaving, and out before anything has ended', async () => {
  await opt('enabled');
  await untilReason(mesh, 'moving', MOVING, 'Enrolled');
  const running = await loads(['http-new', 'http-kept', 'tcp-new', 'tcp-kept'], 2);
  await provenByServer();
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    for (const load of running) load.mark(`out ${cycle}`);
    await opt('disabled');
    await untilReason(mesh, 'moving', MOVING, 'Leaving');
    // Longer than the grace time.
    await sleep(2_000);
    const status = await enrolmentStatus(mesh, 'far', 'moving');
    assert.equal(eventCount(status, 'MeshLeft'), CYCLES, 'it waits for its connections');
    for (const load of running) load.mark(`in ${cycle}`);
    await opt('enabled');
    await untilReason(mesh, 'moving', MOVING, 'Enrolled');
  }
  const reports = await Promise.all(running.map((load) => load.stop()));
  for (const report of reports) {
    assertOnly(report, { minRate: RATE * 0.7 });
    assert.ok(report.byConnection.stream > 20, JSON.stringify(report.byConnection));
  }
});
