// SPDX-License-Identifier: Apache-2.0
// A few long connections use all workers of an agent, at the client's node and at the server's, and a worker that ends
// takes only its own along.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod, service } from './objects.ts';
import { scrape, total } from './scrape.ts';

const PROGRAM = fileURLToPath(new URL('programs/long-http2.ts', import.meta.url));
const HTTP = 8080;
const WORKERS = 4;
const PATIENCE_MS = 60_000;

describe('long connections', () => {
  let mesh: LocalMesh;
  before(async () => {
    mesh = await startMesh({
      name: 'e-spread',
      agentEnv: { NODEMESH_WORKERS: String(WORKERS) },
      objects: [
        namespace('mesh', meshed),
        pod('mesh', 'server', ['node', PROGRAM, 'serve', String(HTTP)], {
          node: 'node1',
          readinessPort: HTTP,
        }),
        service('mesh', 'server', HTTP),
        pod('mesh', 'client', [], { node: 'node2' }),
        pod('mesh', 'neighbour', [], { node: 'node1' }),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const perWorker = async (node: string): Promise<readonly number[]> => {
    const series = await scrape(mesh, node);
    return Array.from({ length: WORKERS }, (_, worker) =>
      total(series, 'nodemesh_worker_long_connections', { worker: String(worker) }),
    );
  };
  interface Held {
    readonly answers: readonly number[];
    readonly ended: number;
  }
  /** Holds connections from a pod while `then` runs. */
  const holding = async (from: string, count: number, then: (held: () => Promise<Held>) => Promise<void>) => {
    const file = `/run/held-${from}`;
    const hold = ['node', PROGRAM, 'hold', 'server', String(HTTP), String(count), file];
    const run = mesh.exec(from, ['sh', '-c', `${hold.join(' ')} & echo $! > ${file}.pid; wait`], {
      ns: 'mesh',
    });
    const held = async (): Promise<Held> => {
      const { stdout } = await mesh.exec(from, ['cat', file], { ns: 'mesh' });
      return JSON.parse(stdout === '' ? '{"answers":[],"ended":0}' : stdout) as Held;
    };
    try {
      await until('every connection is answered', PATIENCE_MS, async () => {
        const { answers } = await held();
        return answers.length === count && answers.every((n) => n > 2);
      });
      await then(held);
    } finally {
      await mesh.exec(from, ['sh', '-c', `kill $(cat ${file}.pid)`], { ns: 'mesh' });
      await run;
    }
  };

  it('eight of a client use all four workers of both agents, and every request is answered', async () => {
    await holding('client', 2 * WORKERS, async (held) => {
      assert.deepEqual(await perWorker('node2'), [2, 2, 2, 2]);
      const server = await perWorker('node1');
      assert.ok(
        server.every((n) => n > 0),
        `workers of the server's node have ${server.join()}`,
      );
      const { ended } = await held();
      assert.equal(ended, 0);
      // Wherever a connection went, it was opened once, and is open once.
      const labels = { pod: 'client', direction: 'outbound', peer: 'src' };
      const series = await scrape(mesh, 'node2');
      assert.equal(total(series, 'tcp_open_total', labels), 2 * WORKERS);
      assert.equal(total(series, 'tcp_open_connections', labels), 2 * WORKERS);
      assert.equal(total(series, 'tcp_close_total', labels), 0);
    });
    await until('none is counted any more', PATIENCE_MS, async () =>
      (await perWorker('node2')).every((n) => n === 0),
    );
  });

  it('so do those of a client on the same node', async () => {
    const before = await perWorker('node1');
    await holding('neighbour', 2 * WORKERS, async () => {
      const now = await perWorker('node1');
      const added = now.map((n, worker) => n - (before[worker] ?? 0));
      assert.ok(
        now.every((n) => n >= 2),
        `${before.join()} became ${now.join()}, ${added.join()} more`,
      );
      assert.ok(Math.max(...now) - Math.min(...now) <= 1, `they are not even: ${now.join()}`);
    });
  });
});
