// SPDX-License-Identifier: Apache-2.0
// Limits of a node are reached under load: unfinished handshakes, descriptors, the disk of the agent's state. Each
// time what was there goes on, what is new is refused clearly, log and metric say why, and all is well again after.

import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { after, afterEach, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { errnoName } from '#lib/core/errors.ts';
import { readEnrolledList } from '../../cni-plugin/logic/enrolled-list.ts';
import { type CommandResult, type LocalMesh, startMesh } from '../../local/harness.ts';
import { podNetns } from '../../local/layout.ts';
import { untilReason } from '../e2e/enrolment-status.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { assertOnly, echoServer, type Load, rateOf, startLoad, TCP_PORT, untilServed } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const NAME = 'b-limits';
const RATE = 20;
/** Much else runs on the machine. */
const TIMEOUT_MS = 20_000;
const INFLIGHT_MAX = 200;
const INFLIGHT_POD_MAX = INFLIGHT_MAX / 4;
const OPEN_FILES_MAX = 768;
const FLOOD = fileURLToPath(new URL('programs/flood.ts', import.meta.url));
const FLOODERS = ['flood-1', 'flood-2', 'flood-3', 'flood-4'];
const HOLD_MS = scale.soak ? 120_000 : 5_000;

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: NAME,
    agentEnv: { NODEMESH_INFLIGHT_MAX: String(INFLIGHT_MAX) },
    agentOpenFilesMax: OPEN_FILES_MAX,
    objects: [
      namespace('mesh', meshed),
      ...echoServer('mesh', 'echo', { node: 'node1' }),
      ...['client', ...FLOODERS].map((name) => pod('mesh', name, [], { node: 'node2' })),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

const agentLog = (node: string): string =>
  readFileSync(join(mesh.node(node).layout.logDir, 'agent.log'), 'utf8');
/** The sum of the series whose names and labels begin so. */
async function metric(node: string, pattern: RegExp): Promise<number> {
  const { layout } = mesh.node(node);
  const { stdout } = await mesh
    .node(node)
    .exec(['curl', '-sS', '--max-time', '5', `http://${layout.address.v4}:4191/metrics`]);
  return stdout
    .split('\n')
    .filter((line) => pattern.test(line))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}
const client = { ns: 'mesh', pod: 'client' };
const served = () => untilServed(mesh, { from: client, to: 'echo', rate: RATE, timeoutMs: 90_000 });

interface Flood {
  readonly outcome: Readonly<Record<string, number>>;
  end(): Promise<void>;
}

let floods = 0;
const ends = new Set<() => Promise<void>>();
// Also of a test that failed.
afterEach(async () => {
  for (const end of ends) await end();
});
async function flood(name: string, count: number): Promise<Flood> {
  const file = `/run/flood-${++floods}`;
  const inPod = (argv: readonly string[]): Promise<CommandResult> => mesh.exec(name, argv, { ns: 'mesh' });
  const run = inPod(['node', FLOOD, 'echo', String(TCP_PORT), String(count), file, `${file}.stop`]);
  const text = await until(`${name} has flooded`, 60_000, async () => {
    const { code, stdout } = await inPod(['cat', file]);
    return code === 0 ? stdout : undefined;
  });
  const end = async (): Promise<void> => {
    ends.delete(end);
    await inPod(['touch', `${file}.stop`]);
    await run;
  };
  ends.add(end);
  return { outcome: JSON.parse(text) as Record<string, number>, end };
}

/** Drops every first packet of a connection inside the pod, so that no handshake ends. */
function unanswered(name: string): void {
  const rules = `
    add table inet unanswered
    add chain inet unanswered in { type filter hook input priority 0; }
    add rule inet unanswered in tcp flags & (syn | ack) == syn drop`;
  const netns = podNetns(NAME, 'mesh', name);
  execFileSync('ip', ['netns', 'exec', netns, 'nft', '-f', '-'], { input: rules });
}
const answered = (name: string): void => {
  execFileSync('ip', [
    'netns',
    'exec',
    podNetns(NAME, 'mesh', name),
    'nft',
    'delete',
    'table',
    'inet',
    'unanswered',
  ]);
};

const loadEcho = async (): Promise<Load> =>
  startLoad(mesh, { from: client, to: 'echo', rate: RATE, streams: 2, timeoutMs: TIMEOUT_MS });

it('handshakes that nobody ends: the pod is refused at its share, the node at its limit, and all is well after', async (t) => {
  const full = /^nodemesh_kernel_events_total\{.*reason="inflight_full"/;
  const inflight = /^nodemesh_kernel_inflight\{/;
  const load = await loadEcho();
  for (const name of FLOODERS) unanswered(name);
  const [first, ...others] = FLOODERS;
  const held = [await flood(first ?? '', 2 * INFLIGHT_POD_MAX)];
  load.mark('one pod is at its share');
  assert.deepEqual(held[0]?.outcome, { pending: INFLIGHT_POD_MAX, ECONNREFUSED: INFLIGHT_POD_MAX });
  assert.ok((await metric('node2', full)) >= INFLIGHT_POD_MAX);
  const logged = await until(
    'the log says so',
    20_000,
    () => /\{[^\n]*connects of pods are refused: too many handshakes[^\n]*/.exec(agentLog('node2'))?.[0],
  );
  assert.match(logged, /mesh\/flood-1/, 'the pod that floods is not named');
  await sleep(HOLD_MS);
  // One pod alone takes nothing away from others.
  assertOnly(await load.stop(), { minRate: RATE / 2, gapMaxMs: TIMEOUT_MS / 2 });

  const second = await loadEcho();
  // What pends gives up after a while: on a busy machine the first may be gone before the last has come.
  const atLimit = until('the node is at its limit', 60_000, async () =>
    (await metric('node2', inflight)) >= INFLIGHT_MAX ? true : undefined,
  );
  held.push(...(await Promise.all(others.map((name) => flood(name, INFLIGHT_MAX)))));
  await atLimit;
  second.mark('the node is at its limit');
  await sleep(HOLD_MS);
  for (const one of held) await one.end();
  for (const name of FLOODERS) answered(name);
  const report = await second.stop();
  // Kept connections and streams go on; new connects are refused, none hangs.
  assertOnly(report, {
    allow: [
      { kind: 'refused', connection: 'http-new' },
      { kind: 'refused', connection: 'tcp-new' },
    ],
    minRate: RATE / 4,
  });
  assert.ok(report.failed > 0, 'nobody was refused');
  await until('nothing is in flight', 20_000, async () =>
    (await metric('node2', inflight)) < 10 ? true : undefined,
  );
  await served();
  t.diagnostic(
    `one pod at its share: 0 failed; node at its limit: ${rateOf(report).toFixed(0)} requests/s, ${report.failed} refused`,
  );
});

it('no descriptors for new connections: those that are there go on, pods start, and all is well after', async (t) => {
  const refused = /^nodemesh_connections_refused_total\{.*reason="descriptors"/;
  const pids = await Promise.all(['node1', 'node2'].map(async (node) => mesh.node(node).agentPid()));
  const load = await loadEcho();
  const held = await Promise.all(FLOODERS.map((name) => flood(name, 120)));
  load.mark('the descriptors are used up');
  await until('connections are refused', 30_000, async () =>
    (await metric('node2', refused)) > 0 ? true : undefined,
  );
  assert.equal(await metric('node2', /^process_max_fds\{/), OPEN_FILES_MAX);
  const open = await metric('node2', /^process_open_fds\{/);
  assert.ok(open > OPEN_FILES_MAX / 2 && open < OPEN_FILES_MAX, `${open} descriptors are open`);
  await until('the log says so', 20_000, () =>
    /used up its descriptors; raise its limit of open files/.test(agentLog('node2')),
  );
  await mesh.apply(pod('mesh', 'late', [], { node: 'node2' }));
  await until('a pod starts meanwhile', 60_000, async () => {
    const { status } = await mesh.pod('late', 'mesh');
    return status.conditions.some(({ type, status: is }) => type === 'Ready' && is === 'True') || undefined;
  });
  await sleep(HOLD_MS);
  for (const one of held) await one.end();
  load.mark('they are free');
  await served();
  const report = await load.stop();
  assertOnly(report, {
    allow: (['reset-new', 'eof', 'bad-status'] as const).flatMap((kind) => [
      { kind, connection: 'http-new' as const },
      { kind, connection: 'tcp-new' as const },
    ]),
    minRate: RATE / 4,
  });
  assert.ok(report.failed > 0, 'nobody was refused');
  const after = await Promise.all(['node1', 'node2'].map(async (node) => mesh.node(node).agentPid()));
  assert.deepEqual(after, pids, 'an agent broke');
  assert.doesNotMatch(agentLog('node1') + agentLog('node2'), /EMFILE/);
  t.diagnostic(
    `${open} of ${OPEN_FILES_MAX} descriptors open: ${rateOf(report).toFixed(0)} requests/s, ${report.failed} refused`,
  );
});

it('the disk of the state is full: pods go on and start, what is outstanding is written when there is space', async (t) => {
  const { stateDir } = mesh.node('node1').layout;
  const failures = /^nodemesh_state_write_failures_total\{/;
  const list = join(stateDir, 'enrolled');
  const onDisk = (): readonly string[] => {
    const found = readEnrolledList(list);
    assert.equal(found.state, 'whole');
    return found.state === 'whole' ? found.namespaces : [];
  };
  const before = readFileSync(list);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'nodemesh-full', stateDir]);
  try {
    writeFileSync(list, before, { mode: 0o600 });
    const filler = join(stateDir, 'filler');
    try {
      for (;;) writeFileSync(filler, Buffer.alloc(4096), { flag: 'a' });
    } catch (error) {
      assert.equal(errnoName(error), 'ENOSPC');
    }
    const load = await loadEcho();
    await mesh.apply(namespace('shop', meshed), pod('shop', 'till', [], { node: 'node1' }));
    await until('a write has failed', 30_000, async () =>
      (await metric('node1', failures)) > 0 ? true : undefined,
    );
    await until('the log says so', 20_000, () =>
      /a list cannot be written and is tried again; free space[^\n]*|ENOSPC/.test(agentLog('node1')),
    );
    await untilReason(mesh, 'shop', ['till'], 'Enrolled');
    assert.deepEqual(onDisk(), ['mesh'], 'the list on the disk is not what it was');
    await sleep(HOLD_MS);
    rmSync(filler);
    load.mark('there is space');
    await until('the list is written', 20_000, () => (onDisk().includes('shop') ? true : undefined));
    const count = await metric('node1', failures);
    const report = await load.stop();
    assertOnly(report, { minRate: RATE / 2, gapMaxMs: TIMEOUT_MS / 2 });
    assert.equal(await metric('node1', failures), count, 'it still fails');
    t.diagnostic(`${count} failed writes, ${rateOf(report).toFixed(0)} requests/s, 0 failed`);
  } finally {
    execFileSync('umount', [stateDir]);
  }
});
