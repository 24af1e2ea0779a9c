// SPDX-License-Identifier: Apache-2.0
// Clients and servers in two zones, of a Service that prefers its clients' own: requests and TCP connections stay in
// the zone while it has an endpoint, go to the other one while it has none, and come back.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod } from './objects.ts';
import { scrape, total } from './scrape.ts';

const MIRROR = fileURLToPath(new URL('programs/mirror.ts', import.meta.url));
const HTTP = 8080;
const TCP = 7070;
const PATIENCE_MS = 60_000;
const REQUESTS = 20;

const server = (name: string, node: string) =>
  pod('mesh', name, ['node', MIRROR, String(HTTP), String(TCP)], {
    node,
    labels: { role: 'server' },
    readinessPort: TCP,
  });

describe('zones', () => {
  let mesh: LocalMesh;
  before(async () => {
    mesh = await startMesh({
      name: 'e-zones',
      zones: ['east', 'west'],
      objects: [
        namespace('mesh', meshed),
        server('server-east', 'node1'),
        server('server-west', 'node2'),
        pod('mesh', 'client', [], { node: 'node1' }),
        {
          apiVersion: 'v1',
          kind: 'Service',
          metadata: { name: 'server', namespace: 'mesh' },
          spec: {
            selector: { role: 'server' },
            trafficDistribution: 'PreferClose',
            ports: [{ name: 'main', port: HTTP, targetPort: HTTP }],
          },
        },
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  /** Requests on connections of their own that each server has had so far, by what the client's side counts. */
  const counts = async (): Promise<{ readonly local: number; readonly remote: number }> => {
    const series = await scrape(mesh, 'node1');
    const of = (zone: string, locality: string): number =>
      total(series, 'response_total', {
        direction: 'outbound',
        pod: 'client',
        dst_zone: zone,
        dst_zone_locality: locality,
        status_code: '200',
      });
    return { local: of('east', 'local'), remote: of('west', 'remote') };
  };
  let asked = 0;
  /** When all that was asked so far is counted: clients have their answers before. */
  const allCounted = async (): ReturnType<typeof counts> =>
    until('all are counted', PATIENCE_MS, async () => {
      const now = await counts();
      return now.local + now.remote >= asked && now;
    });
  const ask = async (times: number): Promise<void> => {
    asked += times;
    const url = `http://server:${HTTP}/[1-${times}]`;
    const run = await mesh.exec('client', ['curl', '-sSf', '--max-time', '20', '-o', '/dev/null', url], {
      ns: 'mesh',
    });
    assert.equal(run.code, 0, run.stderr);
  };
  /** Asks until all answers of a round come from where they shall. */
  const untilOnly = async (where: 'local' | 'remote'): Promise<void> => {
    await until(`all answers are ${where}`, PATIENCE_MS, async () => {
      const before = await allCounted();
      await ask(REQUESTS);
      const now = await allCounted();
      return now[where] - before[where] === REQUESTS;
    });
  };

  it("a client's requests stay in its zone", async () => {
    await untilOnly('local');
    const before = await allCounted();
    await ask(5 * REQUESTS);
    assert.deepEqual(await allCounted(), { local: before.local + 5 * REQUESTS, remote: before.remote });
  });

  it('when its own zone has none, those of the other serve', async () => {
    await mesh.delete({ kind: 'Pod', namespace: 'mesh', name: 'server-east' });
    await untilOnly('remote');
  });

  it('what its own zone gets again serves it again', async () => {
    await mesh.apply(server('server-east', 'node1'));
    await mesh.waitReady();
    await untilOnly('local');
  });
});
