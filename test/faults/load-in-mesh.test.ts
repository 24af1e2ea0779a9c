// SPDX-License-Identifier: Apache-2.0
// The load in a local mesh, without any fault: nothing fails on any kind of connection, between nodes.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { scrape, total } from '../e2e/scrape.ts';
import { assertOnly, echoServer, startLoad } from './load.ts';

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'fa-load',
    objects: [
      namespace('mesh', meshed),
      ...echoServer('mesh', 'echo', { node: 'node1' }),
      pod('mesh', 'client', [], { node: 'node2' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

it('without a fault nothing fails, and everything went over TLS', async () => {
  const load = await startLoad(mesh, {
    from: { ns: 'mesh', pod: 'client' },
    to: 'echo',
    rate: 100,
    streams: 2,
  });
  await sleep(4000);
  const report = await load.stop();
  assertOnly(report, { minRate: 80 });
  for (const count of Object.values(report.byConnection)) assert.ok(count > 20, JSON.stringify(report));
  assert.deepEqual(Object.keys(report.byServer), ['echo']);
  const series = await scrape(mesh, 'node1');
  assert.ok(
    total(series, 'tcp_open_total', { direction: 'inbound', peer: 'src', tls: 'true', pod: 'echo' }) > 100,
  );
});
