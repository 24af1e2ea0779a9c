// SPDX-License-Identifier: Apache-2.0
// Pods on their way into the mesh and out of it when not everything is as it should be: what cannot be enrolled, what
// is never enrolled, what ends, vanishes, or comes while the agent is away.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { echoServer, HTTP_PORT } from '../faults/load.ts';
import { until } from '../faults/until.ts';
import { enrolmentStatus, eventCount, untilReason } from './enrolment-status.ts';
import { type KubernetesObject, meshed, namespace, pod } from './objects.ts';

/** More ranges than the kernel's record of a pod has room for. */
const TOO_MANY_PORTS = Array.from({ length: 40 }, (_, index) => 1000 + 2 * index).join(',');
const SKIP = 'config.linkerd.io/skip-outbound-ports';
const ENOUGH_MS = 60_000;

let mesh: LocalMesh;

const withSpec = (object: KubernetesObject, spec: object): KubernetesObject => ({
  ...object,
  spec: { ...(object['spec'] as object), ...spec },
});

interface StateOfPod {
  readonly name: string;
  readonly phase: string;
}

async function ask(...words: readonly string[]): Promise<string> {
  return (await mesh.node('node1').exec(['curl', '-s', '--max-time', '20', ...words])).stdout;
}

/** What the agent says of its pods; those that never were in the mesh have phase `left`. */
async function state(): Promise<readonly StateOfPod[]> {
  const socket = join(mesh.node('node1').layout.runDir, 'agent.sock');
  return (JSON.parse(await ask('--unix-socket', socket, 'http://x/state')) as { pods: StateOfPod[] }).pods;
}

const phaseOf = async (name: string): Promise<string | undefined> =>
  (await state()).find((one) => one.name === name)?.phase;

const ready = async (): Promise<string> => ask(`http://${mesh.node('node1').layout.address.v4}:4191/ready`);

async function untilRunning(name: string, ns = 'shop'): Promise<void> {
  await until(`${name} runs`, ENOUGH_MS, async () =>
    (await mesh.pod(name, ns)).status?.phase === 'Running' ? true : undefined,
  );
}

const phase = async (name: string, ns = 'shop'): Promise<string | undefined> =>
  (await mesh.pod(name, ns)).status?.phase;

/** Response head and body of the echo server, as `client` sees them. */
const get = async (client: string, host: string): Promise<string> => {
  const words = ['curl', '-sS', '-i', '--max-time', '20', `http://${host}:${HTTP_PORT}/headers`];
  const run = await mesh.exec(client, words, { ns: 'shop' });
  return run.stdout + run.stderr;
};

describe('enrolment when not everything is as it should be', () => {
  before(async () => {
    mesh = await startMesh({
      name: 'd-enrolment',
      nodes: 1,
      objects: [namespace('shop', meshed), namespace('plain'), pod('shop', 'client', [])],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  it('AMB-011, AMB-034, EBPF-024 a pod that cannot be enrolled waits and says why; others start, the node stays ready', async () => {
    await mesh.apply(pod('shop', 'impossible', [], { annotations: { [SKIP]: TOO_MANY_PORTS } }));
    await untilReason(mesh, 'shop', ['impossible'], 'MESH_LIMIT');
    const status = await enrolmentStatus(mesh, 'impossible', 'shop');
    assert.ok(eventCount(status, 'MeshEnrolmentFailed') > 0);
    assert.match(status.condition?.message ?? '', /port ranges/);
    await mesh.apply(pod('shop', 'other', []));
    await untilRunning('other');
    assert.equal(await phaseOf('other'), 'enrolled');
    assert.equal(await ready(), 'ready\n');
    assert.equal(await phase('impossible'), 'Pending');
    await mesh.annotate('Pod', 'shop', 'impossible', `${SKIP}-`);
    await untilRunning('impossible');
    assert.equal(await phaseOf('impossible'), 'enrolled');
  });

  it('AMB-036, EBPF-023, EBPF-025 a pod of the host network is reached in plain text, never enrolled, and told so', async () => {
    const [server = {}, ...rest] = echoServer('shop', 'hosted');
    await mesh.apply(withSpec(server, { hostNetwork: true }), ...rest);
    await untilRunning('hosted');
    const status = await until('it is told why', ENOUGH_MS, async () => {
      const found = await enrolmentStatus(mesh, 'hosted', 'shop');
      return found.events.length > 0 ? found : undefined;
    });
    assert.equal(eventCount(status, 'MeshNotPossible'), 1, JSON.stringify(status));
    assert.notEqual(status.condition?.status, 'True');
    await until('it answers', ENOUGH_MS, async () =>
      /200 OK/.test(await get('client', 'hosted')) ? true : undefined,
    );
    assert.notEqual(await phaseOf('hosted'), 'enrolled');
    // By the node's address too, which is nobody's in the mesh.
    assert.match(await get('client', mesh.node('node1').layout.address.v4), /200 OK/);
    await mesh.delete({ kind: 'Pod', namespace: 'shop', name: 'hosted' });
  });

  it('AMB-038 a pod that has run to its end leaves the mesh, and nothing listens for it any more', async () => {
    const untilTold = ['sh', '-c', 'until [ -e /run/end ]; do sleep 0.1; done'];
    await mesh.apply(withSpec(pod('shop', 'job', untilTold), { restartPolicy: 'Never' }));
    await untilRunning('job');
    assert.equal(await phaseOf('job'), 'enrolled');
    await mesh.exec('job', ['touch', '/run/end'], { ns: 'shop' });
    await until('it has ended', ENOUGH_MS, async () =>
      (await phase('job')) === 'Succeeded' ? true : undefined,
    );
    await until('the agent has let go', ENOUGH_MS, async () =>
      (await phaseOf('job')) === 'enrolled' ? undefined : true,
    );
    const { condition } = await until('its condition is withdrawn', ENOUGH_MS, async () => {
      const found = await enrolmentStatus(mesh, 'job', 'shop');
      return found.condition?.status === 'True' ? undefined : found;
    });
    assert.notEqual(condition?.reason, 'Enrolled');
    await mesh.delete({ kind: 'Pod', namespace: 'shop', name: 'job' });
  });

  it('AMB-130, AMB-042 pods of kube-system stay outside though they opt in, also after a restart of the agent', async () => {
    await mesh.apply(
      namespace('kube-system', meshed),
      pod('kube-system', 'system', [], { annotations: meshed }),
    );
    await untilRunning('system', 'kube-system');
    const outside = async (): Promise<void> => {
      const status = await until('it is told why', ENOUGH_MS, async () => {
        const found = await enrolmentStatus(mesh, 'system', 'kube-system');
        return eventCount(found, 'MeshNotPossible') > 0 ? found : undefined;
      });
      assert.notEqual(status.condition?.status, 'True');
      assert.notEqual(await phaseOf('system'), 'enrolled');
    };
    await outside();
    await mesh.node('node1').restartAgent({ kill: true });
    await until('the others are back', ENOUGH_MS, async () =>
      (await phaseOf('client')) === 'enrolled' ? true : undefined,
    );
    await outside();
  });

  it('AMB-127 while the agent is away pods of the mesh wait and others start; with it back they start, meshed', async () => {
    await mesh.node('node1').stopAgent();
    await mesh.apply(pod('shop', 'early', []), pod('plain', 'free', []));
    await untilRunning('free', 'plain');
    assert.equal(await phase('early'), 'Pending');
    await until('it says what it waits for', ENOUGH_MS, async () =>
      /agent/.test((await mesh.pod('early', 'shop')).status?.message ?? '') ? true : undefined,
    );
    await mesh.node('node1').startAgent();
    await untilRunning('early');
    assert.equal(await phaseOf('early'), 'enrolled');
  });

  it('AMB-040 a pod that changes and vanishes at the same moment leaves nothing', async () => {
    for (let round = 0; round < 3; round++) {
      const name = `brief-${round}`;
      await mesh.apply(pod('shop', name, []));
      await untilRunning(name);
      await Promise.all([
        mesh.annotate('Pod', 'shop', name, 'config.linkerd.io/opaque-ports=1234').catch(() => undefined),
        mesh.delete({ kind: 'Pod', namespace: 'shop', name }),
      ]);
      await until('the agent has forgotten it', ENOUGH_MS, async () =>
        (await phaseOf(name)) === undefined ? true : undefined,
      );
    }
    assert.equal(await ready(), 'ready\n');
  });

  it('AMB-013 the last pod of the node goes: nothing is left of them, and the node stays ready', async () => {
    for (const name of ['shop', 'plain', 'kube-system'])
      await mesh.delete({ kind: 'Namespace', namespace: '', name });
    // The agent's own pod is of the host's network and no pod of the mesh.
    await until('the agent has no pods', ENOUGH_MS, async () =>
      isDeepStrictEqual(
        (await state()).map(({ name, phase: last }) => `${name} ${last}`),
        ['nodemesh-agent-node1 pending'],
      ),
    );
    assert.equal(await ready(), 'ready\n');
    await mesh.apply(namespace('shop', meshed), pod('shop', 'next', []));
    await untilRunning('next');
    assert.equal(await phaseOf('next'), 'enrolled');
  });
});
