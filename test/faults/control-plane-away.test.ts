// SPDX-License-Identifier: Apache-2.0
// Identity, then destination, are gone for a while under load: traffic goes on with what is known and stays
// encrypted, new pods wait and say why, and all comes back by itself without a storm.

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
import { assertOnly, echoServer, startLoad } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

/** With pauses between tries of 5 s at most; two cores that others use too. */
const BACK_MS = 10_000;
const { lifetimeMs, nearRenewalMs, identityAwayMs, destinationAwayMs } = scale.controlPlane;

let mesh: LocalMesh;
let readyMs = 0;
before(async () => {
  mesh = await startMesh({
    name: 'fb-away',
    identityEnv: { NODEMESH_LEAF_LIFETIME: `${lifetimeMs / 1000}s`, NODEMESH_CLOCK_SKEW: '1s' },
    objects: [
      namespace('mesh', meshed),
      ...['echo', 'client', 'newcomer'].map((name) => serviceAccount('mesh', name)),
      ...echoServer('mesh', 'echo', { node: 'node1', account: 'echo' }),
      pod('mesh', 'client', [], { node: 'node2', account: 'client' }),
    ],
  });
  await mesh.waitReady();
  readyMs = Date.now();
});
after(async () => mesh.down());

const agentLog = (node: string): string =>
  readFileSync(join(mesh.node(node).layout.logDir, 'agent.log'), 'utf8');
const nodes = ['node1', 'node2'];
const received = (node: string): number => agentLog(node).split('"certificate received"').length - 1;
const timesServing = (): number =>
  readFileSync(join(mesh.layout.logDir, 'identity.log'), 'utf8').split('"identity is serving"').length - 1;
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

it('identity and destination go away under load', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-away-'));
  const tapeFile = join(folder, 'wire.pcap');
  const tape = await capture(mesh.layout.wireNetns, 'wire0', tapeFile);
  const load = await startLoad(mesh, {
    from: { ns: 'mesh', pod: 'client' },
    to: 'echo',
    rate: 60,
    streams: 2,
  });
  try {
    await sleep(Math.max(0, readyMs + nearRenewalMs - Date.now()));
    const identity = takeAway(mesh, 'identity/main.ts');
    load.mark('identity away');
    await sleep(identityAwayMs / 2);
    await mesh.apply(pod('mesh', 'late-1', [], { node: 'node1', account: 'newcomer' }));
    await sleep(identityAwayMs / 2);
    assert.ok(identity.kills > 0, 'identity was never there');
    for (const node of nodes) {
      assert.match(agentLog(node), /certificate not renewed, the old one stays in use/);
    }
    assert.equal(await isReady('late-1'), undefined, 'a pod became ready without a certificate');
    assert.match(await whyNot('late-1'), /certificate|identity/i);
    const servedBefore = timesServing();
    const receivedBefore = nodes.map(received);
    await identity.end();
    load.mark('identity may come back');
    await until('identity serves', 30_000, () => (timesServing() > servedBefore ? true : undefined));
    load.mark('identity serves');
    await until('the agents have certificates', BACK_MS, () =>
      nodes.every((node, index) => received(node) > (receivedBefore[index] ?? 0)) ? true : undefined,
    );
    await until('the new pod is ready', 60_000, () => isReady('late-1'));
    load.mark('identity is back');
    // Agents, destination and three pods' accounts: each at most twice since identity is back.
    const calls = await issued();
    assert.ok(calls >= 1 && calls <= 12, `${calls} certificates since identity is back`);

    const destination = takeAway(mesh, 'destination/main.ts');
    load.mark('destination away');
    await sleep(destinationAwayMs / 2);
    await mesh.apply(pod('mesh', 'late-2', [], { node: 'node1', account: 'newcomer' }));
    await sleep(destinationAwayMs / 2);
    assert.ok(destination.kills > 0, 'destination was never there');
    assert.equal(await isReady('late-2'), undefined, 'a pod started without word from destination');
    assert.match(await whyNot('late-2'), /destination has not named it yet/);
    await destination.end();
    load.mark('destination may come back');
    await until('the new pod is ready', 60_000, () => isReady('late-2'));
    load.mark('destination is back');
  } finally {
    await tape.stop();
  }
  const report = await load.stop();
  assertOnly(report, { minRate: 50, gapMaxMs: 2000 });
  const wire = readFileSync(tapeFile);
  rmSync(folder, { recursive: true });
  assert.ok(wire.includes('transport.l5d.io/v1'), 'the capture has seen no connection of the mesh');
  assert.ok(
    !wire.includes('x-nonce') && !wire.includes(' echo\n'),
    'application data in plaintext on the wire',
  );
});
