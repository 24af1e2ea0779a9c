// SPDX-License-Identifier: Apache-2.0
// A meshed Deployment is rolled under load, and its pods taken away one by one: as its service always has pods that
// serve, no request fails, over new connections and over kept ones.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { type KubernetesObject, meshed, namespace, pod, service } from '../e2e/objects.ts';
import { assertOnly, HTTP_PORT, startLoad, TCP_PORT, untilServed } from './load.ts';
import { scale } from './scale.ts';

const CLIENT = { ns: 'shop', pod: 'client' };
const ROLLS = scale.rollout.rolls;
const REPLICAS = 3;
const ECHO = fileURLToPath(new URL('programs/echo.ts', import.meta.url));
const OPAQUE = { 'config.linkerd.io/opaque-ports': String(TCP_PORT) };
/** As every server that shall be rolled: it goes on for a while after it was told to end, until nobody comes. */
const SERVE = `node ${ECHO} ${HTTP_PORT} ${TCP_PORT} & server=$!
trap 'sleep 4; kill $server; exit 0' TERM
wait $server`;

let mesh: LocalMesh;

function deployment(version: number): KubernetesObject {
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'web', namespace: 'shop' },
    spec: {
      replicas: REPLICAS,
      selector: { matchLabels: { app: 'web' } },
      template: {
        metadata: { labels: { app: 'web' }, annotations: { ...OPAQUE, version: String(version) } },
        spec: {
          terminationGracePeriodSeconds: 10,
          containers: [
            {
              name: 'main',
              command: ['sh', '-c', SERVE],
              ports: [HTTP_PORT, TCP_PORT].map((containerPort) => ({ containerPort })),
              readinessProbe: { tcpSocket: { port: TCP_PORT }, periodSeconds: 1 },
            },
          ],
        },
      },
    },
  };
}

const web = async (): Promise<readonly string[]> =>
  (await mesh.pods('shop')).flatMap(({ metadata }) =>
    metadata.labels['app'] === 'web' ? [metadata.name] : [],
  );

before(async () => {
  const base = service('shop', 'web', HTTP_PORT, { annotations: OPAQUE });
  const ports = [HTTP_PORT, TCP_PORT].map((port) => ({ name: `p${port}`, port, targetPort: port }));
  mesh = await startMesh({
    name: 'd-rollout',
    objects: [
      namespace('shop', meshed),
      deployment(0),
      { ...base, spec: { ...(base['spec'] as object), ports } },
      pod('shop', 'client', [], { node: 'node1' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

it('AMB-123, EBPF-034 a deployment is rolled under load: 0 failed requests', async () => {
  const load = await startLoad(mesh, {
    from: CLIENT,
    to: 'web.shop',
    rate: 45,
    connections: 12,
    kinds: ['http-new', 'http-kept', 'tcp-new'],
  });
  const seen = new Set(await web());
  for (let version = 1; version <= ROLLS; version++) {
    load.mark(`roll ${version}`);
    await mesh.apply(deployment(version));
    await mesh.waitReady(120_000);
    for (const name of await web()) seen.add(name);
  }
  const last = await web();
  // The last of them have just begun.
  await untilServed(mesh, { from: CLIENT, to: 'web.shop', rate: 45, servers: last, timeoutMs: 60_000 });
  const report = await load.stop();
  assertOnly(report, { minRate: 30 });
  assert.equal(seen.size, REPLICAS * (ROLLS + 1), 'every pod was replaced each time');
  assert.equal(Object.keys(report.byServer).length, seen.size, 'and each of them served');
});
