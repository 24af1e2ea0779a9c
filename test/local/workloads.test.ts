// SPDX-License-Identifier: Apache-2.0
// Deployments, restarts, probes, init containers and volumes of a local mesh without agents.

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type LocalMesh, type PodObject, startMesh } from '../../local/harness.ts';

const PATIENT = "process.on('SIGTERM', () => process.exit(0)); setInterval(() => {}, 1000)";

const deployment = (replicas: number, version: string): object => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'work', namespace: 'lab' },
  spec: {
    replicas,
    selector: { matchLabels: { app: 'work' } },
    template: {
      metadata: { labels: { app: 'work' }, annotations: { version } },
      spec: {
        containers: [
          { name: 'main', command: ['node', '-e', PATIENT], env: [{ name: 'VERSION', value: version }] },
        ],
        terminationGracePeriodSeconds: 2,
      },
    },
  },
});

const pod = (name: string, spec: object): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'lab' },
  spec: { terminationGracePeriodSeconds: 1, ...spec },
});

describe('workloads', () => {
  let mesh: LocalMesh;
  const workers = async (): Promise<readonly PodObject[]> =>
    (await mesh.pods('lab')).filter((found) => found.metadata.labels['app'] === 'work');

  before(async () => {
    mesh = await startMesh({
      name: 'test-work',
      mesh: false,
      objects: [{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'lab' } }],
    });
  });
  after(() => mesh?.down());

  test('a Deployment spreads its replicas, replaces a pod that is taken away, scales and rolls', async () => {
    await mesh.apply(deployment(2, 'v1'));
    await mesh.waitReady();
    const first = await workers();
    assert.deepEqual(first.map((found) => found.spec.nodeName ?? '').sort(), ['node1', 'node2']);
    const [victim] = first;
    assert.ok(victim);
    await mesh.delete({ kind: 'Pod', namespace: 'lab', name: victim.metadata.name });
    await mesh.waitReady();
    const second = await workers();
    assert.equal(second.length, 2);
    assert.ok(!second.some((found) => found.metadata.uid === victim.metadata.uid));

    await mesh.apply(deployment(3, 'v1'));
    await mesh.waitReady();
    assert.equal((await workers()).length, 3);
    await mesh.apply(deployment(2, 'v2'));
    await mesh.waitReady();
    const rolled = await workers();
    assert.deepEqual(
      rolled.map((found) => found.metadata.annotations['version']),
      ['v2', 'v2'],
    );
    assert.equal((await mesh.exec('deploy/work', ['printenv', 'VERSION'], { ns: 'lab' })).stdout, 'v2\n');
    await mesh.delete({ kind: 'Deployment', namespace: 'lab', name: 'work' });
    await mesh.waitReady();
    assert.deepEqual(await workers(), []);
  });

  test('a pod whose processes are killed comes back', async () => {
    await mesh.apply(deployment(1, 'v1'));
    await mesh.waitReady();
    const [before] = await workers();
    assert.ok(before);
    const node = mesh.node(before.spec.nodeName ?? '').layout;
    const [pid = ''] = readFileSync(
      join(node.podsCgroup, before.metadata.uid, 'main', 'cgroup.procs'),
      'utf8',
    ).split('\n');
    process.kill(Number(pid), 'SIGKILL');
    for (;;) {
      const [found] = await workers();
      if (found?.status.containerStatuses?.[0]?.restartCount === 1 && found.status.containerStatuses[0].ready)
        break;
    }
    await mesh.delete({ kind: 'Deployment', namespace: 'lab', name: 'work' });
  });

  test('init containers run first and share volumes; a projected token has its audience', async () => {
    await mesh.apply(
      pod('volumes', {
        initContainers: [
          {
            name: 'init',
            command: ['sh', '-c', 'echo prepared >/run/data/file'],
            volumeMounts: [{ name: 'data', mountPath: '/run/data' }],
          },
        ],
        containers: [
          {
            name: 'main',
            command: ['node', '-e', PATIENT],
            volumeMounts: [
              { name: 'data', mountPath: '/run/data', readOnly: true },
              { name: 'token', mountPath: '/var/run/tokens' },
            ],
            securityContext: { readOnlyRootFilesystem: true },
          },
        ],
        volumes: [
          { name: 'data', emptyDir: {} },
          {
            name: 'token',
            projected: { sources: [{ serviceAccountToken: { audience: 'someone', path: 'token' } }] },
          },
        ],
      }),
    );
    await mesh.waitReady();
    const run = async (script: string): Promise<string> => {
      const result = await mesh.exec('volumes', ['sh', '-c', script], { ns: 'lab' });
      return result.stdout + result.stderr;
    };
    assert.equal(await run('cat /run/data/file'), 'prepared\n');
    const [, payload = ''] = (await run('cat /var/run/tokens/token')).split('.');
    const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as { aud: string[]; sub: string };
    assert.deepEqual(claims.aud, ['someone']);
    assert.equal(claims.sub, 'system:serviceaccount:lab:default');
    assert.match(await run('touch /nothing-may-be-written-here'), /Read-only/);
    assert.match(await run('touch /run/data/other'), /Read-only/);
    await mesh.delete({ kind: 'Pod', namespace: 'lab', name: 'volumes' });
  });

  test('liveness restarts a container; exec probes run inside', async () => {
    await mesh.apply(
      pod('probed', {
        containers: [
          {
            name: 'main',
            command: ['sh', '-c', 'touch /run/up; exec sleep 1000'],
            livenessProbe: {
              exec: { command: ['test', '-e', '/run/up'] },
              periodSeconds: 1,
              failureThreshold: 1,
            },
          },
        ],
      }),
    );
    await mesh.waitReady();
    const breakIt = 'until [ -e /run/up ]; do :; done; rm /run/up';
    assert.equal((await mesh.exec('probed', ['sh', '-c', breakIt], { ns: 'lab' })).code, 0);
    for (;;) {
      const status = (await mesh.pod('probed', 'lab')).status.containerStatuses?.[0];
      if ((status?.restartCount ?? 0) >= 1 && status?.ready === true) break;
    }
    await mesh.delete({ kind: 'Pod', namespace: 'lab', name: 'probed' });
  });

  test('what cannot be applied changes nothing and says where and why', async () => {
    const good = pod('good', { containers: [{ name: 'main', command: ['true'] }] });
    const bad = pod('bad', { containers: [{ name: 'main', command: ['true'], replicas: 2 }] });
    await assert.rejects(
      mesh.apply(good, bad),
      /manifest 2, document 1 \(Pod bad\), spec\.containers\.0\.replicas: unknown field; remove/,
    );
    await assert.rejects(
      mesh.apply(good, { apiVersion: 'v1', kind: 'Gadget', metadata: {} }),
      /unknown kind "Gadget"/,
    );
    await assert.rejects(mesh.apply(good, 'a: [b'), /not YAML/);
    await assert.rejects(
      mesh.apply(good, {
        apiVersion: 'v1',
        kind: 'ServiceAccount',
        metadata: { name: 'x', namespace: 'nowhere' },
      }),
      /there is no namespace nowhere; add a Namespace/,
    );
    assert.deepEqual(await mesh.pods('lab'), []);
  });

  test('a namespace takes its pods with it; the registry folder follows, and nothing of a pod stays', async () => {
    const folder = mesh.layout.registryDir;
    await mesh.apply(deployment(2, 'v1'));
    await mesh.waitReady();
    const names = (await workers()).map((found) => `pod.lab.${found.metadata.name}.yaml`);
    for (const name of names) assert.ok(existsSync(join(folder, name)), name);
    await mesh.delete({ kind: 'Namespace', namespace: '', name: 'lab' });
    assert.deepEqual(
      readdirSync(folder).filter((file) => file.includes('lab')),
      [],
    );
    for (const { podsCgroup, podsDir, ipamDir } of mesh.layout.nodes) {
      assert.deepEqual(readdirSync(podsDir), []);
      assert.deepEqual(
        readdirSync(podsCgroup, { withFileTypes: true }).filter((entry) => entry.isDirectory()),
        [],
      );
      const leases = readdirSync(join(ipamDir, 'nodemesh-local')).filter((file) => /^\d|^fd/.test(file));
      assert.deepEqual(leases, []);
    }
  });
});
