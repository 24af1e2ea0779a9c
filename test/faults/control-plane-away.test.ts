// SPDX-License-Identifier: Apache-2.0
// Identity, then destination, are gone for a while under load: traffic goes on with what is known and stays
// encrypted, also through agents that start meanwhile; new pods wait and say why, and all comes back by itself
// without a storm.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { capture } from '../e2e/capture.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';
import { takeAway } from './away.ts';
import {
  assertOnly,
  echoServer,
  type Load,
  type LoadReport,
  rateOf,
  startLoad,
  untilServed,
} from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

/** Pauses between tries are 5 s at most, and a channel's own between connects 2.4 s; two cores that others use too. */
const BACK_MS = 30_000;
const RATE = 20;
/** Longer than an agent takes to start. */
const TIMEOUT_MS = 20_000;
/** Of the agents, jittered between a tenth of a second and this. */
const PAUSE_MAX_MS = 5_000;
/** The first pauses of an agent are short, and each node has two agents one after the other. */
const ATTEMPTS_OF_STARTS = 24;
const NO_STREAM = 'no node stream; what is known stays in force';
const SERVES = 'destination is serving';
const STREAM_BEGINS = 'node stream begins';
const { lifetimeMs, nearRenewalMs, identityAwayMs, destinationAwayMs } = scale.controlPlane;

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'b-away',
    identityEnv: { NODEMESH_LEAF_LIFETIME: `${lifetimeMs / 1000}s`, NODEMESH_CLOCK_SKEW: '1s' },
    objects: [
      namespace('mesh', meshed),
      ...['echo', 'client', 'newcomer'].map((name) => serviceAccount('mesh', name)),
      ...echoServer('mesh', 'echo', { node: 'node1', account: 'echo' }),
      pod('mesh', 'client', [], { node: 'node2', account: 'client' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

const agentLog = (node: string): string =>
  readFileSync(join(mesh.node(node).layout.logDir, 'agent.log'), 'utf8');
const nodes = ['node1', 'node2'];
const received = (node: string): number => agentLog(node).split('"certificate received"').length - 1;
const lastReceivedMs = (node: string): number => {
  const line = agentLog(node)
    .split('\n')
    .findLast((one) => one.includes('"certificate received"'));
  return Date.parse((JSON.parse(line ?? assert.fail(`${node} has no certificate`)) as { time: string }).time);
};
const timesSaid = (program: string, words: string): number =>
  readFileSync(join(mesh.layout.logDir, `${program}.log`), 'utf8').split(`"${words}"`).length - 1;
const issued = async (): Promise<number> => {
  const url = `http://${mesh.layout.controlAddress.v4}:9990/metrics`;
  const { stdout } = await mesh.control.exec(['curl', '-sS', '--max-time', '5', url]);
  return Number(/^identity_certify_total\{result="issued"\} (\d+)/m.exec(stdout)?.[1] ?? Number.NaN);
};
const isReady = async (name: string): Promise<true | undefined> => {
  const { status } = await mesh.pod(name, 'mesh');
  const ready = status?.conditions?.find(({ type }) => type === 'Ready');
  return ready?.status === 'True' ? true : undefined;
};
/** Why the pod's sandbox cannot be made, as the kubelet tells it. */
const whyNot = async (name: string): Promise<string> => JSON.stringify((await mesh.pod(name, 'mesh')).status);

/** Runs `during` under load, with everything on the wire between the nodes on tape; nothing of it is in plaintext. */
async function underLoad(during: (load: Load) => Promise<void>): Promise<LoadReport> {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-away-'));
  const tapeFile = join(folder, 'wire.pcap');
  const from = { ns: 'mesh', pod: 'client' };
  await untilServed(mesh, { from, to: 'echo', rate: RATE, timeoutMs: 30_000 });
  const tape = await capture(mesh.layout.wireNetns, 'wire0', tapeFile);
  const load = await startLoad(mesh, { from, to: 'echo', rate: RATE, streams: 2, timeoutMs: TIMEOUT_MS });
  try {
    await during(load);
  } finally {
    await tape.stop();
  }
  const report = await load.stop();
  const wire = readFileSync(tapeFile);
  rmSync(folder, { recursive: true });
  assert.ok(wire.includes('transport.l5d.io/v1'), 'the capture has seen no connection of the mesh');
  assert.ok(
    !wire.includes('x-nonce') && !wire.includes(' echo\n'),
    'application data in plaintext on the wire',
  );
  return report;
}

it('identity goes away under load', async (t) => {
  const report = await underLoad(async (load) => {
    // Of the oldest certificate in use: enrolling all pods may have taken a while.
    await sleep(Math.max(0, Math.min(...nodes.map(lastReceivedMs)) + nearRenewalMs - Date.now()));
    const identity = takeAway(mesh, 'identity/main.ts');
    load.mark('identity away');
    await sleep(identityAwayMs / 2);
    await mesh.apply(pod('mesh', 'late-1', [], { node: 'node1', account: 'newcomer' }));
    await sleep(identityAwayMs / 2);
    assert.ok(identity.kills > 0, 'identity was never there');
    await until('both agents miss it', 30_000, () =>
      nodes.every((node) => /certificate not renewed, the old one stays in use/.test(agentLog(node))),
    );
    assert.equal(await isReady('late-1'), undefined, 'a pod became ready without a certificate');
    await until('it says what it waits for', 30_000, async () =>
      /certificate|identity/i.test(await whyNot('late-1')),
    );
    const servedBefore = timesSaid('identity', 'identity is serving');
    const receivedBefore = nodes.map(received);
    await identity.end();
    load.mark('identity may come back');
    await until('identity serves', 30_000, () =>
      timesSaid('identity', 'identity is serving') > servedBefore ? true : undefined,
    );
    load.mark('identity serves');
    await until('the agents have certificates', BACK_MS, () =>
      nodes.every((node, index) => received(node) > (receivedBefore[index] ?? 0)) ? true : undefined,
    );
    await until('the new pod is ready', 60_000, () => isReady('late-1'));
    load.mark('identity is back');
    // Agents, destination and three pods' accounts: each at most twice since identity is back.
    const calls = await issued();
    assert.ok(calls >= 1 && calls <= 12, `${calls} certificates since identity is back`);
  });
  assertOnly(report, { minRate: RATE - 5, gapMaxMs: 2000 });
  t.diagnostic(`away for ${identityAwayMs / 1000} s: ${describe(report)}`);
});

it('destination goes away under load, and agents start meanwhile', async (t) => {
  let pauses: number[] = [];
  const report = await underLoad(async (load) => {
    const before = nodes.map((node) => agentLog(node).length);
    const since = (node: string, index: number): string => agentLog(node).slice(before[index]);
    const destination = takeAway(mesh, 'destination/main.ts');
    load.mark('destination away');
    await until('both agents miss it', 20_000, () =>
      nodes.every((node, index) => since(node, index).includes(NO_STREAM)) ? true : undefined,
    );
    const awayMs = Date.now();
    for (const node of nodes) {
      await mesh.node(node).restartAgent({ kill: true });
      load.mark(`a new agent serves on ${node}`);
    }
    await mesh.apply(pod('mesh', 'late-2', [], { node: 'node1', account: 'newcomer' }));
    await until('the new pod waits', 30_000, async () =>
      (await whyNot('late-2')).includes('destination has not named it yet') ? true : undefined,
    );
    await sleep(Math.max(0, awayMs + destinationAwayMs - Date.now()));
    assert.ok(destination.kills > 0, 'destination was never there');
    assert.equal(await isReady('late-2'), undefined, 'a pod started without word from destination');
    for (const [index, node] of nodes.entries()) {
      assert.match(since(node, index), /serving from what an earlier agent knew/);
    }
    // Nobody hammers at the door, and no two agents knock in step.
    const seconds = (Date.now() - awayMs) / 1000;
    pauses = nodes.flatMap((node, index) =>
      [...since(node, index).matchAll(/"retryInMs":(\d+),"msg":"no node stream/g)].map((match) =>
        Number(match[1]),
      ),
    );
    assert.ok(
      pauses.length <= nodes.length * (ATTEMPTS_OF_STARTS + seconds),
      `${pauses.length} attempts in ${seconds} s`,
    );
    assert.ok(Math.max(...pauses) <= PAUSE_MAX_MS, `a pause of ${Math.max(...pauses)} ms`);
    assert.ok(new Set(pauses).size > pauses.length / 2, `pauses without jitter: ${pauses.join(' ')}`);

    const [servedBefore, streamsBefore] = [
      timesSaid('destination', SERVES),
      timesSaid('destination', STREAM_BEGINS),
    ];
    await destination.end();
    load.mark('destination may come back');
    await until('destination serves', 60_000, () =>
      timesSaid('destination', SERVES) > servedBefore ? true : undefined,
    );
    load.mark('destination serves');
    await until('both agents are back', BACK_MS, () =>
      timesSaid('destination', STREAM_BEGINS) >= streamsBefore + nodes.length ? true : undefined,
    );
    load.mark('both agents are back');
    await until('the new pod is ready', 60_000, () => isReady('late-2'));
    await untilServed(mesh, {
      from: { ns: 'mesh', pod: 'client' },
      to: 'echo',
      rate: RATE,
      timeoutMs: 30_000,
    });
    assert.equal(
      timesSaid('destination', STREAM_BEGINS),
      streamsBefore + nodes.length,
      'streams came and went',
    );
  });
  // What the killed agents held ends: towards their own pods as a reset or an end, and of what the client's agent had
  // on its way to the server's as a 502. Nothing else fails.
  assertOnly(report, {
    allow: [
      { kind: 'reset-kept-before' },
      { kind: 'reset-kept-amid' },
      { kind: 'reset-new' },
      { kind: 'eof' },
      { kind: 'bad-status', atMost: RATE },
    ],
    minRate: RATE / 2,
    gapMaxMs: TIMEOUT_MS,
  });
  t.diagnostic(`away for ${destinationAwayMs / 1000} s, ${pauses.length} attempts: ${describe(report)}`);
});

const describe = (report: LoadReport): string =>
  `${rateOf(report).toFixed(0)} requests/s, ${report.failed} failed, ${report.gapMaxMs.toFixed(0)} ms at most without an answer; ` +
  report.marks
    .map(({ name, atMs }) => `${((atMs - report.startedMs) / 1000).toFixed(1)} s ${name}`)
    .join(', ');
