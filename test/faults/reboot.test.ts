// SPDX-License-Identifier: Apache-2.0
// A node loses power while destination is away: nothing of the kernel's state or of the keeper's is left, only the
// list on the disk. No process of an enrolled namespace's pod starts before the pod is meshed; all comes back by itself.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { cgroupProcesses } from '../../local/cgroups.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { podNetns } from '../../local/layout.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { capture } from '../e2e/capture.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';
import { takeAway } from './away.ts';
import { assertOnly, echoServer, rateOf, startLoad, untilServed } from './load.ts';
import type { FailureKind } from './report.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const NAME = 'b-reboot';
const RATE = 20;
const ENROLLED = ['echo', 'sleeper'];
/** An address that only the old namespaces have. */
const MARK = '127.77.77.77';
const SURE_MS = 3_000;
/** Of a request of the load. */
const TIMEOUT_MS = 5_000;
const OF_THE_OUTAGE: readonly FailureKind[] = [
  'timeout',
  'refused',
  'bad-status',
  'reset-new',
  'reset-kept-before',
  'reset-kept-amid',
];
const RECOVERED = 'both servers answer again';

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: NAME,
    objects: [
      namespace('mesh', meshed),
      namespace('plain'),
      ...['echo', 'client', 'sleeper'].map((name) => serviceAccount('mesh', name)),
      serviceAccount('plain', 'bystander'),
      ...echoServer('mesh', 'echo', { node: 'node1', account: 'echo' }),
      ...echoServer('mesh', 'echo-2', { node: 'node2', account: 'echo', labels: { app: 'echo' } }).slice(
        0,
        1,
      ),
      pod('mesh', 'sleeper', [], { node: 'node1', account: 'sleeper' }),
      pod('plain', 'bystander', [], { node: 'node1', account: 'bystander' }),
      pod('mesh', 'client', [], { node: 'node2', account: 'client' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

const addresses = (netns: string): string =>
  execFileSync('ip', ['-n', netns, 'address', 'show', 'dev', 'lo'], { encoding: 'utf8' });
const uidsOf = async (): Promise<string[]> =>
  Promise.all(ENROLLED.map(async (name) => (await mesh.pod(name, 'mesh')).metadata.uid));
const agentLog = (): string => readFileSync(join(mesh.node('node1').layout.logDir, 'agent.log'), 'utf8');
const processesOf = async (name: string): Promise<number> => {
  const { metadata } = await mesh.pod(name, 'mesh');
  return cgroupProcesses(join(mesh.node('node1').layout.podsCgroup, metadata.uid)).length;
};
const isReady = async (name: string, ns: string): Promise<true | undefined> => {
  const { status } = await mesh.pod(name, ns);
  return status.conditions.some(({ type, status: is }) => type === 'Ready' && is === 'True') || undefined;
};

/** A slow answer of the outage is forgotten by the balancer in a minute or so (peak EWMA). */
const SERVED_MS = 120_000;
const client = { ns: 'mesh', pod: 'client' };
const served = () =>
  untilServed(mesh, {
    from: client,
    to: 'echo',
    rate: RATE,
    servers: ['echo', 'echo-2'],
    timeoutMs: SERVED_MS,
  });

it('a node that reboots without destination starts no pod of an enrolled namespace before it is meshed', async (t) => {
  const { layout } = mesh.node('node1');
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-reboot-'));
  const tapeFile = join(folder, 'wire.pcap');
  const tape = await capture(mesh.layout.wireNetns, 'wire0', tapeFile);
  await served();
  const load = await startLoad(mesh, {
    from: client,
    to: 'echo',
    rate: RATE,
    streams: 2,
  });
  const reasons = new Set<string>();
  const destination = takeAway(mesh, 'destination/main.ts');
  try {
    await until('destination is away', 20_000, () => (destination.kills > 0 ? true : undefined));
    const namespaces = [layout.netns, ...ENROLLED.map((name) => podNetns(NAME, 'mesh', name))];
    for (const netns of namespaces) execFileSync('ip', ['-n', netns, 'address', 'add', MARK, 'dev', 'lo']);
    mkdirSync(join(layout.bpffs, 'mark'));
    const pids = [await mesh.node('node1').agentPid(), await mesh.node('node1').keeperPid()];
    const uids = await uidsOf();
    load.mark('node1 reboots');
    await mesh.node('node1').reboot();
    load.mark('node1 has booted');
    assert.ok(!addresses(layout.netns).includes(MARK), 'the namespace of the node is the old one');
    assert.ok(!existsSync(join(layout.bpffs, 'mark')), 'the pins are the old ones');
    const here = cgroupProcesses(layout.cgroup);
    assert.ok(!pids.some((pid) => here.includes(pid)), 'a process outlived the reboot');

    const begunMs = performance.now();
    const logged = agentLog().length;
    await until('the pod outside the mesh runs', 60_000, () => isReady('bystander', 'plain'));
    // The agent is there and asked, and for some seconds more.
    await until('the agent refuses', 150_000, async () => {
      for (const name of ENROLLED) {
        assert.equal(await processesOf(name), 0, `${name} runs before it is meshed`);
        const { status } = await mesh.pod(name, 'mesh');
        if (status.message !== undefined) reasons.add(status.message);
      }
      return /destination has not named it yet/.test([...reasons].join('\n')) &&
        performance.now() - begunMs > SURE_MS + (scale.soak ? 60_000 : 0)
        ? true
        : undefined;
    });
    await destination.end();
    load.mark('destination may come back');
    for (const name of ENROLLED) await until(`${name} is ready`, 60_000, () => isReady(name, 'mesh'));
    load.mark('all pods are ready');
    // The keeper was gone too: nothing was known but the list.
    assert.doesNotMatch(agentLog().slice(logged), /serving from what an earlier agent knew/);
    assert.deepEqual(await uidsOf(), uids, 'the pods are others');
    for (const netns of namespaces) assert.ok(!addresses(netns).includes(MARK), `${netns} is the old one`);
    await served();
    load.mark(RECOVERED);
    await sleep(TIMEOUT_MS + SURE_MS);
  } finally {
    await destination.end();
    await tape.stop();
  }
  const report = await load.stop();
  // What was under way to the node when it went down fails, and now and then what tries it while nobody says that it is
  // gone; nothing else, and nothing any more once all is back.
  assertOnly(report, {
    allow: OF_THE_OUTAGE.map((kind) => ({ kind, atMost: report.succeeded / 10 })),
    minRate: RATE / 2,
    gapMaxMs: 5_000,
  });
  const recoveredMs = report.marks.find(({ name }) => name === RECOVERED)?.atMs ?? 0;
  assert.deepEqual(
    report.failures.filter(({ atMs, dueMs }) => dueMs > recoveredMs && atMs > recoveredMs + TIMEOUT_MS),
    [],
  );
  const wire = readFileSync(tapeFile);
  rmSync(folder, { recursive: true });
  assert.ok(wire.includes('transport.l5d.io/v1'), 'the capture has seen no connection of the mesh');
  const inPlain = ['x-nonce', ' echo\n', ' echo-2\n'].filter((text) => wire.includes(text));
  assert.deepEqual(inPlain, [], 'application data in plaintext on the wire');
  const backMs = recoveredMs - report.startedMs;
  t.diagnostic(
    `${rateOf(report).toFixed(0)} requests/s, ${report.failed} failed; whole again ${(backMs / 1000).toFixed(0)} s after the load began; waiting pods said: ${[...reasons].join(' | ')}`,
  );
});
