// SPDX-License-Identifier: Apache-2.0
// Destination, then identity, stand still for a while and answer late: what was waiting has failed clearly by then,
// pods have gone or changed meanwhile. A late answer is never taken for another's, and nothing goes round the mesh.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { enrolmentStatus, untilReason } from '../e2e/enrolment-status.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';
import { assertOnly, echoServer, HTTP_PORT, type LoadReport, rateOf, startLoad } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const RATE = 20;
/** Much else runs on the machine. */
const TIMEOUT_MS = 20_000;
const client = { ns: 'mesh', pod: 'client' };
/** Longer than a connection waits for the answer about its destination (10 s), shorter than a stream is given up. */
const LATE_MS = scale.soak ? 25_000 : 13_000;

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'b-late',
    objects: [
      namespace('mesh', meshed),
      ...['echo', 'client', 'newcomer'].map((name) => serviceAccount('mesh', name)),
      ...echoServer('mesh', 'echo', { node: 'node1', account: 'echo' }),
      ...echoServer('mesh', 'other', { node: 'node1', account: 'echo' }),
      pod('mesh', 'leaver', [], { node: 'node1', account: 'echo' }),
      pod('mesh', 'client', [], { node: 'node2', account: 'client' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

const agentLog = (node: string): string =>
  readFileSync(join(mesh.node(node).layout.logDir, 'agent.log'), 'utf8');
async function known(
  node: string,
): Promise<{ readonly name: string; readonly phase: string; readonly uid: string }[]> {
  const socket = join(mesh.node(node).layout.runDir, 'agent.sock');
  const { stdout } = await mesh.node(node).exec(['curl', '-sS', '--unix-socket', socket, 'http://x/state']);
  return (JSON.parse(stdout) as { pods: { name: string; phase: string; uid: string }[] }).pods;
}
const whyNot = async (name: string): Promise<string> => JSON.stringify((await mesh.pod(name, 'mesh')).status);
const ask = async (host: string): Promise<string> => {
  const url = `http://${host}:${HTTP_PORT}/`;
  const { stdout } = await mesh.exec('client', ['curl', '-sS', '-i', '--max-time', '30', url], {
    ns: 'mesh',
  });
  return stdout;
};

/** The program neither answers nor ends while `during` runs, and for LATE_MS at least; it goes on with all it was asked. */
async function standingStill(program: string, during: () => Promise<void>): Promise<LoadReport> {
  const { programs } = await mesh.status();
  const pid = programs.find(({ name }) => name === program)?.pid;
  assert.ok(pid !== undefined, `there is no ${program}`);
  const load = await startLoad(mesh, {
    from: client,
    to: 'echo',
    rate: RATE,
    streams: 2,
    timeoutMs: TIMEOUT_MS,
  });
  process.kill(pid, 'SIGSTOP');
  load.mark(`${program} stands still`);
  const endMs = Date.now() + LATE_MS;
  try {
    await during();
    assert.match(readFileSync(`/proc/${pid}/stat`, 'utf8'), /\) T /, `${program} did not stand still`);
    await sleep(Math.max(0, endMs - Date.now()));
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  load.mark(`${program} goes on`);
  await sleep(3_000);
  const report = await load.stop();
  assertOnly(report, { minRate: RATE / 2, gapMaxMs: TIMEOUT_MS / 2 });
  return report;
}

it('destination answers late: who waits is told, and what it says of pods that are gone or changed is not believed', async (t) => {
  const streamsBefore = agentLog('node1').split('no node stream').length;
  const generationBefore = (await enrolmentStatus(mesh, 'echo', 'mesh')).condition;
  assert.equal(generationBefore?.reason, 'Enrolled');
  const report = await standingStill('destination', async () => {
    const answer = ask('other');
    for (const policy of ['cluster-unauthenticated', 'all-unauthenticated'])
      await mesh.annotate('Pod', 'mesh', 'echo', `config.linkerd.io/default-inbound-policy=${policy}`);
    await mesh.apply(pod('mesh', 'short-lived', [], { node: 'node1', account: 'echo' }));
    await until('a pod that nobody has named waits', 30_000, async () =>
      (await whyNot('short-lived')).includes('destination has not named it yet') ? true : undefined,
    );
    await mesh.delete(
      { kind: 'Pod', namespace: 'mesh', name: 'short-lived' },
      { kind: 'Pod', namespace: 'mesh', name: 'leaver' },
    );
    const text = await answer;
    assert.match(text, /^HTTP\/1\.1 503 /);
    assert.match(text, /l5d-proxy-error: destination cannot be resolved now/);
  });
  assert.match(await ask('other'), /^HTTP\/1\.1 200 /);
  await until('the pods that are gone are forgotten', 30_000, async () =>
    (await known('node1')).every(({ name }) => name !== 'leaver' && name !== 'short-lived')
      ? true
      : undefined,
  );
  await untilReason(mesh, 'mesh', ['echo', 'other'], 'Enrolled');
  assert.equal(
    agentLog('node1').split('no node stream').length,
    streamsBefore,
    'the stream broke: nothing came late',
  );
  t.diagnostic(`${LATE_MS / 1000} s late: ${rateOf(report).toFixed(0)} requests/s, ${report.failed} failed`);
});

it('identity answers late, when the pod that waited for its certificate is gone: nobody gets it', async (t) => {
  const received = (): number => [...agentLog('node1').matchAll(/certificate received/g)].length;
  const before = received();
  const report = await standingStill('identity', async () => {
    await mesh.apply(pod('mesh', 'newcomer', [], { node: 'node1', account: 'newcomer' }));
    await until('the pod waits for its certificate', 30_000, async () =>
      (await whyNot('newcomer')).includes('no certificate for newcomer') ? true : undefined,
    );
    await mesh.delete({ kind: 'Pod', namespace: 'mesh', name: 'newcomer' });
  });
  assert.equal(received(), before, 'a certificate that nobody wants any more was kept');
  await mesh.apply(pod('mesh', 'newcomer', [], { node: 'node1', account: 'newcomer' }));
  await untilReason(mesh, 'mesh', ['newcomer'], 'Enrolled');
  assert.equal(received(), before + 1);
  t.diagnostic(`${LATE_MS / 1000} s late: ${rateOf(report).toFixed(0)} requests/s, ${report.failed} failed`);
});
