// SPDX-License-Identifier: Apache-2.0
// The wall clock of every node's agent is set an hour forwards, back, and an hour backwards, under load: nothing is
// refused, nobody is taken for dead, and certificates are renewed in time by either clock.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { assertOnly, echoServer, rateOf, startLoad } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const RATE = 20;
/** Much else runs on the machine. */
const TIMEOUT_MS = 20_000;
const HOUR_S = 3600;
/** With the skew 75 minutes: renewal is due after 50 at the earliest, by the clock as soon as an hour is jumped over. */
const LIFETIME_S = 300;
const HOLD_MS = scale.soak ? 60_000 : 4_000;
const NODES = ['node1', 'node2'];
const folder = mkdtempSync(join(tmpdir(), 'nodemesh-clock-'));
const offsetFile = join(folder, 'offset');
const library = join(folder, 'set-clock.so');

const setClock = (seconds: number): void => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(seconds));
  // In place: the agents have the file mapped.
  writeFileSync(offsetFile, bytes, { flag: 'r+' });
};

let mesh: LocalMesh;
before(async () => {
  const source = fileURLToPath(new URL('programs/set-clock.c', import.meta.url));
  execFileSync('cc', ['-shared', '-fPIC', '-O2', '-o', library, source]);
  writeFileSync(offsetFile, Buffer.alloc(8));
  mesh = await startMesh({
    name: 'b-clock',
    agentEnv: { LD_PRELOAD: library, NODEMESH_TEST_CLOCK_OFFSET: offsetFile },
    // So that what is issued by the right clock holds by one that was set back by an hour, too.
    identityEnv: { NODEMESH_LEAF_LIFETIME: `${LIFETIME_S}s`, NODEMESH_CLOCK_SKEW: `${HOUR_S + 600}s` },
    objects: [
      namespace('mesh', meshed),
      ...echoServer('mesh', 'echo', { node: 'node1' }),
      pod('mesh', 'client', [], { node: 'node2' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => {
  await mesh?.down();
  rmSync(folder, { recursive: true });
});

const agentLog = (node: string): string =>
  readFileSync(join(mesh.node(node).layout.logDir, 'agent.log'), 'utf8');
const said = (node: string, words: string): number => agentLog(node).split(words).length - 1;
/** When the agents' last lines were written, by their own clocks. */
const ownTimes = (): number[] =>
  NODES.map((node) => Date.parse(/.*"time":"([^"]+)"/s.exec(agentLog(node))?.[1] ?? ''));

it('an hour forwards, back, and an hour backwards: 0 failed requests', async (t) => {
  const programs = async () =>
    (await mesh.status()).programs.map(({ name, pid, starts }) => ({ name, pid, starts }));
  const before = await programs();
  const load = await startLoad(mesh, {
    from: { ns: 'mesh', pod: 'client' },
    to: 'echo',
    rate: RATE,
    streams: 2,
    timeoutMs: TIMEOUT_MS,
  });
  const receivedBefore = NODES.map((node) => said(node, '"certificate received"'));
  const loggedBefore = NODES.map((node) => agentLog(node).length);

  setClock(HOUR_S);
  load.mark('an hour forwards');
  await until('certificates are renewed by the new time', 30_000, () =>
    NODES.every((node, index) => said(node, '"certificate received"') >= 2 * (receivedBefore[index] ?? 0))
      ? true
      : undefined,
  );
  for (const ms of ownTimes()) assert.ok(ms > Date.now() + (HOUR_S - 300) * 1000, 'the clock was not set');
  await sleep(HOLD_MS);
  const received = NODES.map((node) => said(node, '"certificate received"'));

  setClock(0);
  load.mark('right again');
  await sleep(HOLD_MS);

  setClock(-HOUR_S);
  load.mark('an hour backwards');
  await sleep(HOLD_MS);
  // A pod starts on each node by the wrong time.
  await mesh.apply(...NODES.map((node) => pod('mesh', `late-${node}`, [], { node })));
  for (const node of NODES) {
    await until(`a pod starts on ${node}`, 60_000, async () => {
      const { status } = await mesh.pod(`late-${node}`, 'mesh');
      return status.conditions.some(({ type, status: is }) => type === 'Ready' && is === 'True') || undefined;
    });
  }
  for (const ms of ownTimes())
    assert.ok(ms < Date.now() - (HOUR_S - 300) * 1000, 'the clock was not set back');

  setClock(0);
  load.mark('right again');
  await sleep(HOLD_MS);
  const report = await load.stop();
  assertOnly(report, { minRate: RATE / 2, gapMaxMs: TIMEOUT_MS / 2 });
  assert.deepEqual(await programs(), before, 'a program was started again');
  for (const [index, node] of NODES.entries()) {
    assert.doesNotMatch(
      agentLog(node).slice(loggedBefore[index]),
      /fell silent|given this agent up|no keeper|has expired|no node stream/,
    );
  }
  assert.deepEqual(
    NODES.map((node) => said(node, '"certificate received"')),
    received,
    'renewed for no reason',
  );
  t.diagnostic(
    `${rateOf(report).toFixed(0)} requests/s, 0 failed, ${report.gapMaxMs.toFixed(0)} ms at most without an answer`,
  );
});
