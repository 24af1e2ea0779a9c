// SPDX-License-Identifier: Apache-2.0
// An agent that stops, or is stopped, while its pods run on: what they are offered meanwhile, and how soon again.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod, service } from './objects.ts';

const MIRROR = fileURLToPath(new URL('programs/mirror.ts', import.meta.url));
const HTTP = 8080;
const TCP = 7070;
/** Longer than any machine takes for what is done meanwhile. */
const SHUTDOWN_GRACE_MS = 60_000;
const WATCHED_MS = 3_000;
const AGAIN_MS = 60_000;

describe('an agent that ends', () => {
  let mesh: LocalMesh;
  let ip = '';

  before(async () => {
    mesh = await startMesh({
      name: 'e2e-review',
      agentEnv: { NODEMESH_SHUTDOWN_GRACE: `${SHUTDOWN_GRACE_MS}ms` },
      objects: [
        namespace('mesh', meshed),
        namespace('plain'),
        pod('mesh', 'server', ['node', MIRROR, String(HTTP), String(TCP)], {
          node: 'node1',
          readinessPort: HTTP,
          annotations: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
        }),
        service('mesh', 'server', HTTP),
        pod('mesh', 'near', [], { node: 'node1' }),
        pod('mesh', 'far', [], { node: 'node2' }),
        pod('plain', 'outsider', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
    ip = (await mesh.pod('server', 'mesh')).status?.podIP ?? '';
  });
  after(async () => mesh.down());

  const get = async (client: string, ns: string, host: string): Promise<string> => {
    const run = await mesh.exec(
      client,
      ['curl', '-sS', '-i', '--max-time', '10', `http://${host}:${HTTP}/x`],
      { ns },
    );
    return run.stdout + run.stderr;
  };
  const agentPid = (): Promise<number> => mesh.node('node1').agentPid();
  /** Nobody gets past policy meanwhile; meshed clients are served again, under their identity. */
  const untilServedAgain = async (): Promise<void> => {
    const deadline = performance.now() + AGAIN_MS;
    for (;;) {
      const [outside, near, far] = await Promise.all([
        get('outsider', 'plain', ip),
        get('near', 'mesh', 'server'),
        get('far', 'mesh', 'server'),
      ]);
      assert.doesNotMatch(outside, /200 OK/, 'past policy');
      for (const answer of [near, far]) assert.doesNotMatch(answer, /x-client-id: \r/, 'past the mesh');
      if ([near, far].every((text) => /x-client-id: default\.mesh\./.test(text)) && /403/.test(outside))
        return;
      assert.ok(performance.now() < deadline, `not served again: ${near} ${far} ${outside}`);
    }
  };

  it('killed: its pods are closed, never open, and served again by its successor', async () => {
    const before = await agentPid();
    process.kill(before, 'SIGKILL');
    await untilServedAgain();
    assert.notEqual(await agentPid(), before);
  });

  it('away while a pod leaves the mesh: its successor lets the pod go at once', async () => {
    await mesh.apply(
      pod('mesh', 'leaver', ['node', MIRROR, String(HTTP), String(TCP)], {
        node: 'node1',
        readinessPort: HTTP,
      }),
    );
    await mesh.waitReady();
    const address = (await mesh.pod('leaver', 'mesh')).status?.podIP ?? '';
    process.kill(await agentPid(), 'SIGKILL');
    await mesh.annotate('Pod', 'mesh', 'leaver', 'linkerd.io/inject=disabled');
    await untilServedAgain();
    const deadline = performance.now() + AGAIN_MS;
    while (!/200 OK/.test(await get('outsider', 'plain', address))) {
      assert.ok(performance.now() < deadline, 'the pod stays closed');
    }
  });

  it('told to stop: new connections are served while it waits for old ones', async () => {
    const script = `(echo begun; while [ ! -e /run/stop ]; do sleep 0.2; done) | socat -t 7 - TCP:${ip}:${TCP} >/run/echo`;
    const stream = mesh.exec('near', ['sh', '-c', script], { ns: 'mesh', timeoutMs: 200_000 });
    await until('the stream is answered', 30_000, async () =>
      (await mesh.exec('near', ['cat', '/run/echo'], { ns: 'mesh' })).stdout.includes('begun'),
    );
    const pid = await agentPid();
    process.kill(pid, 'SIGTERM');
    const begun = performance.now();
    let answered = 0;
    while (answered === 0 || performance.now() - begun < WATCHED_MS) {
      for (const client of ['near', 'far']) assert.match(await get(client, 'mesh', 'server'), /200 OK/);
      answered++;
      assert.equal(await agentPid(), pid, 'it did not wait for the stream');
    }
    await mesh.exec('near', ['touch', '/run/stop'], { ns: 'mesh' });
    await stream;
    await until('its successor', AGAIN_MS, async () => (await agentPid()) !== pid);
    await untilServedAgain();
  });
});
