// SPDX-License-Identifier: Apache-2.0
// Pods that ran before the mesh's CNI plugin was installed, or whose sandboxes the agent has forgotten: found by
// their processes and meshed while they serve.

import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupProcesses } from '../../local/cgroups.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { conflist } from '../../local/node-files.ts';
import { CONFLIST_NAME } from '../../local/sandbox.ts';
import { assertOnly, echoServer, startLoad } from '../faults/load.ts';
import { until } from '../faults/until.ts';
import { enrolmentStatus, eventCount, untilReason } from './enrolment-status.ts';
import { meshed, namespace, pod } from './objects.ts';
import { scrape, total } from './scrape.ts';

const OLD = ['server', 'caller'];

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'li-unannounced',
    agentEnv: { NODEMESH_LEAVE_GRACE: '1s', NODEMESH_LEAVE_LIMIT: '10m' },
  });
  const { layout } = mesh.node('node1');
  // As before the installation: the chain of node1 has no entry of the mesh.
  writeFileSync(join(layout.cniConfDir, CONFLIST_NAME), JSON.stringify(conflist(layout, false)));
  await mesh.apply(
    namespace('old'),
    namespace('new', meshed),
    ...echoServer('old', 'server', { node: 'node1' }),
    pod('old', 'caller', [], { node: 'node1' }),
    ...echoServer('new', 'echo', { node: 'node2' }),
    pod('new', 'client', [], { node: 'node2' }),
  );
  await mesh.waitReady();
});
after(async () => mesh.down());

interface StateOfPod {
  readonly name: string;
  readonly phase: string;
}

const state = async (): Promise<readonly StateOfPod[]> => {
  const socket = join(mesh.node('node1').layout.runDir, 'agent.sock');
  const run = await mesh.node('node1').exec(['curl', '-s', '--unix-socket', socket, 'http://x/state']);
  return (JSON.parse(run.stdout) as { pods: StateOfPod[] }).pods;
};

const inboundTls = async (): Promise<number> =>
  total(await scrape(mesh, 'node1'), 'tcp_open_total', {
    pod: 'server',
    direction: 'inbound',
    peer: 'src',
    tls: 'true',
    client_id: 'default.new.serviceaccount.identity.linkerd.cluster.local',
  });

it('they are meshed live, and leave again, without a failed request', async () => {
  const kinds = ['http-new', 'http-kept', 'tcp-new'] as const;
  const loads = await Promise.all([
    startLoad(mesh, { from: { ns: 'new', pod: 'client' }, to: 'server.old', rate: 30, kinds }),
    startLoad(mesh, { from: { ns: 'old', pod: 'caller' }, to: 'echo.new', rate: 30, kinds }),
    startLoad(mesh, { from: { ns: 'old', pod: 'caller' }, to: 'server.old', rate: 30, kinds }),
  ]);
  await sleep(1_000);
  await mesh.annotate('Namespace', '', 'old', 'linkerd.io/inject=enabled');
  await untilReason(mesh, 'old', OLD, 'Enrolled');
  await until('TLS from the other node', 30_000, async () => ((await inboundTls()) > 0 ? true : undefined));
  await mesh.annotate('Namespace', '', 'old', 'linkerd.io/inject=disabled');
  await untilReason(mesh, 'old', OLD, 'OptedOut');
  await mesh.annotate('Namespace', '', 'old', 'linkerd.io/inject=enabled');
  await untilReason(mesh, 'old', OLD, 'Enrolled');
  for (const load of loads) assertOnly(await load.stop(), { minRate: 20 });
  const status = await enrolmentStatus(mesh, 'server', 'old');
  assert.equal(eventCount(status, 'MeshEnrolled'), 2);
});

it('an agent that lost its list of sandboxes finds them again', async () => {
  const { layout } = mesh.node('node1');
  const agents = cgroupProcesses(layout.agentCgroup);
  rmSync(join(layout.runDir, 'sandboxes.json'), { force: true });
  for (const pid of agents) process.kill(pid, 'SIGKILL');
  await until('both are enrolled in the next agent', 60_000, async () => {
    if (cgroupProcesses(layout.agentCgroup).some((pid) => agents.includes(pid))) return undefined;
    const pods = await state().catch(() => []);
    const enrolled = pods.filter(({ name, phase }) => OLD.includes(name) && phase === 'enrolled');
    return enrolled.length === OLD.length ? true : undefined;
  });
  const load = await startLoad(mesh, { from: { ns: 'new', pod: 'client' }, to: 'server.old', rate: 30 });
  await sleep(2_000);
  assertOnly(await load.stop(), { minRate: 20 });
  assert.ok((await inboundTls()) > 0);
});

it('nothing of them stays when they are deleted', async () => {
  await mesh.delete({ kind: 'Pod', namespace: 'old', name: 'server' });
  await until('the agent has let go', 30_000, async () =>
    (await state()).some(({ name }) => name === 'server') ? undefined : true,
  );
  await mesh.delete({ kind: 'Pod', namespace: 'old', name: 'caller' });
  await until('the agent has let go', 30_000, async () =>
    (await state()).some(({ name }) => OLD.includes(name)) ? undefined : true,
  );
});
