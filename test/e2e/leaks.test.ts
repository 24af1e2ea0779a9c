// SPDX-License-Identifier: Apache-2.0
// A hundred pods are born and killed, and nothing of them stays: namespaces, links, maps' entries, descriptors,
// series; and a local mesh that goes down, or is killed, leaves nothing on the machine.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { leftovers, type LocalMesh, nothingLeft, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod } from './objects.ts';
import { scrape } from './scrape.ts';

const NAME = 'e2e-leaks';
const BATCHES = 4;
const PODS = 25;
const BACK_MS = 60_000;

describe('pods come and go', () => {
  let mesh: LocalMesh;

  before(async () => {
    mesh = await startMesh({
      name: NAME,
      objects: [namespace('mesh', meshed), pod('mesh', 'stays', [], { node: 'node1' })],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const agentPids = (node: string): string[] =>
    readFileSync(`${mesh.node(node).layout.agentCgroup}/cgroup.procs`, 'utf8')
      .split('\n')
      .filter((pid) => pid !== '');
  const descriptors = (node: string): number =>
    agentPids(node).reduce((sum, pid) => sum + readdirSync(`/proc/${pid}/fd`).length, 0);
  const pins = (node: string): string[] =>
    execFileSync('find', [mesh.node(node).layout.bpffs, '-path', '*/pods/*'])
      .toString()
      .split('\n')
      .sort();
  const entries = (node: string, map: string): number => {
    const found = execFileSync('find', [mesh.node(node).layout.bpffs, '-name', map])
      .toString()
      .trim();
    return (
      JSON.parse(execFileSync('bpftool', ['-j', 'map', 'dump', 'pinned', found]).toString()) as unknown[]
    ).length;
  };
  const levels = async () => ({
    namespaces: (await leftovers(NAME)).netns.length,
    pins: [pins('node1'), pins('node2')],
    entries: ['nm_pods', 'nm_load', 'nm_listen', 'nm_seeded', 'nm_inflight'].map((map) => [
      entries('node1', map),
      entries('node2', map),
    ]),
    podSeries: (await Promise.all(['node1', 'node2'].map((node) => scrape(mesh, node))))
      .flat()
      .filter(({ labels }) => labels['pod']?.startsWith('brief')).length,
  });

  it(`${BATCHES * PODS} pods are born and killed, and every level is what it was`, async () => {
    const before = await levels();
    const descriptorsBefore = descriptors('node1') + descriptors('node2');
    for (let batch = 0; batch < BATCHES; batch++) {
      const names = Array.from({ length: PODS }, (_, index) => `brief-${batch}-${index}`);
      await mesh.apply(
        ...names.map((name, index) => pod('mesh', name, [], { node: index % 2 === 0 ? 'node1' : 'node2' })),
      );
      await mesh.waitReady();
      const { status } = await mesh.pod('stays', 'mesh');
      await mesh.exec(
        names[1] ?? '',
        ['curl', '-s', '--max-time', '5', `http://${status?.podIP}:4191/live`],
        { ns: 'mesh' },
      );
      await mesh.delete(...names.map((name) => ({ kind: 'Pod' as const, namespace: 'mesh', name })));
    }
    await until('every level is what it was', BACK_MS, async () =>
      isDeepStrictEqual(await levels(), before),
    ).catch(async () => assert.deepEqual(await levels(), before));
    const grown = (): number => descriptors('node1') + descriptors('node2') - descriptorsBefore;
    await until('descriptors are back', BACK_MS, () => grown() < PODS).catch((error: unknown) =>
      assert.fail(`${String(error)}: ${grown()} descriptors more than before`),
    );
  });

  it('nothing is left when the daemon is killed and its mesh taken down', async () => {
    mesh.process.kill('SIGKILL');
    await mesh.down();
    const left = await leftovers(NAME);
    assert.ok(nothingLeft(left), JSON.stringify(left));
  });
});
