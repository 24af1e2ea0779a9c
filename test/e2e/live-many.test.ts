// SPDX-License-Identifier: Apache-2.0
// Fifty running pods of one namespace go into the mesh together, and out again, under load. How long that takes is
// measured where it counts: until each server's own side has seen mTLS of the client.

import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { assertOnly, echoServer, HTTP_PORT, startLoad } from '../faults/load.ts';
import { scale } from '../faults/scale.ts';
import { until } from '../faults/until.ts';
import { enrolmentStatus } from './enrolment-status.ts';
import { meshed, namespace, pod, service } from './objects.ts';
import { scrape, type Series } from './scrape.ts';

const COUNT = 50;
const NAMES = Array.from({ length: COUNT }, (_, index) => `many-${index}`);
const CLIENT = 'default.steady.serviceaccount.identity.linkerd.cluster.local';
/** Some seconds on an idle machine; the short form runs on any. */
const ALLOWED_MS = scale.soak ? 30_000 : 120_000;

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'li-many',
    agentEnv: { NODEMESH_LEAVE_GRACE: '1s', NODEMESH_LEAVE_LIMIT: '10m' },
    readyMs: 180_000,
    objects: [
      namespace('many'),
      namespace('steady', meshed),
      ...NAMES.flatMap((name, index) =>
        echoServer('many', name, { node: `node${1 + (index % 2)}`, labels: { group: 'many' } }).slice(0, 1),
      ),
      service('many', 'many', HTTP_PORT, { selector: { group: 'many' } }),
      pod('steady', 'client', [], { node: 'node2' }),
    ],
  });
  await mesh.waitReady(180_000);
});
after(async () => mesh.down());

/** Inbound series of all nodes that name the client's identity. */
const proofs = async (): Promise<ReadonlySet<string>> => {
  const all = await Promise.all(['node1', 'node2'].map((node) => scrape(mesh, node)));
  const seen = (one: Series): boolean =>
    one.name === 'tcp_open_total' &&
    one.labels['direction'] === 'inbound' &&
    one.labels['tls'] === 'true' &&
    one.labels['client_id'] === CLIENT &&
    one.value > 0;
  return new Set(all.flat().flatMap((one) => (seen(one) ? [one.labels['pod'] ?? ''] : [])));
};

const reasons = async (): Promise<readonly (string | undefined)[]> =>
  Promise.all(NAMES.map(async (name) => (await enrolmentStatus(mesh, name, 'many')).condition?.reason));

it('fifty in, fifty out: within seconds, and nothing fails', async () => {
  const load = await startLoad(mesh, {
    from: { ns: 'steady', pod: 'client' },
    to: 'many.many',
    rate: 60,
    kinds: ['http-new', 'http-kept'],
  });
  // Only the namespace's change is measured, not the first look at the service.
  await sleep(2_000);
  const measured: string[] = [];
  const step = async (what: string, startedMs: number, ask: () => Promise<boolean>): Promise<void> => {
    await until(what, ALLOWED_MS, async () => ((await ask()) ? true : undefined));
    measured.push(`${what}: ${Date.now() - startedMs} ms`);
  };

  let startedMs = Date.now();
  await mesh.annotate('Namespace', '', 'many', 'linkerd.io/inject=enabled');
  await step(`${COUNT} pods are enrolled`, startedMs, async () =>
    (await reasons()).every((reason) => reason === 'Enrolled'),
  );
  await step(`${COUNT} servers have seen mTLS of the client`, startedMs, async () => {
    const seen = await proofs();
    return NAMES.every((name) => seen.has(name));
  });
  startedMs = Date.now();
  await mesh.annotate('Namespace', '', 'many', 'linkerd.io/inject=disabled');
  await step(`${COUNT} pods are out again (grace time 1 s)`, startedMs, async () =>
    (await reasons()).every((reason) => reason === 'OptedOut'),
  );
  assertOnly(await load.stop(), { minRate: 48 });
  console.log(measured.join('\n'));
});
