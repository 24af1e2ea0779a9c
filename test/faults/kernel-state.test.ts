// SPDX-License-Identifier: Apache-2.0
// Under load what steers a pod is taken away by somebody who is root on the node: its record, its listeners, its
// program. Each is put back and counted, and an unmeshed client that policy does not let in stays outside: with record
// and listeners always, without the program until the next glance (a second).

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { encodeCookie, LAYOUT } from '#lib/bpf/abi.ts';
import { createLibbpfLoader } from '#lib/bpf/libbpf-loader.ts';
import { closeNamespace, netnsCookie, openNamespace } from '#lib/net/netns.ts';
import { netnsPath, podNetns } from '../../local/layout.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { runChecked } from '../../local/command.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { scrape, total } from '../e2e/scrape.ts';
import { assertOnly, echoServer, HTTP_PORT, type Load, startLoad } from './load.ts';
import { countedMs } from './pauses.ts';
import { until } from './until.ts';

const INTRUDER = fileURLToPath(new URL('programs/intruder.py', import.meta.url));
const ROUNDS = 3;
/** Dead listeners are found by the check, not by the glance. */
const INTERVAL_MS = 2_000;
/** A glance each second, the repair, and a busy machine. */
const WINDOW_MS = 4_000;

const loader = createLibbpfLoader();
let mesh: LocalMesh;
let load: Load;
let server = '';
const answers: { atMs: number; status: number }[] = [];
let intruder: ReturnType<typeof spawn>;

before(async () => {
  mesh = await startMesh({
    name: 'c-kern',
    nodes: 2,
    agentEnv: { NODEMESH_SELF_CHECK_INTERVAL: `${INTERVAL_MS}ms` },
    objects: [
      namespace('shop', meshed),
      namespace('plain'),
      ...echoServer('shop', 'server', {
        node: 'node1',
        annotations: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
      }),
      pod('shop', 'client', [], { node: 'node2' }),
      pod('plain', 'outsider', [], { node: 'node2' }),
    ],
  });
  await mesh.waitReady();
  server = (await mesh.pod('server', 'shop')).status?.podIP ?? '';
  load = await startLoad(mesh, { from: { ns: 'shop', pod: 'client' }, to: 'server', rate: 40 });
  const argv = ['netns', 'exec', podNetns(mesh.name, 'plain', 'outsider'), 'python3', INTRUDER];
  intruder = spawn('ip', [...argv, server, String(HTTP_PORT)], { stdio: ['ignore', 'pipe', 'inherit'] });
  assert.ok(intruder.stdout);
  createInterface({ input: intruder.stdout }).on('line', (line) =>
    answers.push(JSON.parse(line) as { atMs: number; status: number }),
  );
});
after(async () => {
  intruder.kill('SIGKILL');
  await mesh.down();
});

const root = (): string => join(mesh.node('node1').layout.bpffs, 'nodemesh', String(LAYOUT));
const repairs = async (check: string): Promise<number> =>
  total(await scrape(mesh, 'node1'), 'nodemesh_self_check_repairs_total', { check });

function cookie(): bigint {
  const fd = openNamespace(netnsPath(podNetns(mesh.name, 'shop', 'server')));
  try {
    return netnsCookie(fd);
  } finally {
    closeNamespace(fd);
  }
}

/** When the intruder was served, from so long after the breakage on. */
const past = (brokenMs: number, countedMsMin = 0): number[] =>
  answers
    .filter(
      ({ atMs, status }) => status === 200 && atMs >= brokenMs && countedMs(brokenMs, atMs) >= countedMsMin,
    )
    .map(({ atMs }) => atMs);

/** Breaks it, waits for the repair and for answers of the policy after it; when it was broken and whole again. */
async function breakage(check: string, hurt: () => void | Promise<void>): Promise<[number, number]> {
  const before = await repairs(check);
  load.mark(check);
  const brokenMs = Date.now();
  await hurt();
  await until(`the repair of ${check}`, 30_000, async () =>
    (await repairs(check)) > before ? true : undefined,
  );
  const wholeMs = Date.now();
  await until('policy answers again', 30_000, () =>
    answers.some(({ atMs, status }) => atMs > wholeMs && status === 403) ? true : undefined,
  );
  return [brokenMs, wholeMs];
}

it('without a fault policy keeps the outsider out', async () => {
  await until('twenty answers', 30_000, () => (answers.length >= 20 ? true : undefined));
  assert.ok(
    answers.every(({ status }) => status === 403),
    JSON.stringify(answers),
  );
});

it('the record of the pod is deleted: refused until it is written again', async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const [brokenMs] = await breakage('pod-record', () => {
      const map = loader.openMap(join(root(), 'maps/nm_pods'));
      assert.ok(map);
      assert.ok(map.delete(encodeCookie(cookie())));
      map.close();
    });
    assert.deepEqual(past(brokenMs), []);
  }
});

it('the listeners in the pod are closed: refused until there are new ones', async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const [brokenMs] = await breakage('pod-listeners', async () => {
      const netns = podNetns(mesh.name, 'shop', 'server');
      const kill = ['ip', 'netns', 'exec', netns, 'ss', '-H', '-K', '-tln', 'src', '127.0.0.1'];
      assert.notEqual((await runChecked(kill)).trim(), '', 'no listener was closed');
    });
    assert.deepEqual(past(brokenMs), []);
  }
});

it('the program of the pod is detached: passed by for the time of a glance, no longer', async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const [brokenMs] = await breakage('pod-link', () => {
      const folder = join(root(), 'pods', String(cookie()));
      assert.ok(readdirSync(folder).includes('link'));
      const link = loader.openLink(join(folder, 'link'));
      assert.ok(link);
      link.detach();
      link.close();
    });
    assert.deepEqual(past(brokenMs, WINDOW_MS), []);
  }
});

it('whoever may has been served all the time, but for new connections during a breakage', async () => {
  // A client is told in the way of its protocol that nobody took its connection, or that none could be made for its
  // request; TCP connections that were there do not notice.
  const allow = [{ kind: 'reset-new' }, { kind: 'bad-status' }, { kind: 'refused' }] as const;
  assertOnly(await load.stop(), { allow, minRate: 20, gapMaxMs: WINDOW_MS });
});
