// SPDX-License-Identifier: Apache-2.0
// Pods are born and killed under load, half of them with kill -9 at a random moment of their start: no request of
// the others fails, nothing of them stays, and the agent's memory returns to its level.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { globSync, readdirSync, readFileSync } from 'node:fs';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoName } from '#lib/core/errors.ts';
import { leftovers, type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { scrape } from '../e2e/scrape.ts';
import { assertOnly, echoServer, startLoad } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const { pods, atOnce } = scale.churn;
const NODES = ['node1', 'node2'];
const NAME = 'fa-churn';
const KILL_WITHIN_MS = 4000;
const MEMORY_GROWTH_MAX = 150 * 1024 * 1024;

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: NAME,
    objects: [
      namespace('mesh', meshed),
      ...echoServer('mesh', 'echo', { node: 'node1' }),
      pod('mesh', 'client', [], { node: 'node2' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

const processes = (cgroup: string): number[] => {
  try {
    return readFileSync(`${cgroup}/cgroup.procs`, 'utf8').split('\n').filter(Boolean).map(Number);
  } catch (error) {
    if (errnoName(error) === 'ENOENT' || errnoName(error) === 'ENODEV') return [];
    throw error;
  }
};
const agents = (): number[] => NODES.flatMap((node) => processes(mesh.node(node).layout.agentCgroup));
const memory = (): number =>
  agents().reduce((sum, pid) => {
    const pages = Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
    return sum + pages * 1024;
  }, 0);
const descriptors = (pids: readonly number[]): number =>
  pids.reduce((sum, pid) => sum + readdirSync(`/proc/${pid}/fd`).length, 0);
const cgroups = (): { living: number; dying: number } => ({
  living: globSync(`${mesh.layout.cgroup}/**/cgroup.procs`).length,
  dying: Number(
    /^nr_dying_descendants (\d+)/m.exec(readFileSync(`${mesh.layout.cgroup}/cgroup.stat`, 'utf8'))?.[1],
  ),
});
const pins = (node: string): number =>
  execFileSync('find', [mesh.node(node).layout.bpffs, '-path', '*/pods/*'])
    .toString()
    .split('\n').length;

const levels = async () => ({
  namespaces: (await leftovers(NAME)).netns.length,
  pins: NODES.map(pins),
  cgroups: cgroups().living,
  series: (await Promise.all(NODES.map((node) => scrape(mesh, node))))
    .flat()
    .filter(({ labels }) => labels['pod']?.startsWith('brief')).length,
});

/** SIGKILL for whatever runs for the pods of one node, the CNI shim and the containers' first processes. */
function killSome(node: string): number {
  let killed = 0;
  const { podsCgroup } = mesh.node(node).layout;
  for (const file of globSync(`${podsCgroup}/**/cgroup.procs`)) {
    for (const pid of processes(file.slice(0, -'/cgroup.procs'.length))) {
      try {
        const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');
        if (!/(^|\0)HOSTNAME=brief-/.test(environment)) continue;
        process.kill(pid, 'SIGKILL');
        killed++;
      } catch (error) {
        if (!['ENOENT', 'ESRCH', 'EACCES'].includes(errnoName(error) ?? '')) throw error;
      }
    }
  }
  return killed;
}

/** SIGKILL for CNI shims of the pods' sandboxes, wherever they are in their ADD. */
function killShims(): number {
  let killed = 0;
  for (const pid of readdirSync('/proc').map(Number).filter(Number.isInteger)) {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');
      if (!environment.includes('K8S_POD_NAME=brief-') || !environment.includes('CNI_COMMAND=ADD')) continue;
      if (!environment.includes(NAME)) continue;
      process.kill(pid, 'SIGKILL');
      killed++;
    } catch (error) {
      if (!['ENOENT', 'ESRCH', 'EACCES'].includes(errnoName(error) ?? '')) throw error;
    }
  }
  return killed;
}

it(`${pods} pods are born and killed, and nothing of them stays`, async () => {
  // Pools and spare sockets of the load are no leak: they are there before the count begins.
  const warm = await startLoad(mesh, { from: { ns: 'mesh', pod: 'client' }, to: 'echo', rate: 30 });
  await sleep(3000);
  assertOnly(await warm.stop(), { minRate: 20 });
  const before = await levels();
  const dyingBefore = cgroups().dying;
  const descriptorsBefore = descriptors(agents());
  const daemonBefore = descriptors([mesh.process.pid ?? 0]);
  const memoryBefore = memory();
  const load = await startLoad(mesh, { from: { ns: 'mesh', pod: 'client' }, to: 'echo', rate: 30 });
  let [killed, shims] = [0, 0];
  for (let born = 0; born < pods; born += atOnce) {
    const names = Array.from({ length: atOnce }, (_, index) => `brief-${born + index}`);
    await mesh.apply(
      ...names.map((name, index) => pod('mesh', name, [], { node: NODES[index % 2] ?? 'node1' })),
    );
    const round = (born / atOnce) % 2;
    if (round === 0) await mesh.waitReady();
    else {
      const endMs = Date.now() + Math.random() * KILL_WITHIN_MS;
      while (Date.now() < endMs) {
        shims += killShims();
        await sleep(20 + Math.random() * 80);
      }
      // Sandboxes are tried again: there is a process sooner or later, whatever was killed before.
      killed += await until('a process of these pods', 60_000, () => {
        const some = NODES.reduce((sum, node) => sum + killSome(node), 0);
        return some > 0 ? some : undefined;
      });
    }
    await mesh.delete(...names.map((name) => ({ kind: 'Pod' as const, namespace: 'mesh', name })));
  }
  const report = await load.stop();
  console.log(`killed: ${killed} processes of pods, ${shims} CNI shims`);
  assert.ok(killed > 0 && shims > 0, `killed: ${killed} processes of pods, ${shims} CNI shims`);
  assertOnly(report, { minRate: 25 });
  await until('every level is what it was', 60_000, async () =>
    JSON.stringify(await levels()) === JSON.stringify(before) ? true : undefined,
  ).catch(async () => assert.deepEqual(await levels(), before));
  const fewMore = atOnce;
  const open = (): string =>
    `agents ${descriptorsBefore} -> ${descriptors(agents())}, daemon ${daemonBefore} -> ${descriptors([mesh.process.pid ?? 0])}`;
  await until('descriptors are back', 90_000, () =>
    descriptors(agents()) < descriptorsBefore + fewMore &&
    descriptors([mesh.process.pid ?? 0]) < daemonBefore + fewMore
      ? true
      : undefined,
  ).catch((error: unknown) => assert.fail(`${String(error)}: ${open()}`));
  await until('no dying cgroups', 60_000, () =>
    cgroups().dying <= dyingBefore + fewMore ? true : undefined,
  );
  const grown = memory() - memoryBefore;
  assert.ok(grown < MEMORY_GROWTH_MAX, `${Math.round(grown / 1024 / 1024)} MB more in the agents`);
});
