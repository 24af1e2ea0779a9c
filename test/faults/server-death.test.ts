// SPDX-License-Identifier: Apache-2.0
// A server's process dies under load and comes back, asked by a pod of its own node, whose requests pass in memory, and
// by one of another node: what it had in hand fails and says so, nothing else does, nothing is done twice or half an
// answer taken for a whole one, and it has its share again by itself.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { cgroupProcesses, killCgroup } from '../../local/cgroups.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { openMetricsFaults } from '../conformance/open-metrics.ts';
import { meshed, namespace, pod, service } from '../e2e/objects.ts';
import { scrape, scrapeText, total } from '../e2e/scrape.ts';
import { countedMs } from './pauses.ts';
import type { Asked } from './pieces.ts';
import { until } from './until.ts';

const NS = 'mesh';
const PORTS = { http: 8080, http2: 8081, grpc: 9000 } as const;
const RATE = 100;
const SERVERS = ['one', 'two'] as const;
const labels = { service: 'pieces' };
const program = (name: string): string => fileURLToPath(new URL(`programs/${name}.ts`, import.meta.url));

/** Until nobody is led to a server that is gone, on a busy machine. */
const NOTICED_MS = 2_000;
/** What waited for it to come back is told so after this time. */
const FAILFAST_MS = 1_000;
/** As the proxy answers, and as it ends an answer that has begun. */
const unmistakable = /^(status 50[24] |cut (ECONNRESET|ERR_HTTP2_STREAM_ERROR))/;

describe("the death of a server's process", () => {
  let mesh: LocalMesh;
  before(async () => {
    const server = ['node', program('pieces-server'), ...Object.values(PORTS).map(String)];
    mesh = await startMesh({
      name: 'a-server-death',
      agentEnv: { NODEMESH_SAME_NODE: 'memory', NODEMESH_WORKERS: '2' },
      objects: [
        namespace(NS, meshed),
        ...SERVERS.map((name) => pod(NS, name, server, { node: 'node1', labels, readinessPort: PORTS.http })),
        servicePieces(),
        service(NS, 'one', PORTS.grpc),
        pod(NS, 'near', [], { node: 'node1' }),
        pod(NS, 'far', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  function servicePieces(): object {
    const base = service(NS, 'pieces', PORTS.http, { selector: labels });
    const ports = [PORTS.http, PORTS.http2].map((port) => ({ name: `p${port}`, port, protocol: 'TCP' }));
    return { ...base, spec: { ...(base['spec'] as object), ports } };
  }

  /** Of all requests that a server has got, since its pod began. */
  const noncesOf = async (name: string): Promise<string[]> =>
    [...(await mesh.logs(name, { ns: NS })).matchAll(/^got (\w+)$/gm)].map(([, nonce]) => nonce ?? '');
  const counts = async (): Promise<number[]> =>
    Promise.all(SERVERS.map(async (name) => (await noncesOf(name)).length));
  const untilAllServe = async (what: string): Promise<void> => {
    const before = await counts();
    await until(what, 30_000, async () =>
      (await counts()).every((count, index) => count > (before[index] ?? 0) + RATE / 4),
    );
  };

  /** Says when it was done, and when nothing of it was left. */
  async function killServer(name: string): Promise<{ killedMs: number; goneMs: number }> {
    const { metadata } = await mesh.pod(name, NS);
    const cgroup = join(mesh.node('node1').layout.podsCgroup, metadata.uid, 'main');
    const pids = cgroupProcesses(cgroup);
    assert.ok(pids.length > 0);
    const killedMs = Date.now();
    await killCgroup(cgroup);
    await until('it is gone', 10_000, () => pids.every((pid) => !existsSync(`/proc/${pid}`)));
    return { killedMs, goneMs: Date.now() };
  }

  /** The only connections that came to the servers' mesh port are permits. */
  const nothingTravelled = async (requests: number): Promise<void> => {
    let seen = {};
    await until('the permits account for every connection', 10_000, async () => {
      const series = await scrape(mesh, 'node1');
      const granted = total(series, 'nodemesh_same_node_permits_total', { result: 'granted' });
      const arrived = total(series, 'inbound_tcp_transport_header_connections_total', {});
      const passed = total(series, 'request_total', { direction: 'inbound', same_node: 'true' });
      seen = { granted, arrived, passed, requests };
      return granted > 0 && granted === arrived && passed >= requests;
    }).catch((error: unknown) => {
      throw new Error(JSON.stringify(seen), { cause: error });
    });
  };

  for (const from of ['near', 'far'] as const) {
    const where = `from a pod of ${from === 'near' ? 'the same' : 'another'} node`;
    it(`requests ${where}`, async (t) => {
      const stopFile = '/run/pieces.stop';
      const target = ['pieces', PORTS.http, PORTS.http2, RATE, stopFile].map(String);
      const run = mesh.exec(from, ['node', program('pieces-client'), ...target], { ns: NS });
      await untilAllServe('all servers have their share');
      const { killedMs, goneMs } = await killServer('one');
      await untilAllServe('all servers have their share again');
      await mesh.exec(from, ['touch', stopFile], { ns: NS });
      const { code, stdout, stderr } = await run;
      assert.equal(code, 0, stderr);
      const asked = JSON.parse(stdout) as Asked[];

      const told = asked
        .filter(({ outcome }) => outcome !== 'whole')
        .map(({ over, askedMs, endedMs, outcome }) => ({
          fault: !(
            unmistakable.test(outcome) &&
            endedMs >= killedMs &&
            countedMs(goneMs, askedMs) <= NOTICED_MS &&
            countedMs(goneMs, endedMs) <= NOTICED_MS + FAILFAST_MS
          ),
          text: `${over} asked ${askedMs - killedMs} ms after the kill, ended ${endedMs - killedMs} ms after it: ${outcome}`,
        }));
      t.diagnostic(`${asked.length} requests; ${told.map(({ text }) => text).join('; ')}`);
      const faults = told.filter(({ fault }) => fault).map(({ text }) => text);
      assert.deepEqual(faults, [], `gone ${goneMs - killedMs} ms after the kill`);
      assert.ok(told.length > 0, 'it had requests in hand');

      const got = new Map<string, string[]>();
      for (const name of SERVERS) {
        for (const nonce of await noncesOf(name)) got.set(nonce, [...(got.get(nonce) ?? []), name]);
      }
      const twice = [...got].filter(([, names]) => names.length > 1);
      assert.deepEqual(twice, [], 'a POST that a server got is not sent again');
      for (const { nonce, outcome, server } of asked) {
        if (outcome === 'whole') assert.deepEqual(got.get(nonce), [server]);
      }
      if (from === 'near') {
        await nothingTravelled(asked.filter(({ outcome }) => outcome === 'whole').length);
      }
    });

    it(`gRPC calls in the middle, ${where}`, async () => {
      const begunFile = '/run/pieces-calls.begun';
      const argv = ['node', program('pieces-calls'), 'one', String(PORTS.grpc), begunFile];
      let over = false;
      const run = mesh.exec(from, argv, { ns: NS, timeoutMs: 60_000 }).finally(() => (over = true));
      run.catch(() => undefined);
      await until('the calls are under way', 30_000, async () => {
        if (over) await run;
        return (await mesh.exec(from, ['rm', begunFile], { ns: NS })).code === 0;
      });
      assert.equal(over, false);
      await killServer('one');
      const { stdout, stderr } = await run;
      const statuses = JSON.parse(stdout || `"${stderr}"`) as Record<string, string>;
      const unavailable = '14 connection closed before the response';
      assert.deepEqual(statuses, {
        unary: unavailable,
        upload: unavailable,
        download: unavailable,
        both: unavailable,
      });
      if (from === 'near') await nothingTravelled(4);
    });
  }

  it('what the agents have counted of all this is OpenMetrics, read strictly', async () => {
    for (const node of ['node1', 'node2']) {
      const text = await scrapeText(mesh, node, 'application/openmetrics-text;version=1.0.0');
      assert.ok(text.split('\n').length > 500, text);
      assert.deepEqual(openMetricsFaults(text), []);
    }
  });
});
