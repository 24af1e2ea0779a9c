// SPDX-License-Identifier: Apache-2.0
// A real Prometheus (Debian's) with the rules of docs/monitoring takes every node's agent for one target, and returns what
// a client counted itself, also while the agents are rolled: to Linkerd's queries, to `mesh stat` and `mesh edges`, and
// to the dashboard that Linkerd's users look at first.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { runCommand } from '../../../local/command.ts';
import { netnsPath } from '../../kind/layout.ts';
import type { Cluster } from '../cluster.ts';
import { type Installation, MESH_COMMAND } from '../installation.ts';
import { untilReason } from '../mesh.ts';
import { application, service } from '../objects.ts';
import { type ClusterPrometheus, type Range, type Sample, startPrometheus } from '../prometheus.ts';
import { sharedMesh } from '../shared-mesh.ts';

const NS = 'scraped';
const PORT = 8080;
const IDENTITY = `default.${NS}.serviceaccount.identity.linkerd.cluster.local`;
const REQUESTS = 1000;
const FAILURES = 37;
/** Between two requests: with it they last as long as a rollout of the agents. */
const PAUSE_MS = 20;
const WEB = `
require('node:http').createServer((request, response) => {
  response.statusCode = request.url === '/fail' ? 500 : 200;
  if (request.url === '/hold') response.write('begun');
  else response.end('said');
}).listen(${PORT});`;
/** node -e CLIENT REQUESTS FAILURES PAUSE_MS; what it counted. */
const CLIENT = `
const [requests, failures, pauseMs] = process.argv.slice(1).map(Number);
const every = Math.floor(requests / failures);
const counted = {};
let failed = 0;
for (let at = 1; at <= requests; at++) {
  const fail = at % every === 0 && failed < failures;
  if (fail) failed++;
  const { status } = await fetch('http://web:${PORT}/' + (fail ? 'fail' : ''));
  counted[status] = (counted[status] ?? 0) + 1;
  await new Promise((done) => setTimeout(done, pauseMs));
}
console.log(JSON.stringify(counted));`;

interface StatRow {
  readonly name: string;
  readonly success: number | null;
  readonly rps: number | null;
  readonly latency_ms_p99: number | null;
  readonly tcp_read_bytes_rate?: number;
}

describe('a Prometheus in the cluster', { timeout: 800_000 }, () => {
  const shared = sharedMesh();
  let cluster: Cluster;
  let mesh: Installation;
  let prometheus: ClusterPrometheus | undefined;
  let client: string;
  let held: ChildProcess | undefined;
  let begunMs = 0;

  before(async () => {
    ({ cluster, mesh } = await shared.open());
    await cluster.makeNamespace(NS);
    await cluster.kubectl(['annotate', 'namespace', NS, 'linkerd.io/inject=enabled']);
    const [near = '', far = ''] = cluster.nodes.map(({ name }) => name);
    const on = (node: string) => ({ pod: { nodeSelector: { 'kubernetes.io/hostname': node } } });
    await cluster.apply([
      application({ namespace: NS, name: 'web', port: PORT, command: ['node', '-e', WEB], ...on(far) }),
      service(NS, 'web', PORT),
      application({ namespace: NS, name: 'client', command: ['sleep', 'infinity'], ...on(near) }),
    ]);
    const [web, asking] = await Promise.all(
      ['web', 'client'].map(async (app) => (await cluster.podsReady(NS, `app=${app}`, 1))[0]?.metadata.name),
    );
    assert.ok(web !== undefined && asking !== undefined);
    client = asking;
    // From the first request on, each is in the mesh and is answered.
    await untilReason(cluster, NS, [web, client], 'Enrolled');
    await cluster.waitFor('the server is called', async () => {
      const argv = ['curl', '-sS', '--max-time', '10', `http://web:${PORT}/`];
      return (await cluster.exec({ namespace: NS, pod: client }, argv)).stdout === 'said';
    });
    prometheus = await startPrometheus(cluster);
  });
  after(async () => {
    if (held !== undefined) {
      held.kill('SIGKILL');
      await once(held, 'exit');
    }
    await prometheus?.close();
    await shared.close();
  });

  const running = (): ClusterPrometheus => {
    assert.ok(prometheus);
    return prometheus;
  };
  const query = (text: string): Promise<readonly Sample[]> => running().query(text);
  const send = async (...counts: readonly number[]): Promise<Readonly<Record<string, number>>> => {
    const argv = ['node', '--input-type=module', '-e', CLIENT, ...counts.map(String)];
    const { code, stdout, stderr } = await cluster.exec({ namespace: NS, pod: client }, argv, {
      timeoutMs: 200_000,
    });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as Record<string, number>;
  };

  it('finds one target for each node, and each part of the control plane', async () => {
    const nodes = cluster.nodes.map(({ name }) => name).sort();
    const [agents, parts] = await cluster.waitFor('all targets are up', async () => {
      const found = await Promise.all([
        running().targets('nodemesh-agent'),
        running().targets('nodemesh-controller'),
      ]);
      const [agentsNow, partsNow] = found;
      const up = found.flat().every(({ health }) => health === 'up');
      return agentsNow.length === nodes.length && partsNow.length === 3 && up && found;
    });
    assert.deepEqual(agents.map(({ labels }) => labels['node'] ?? '').sort(), nodes);
    assert.deepEqual(parts.map(({ labels }) => labels['component'] ?? '').sort(), [
      'destination',
      'identity',
      'policy-validator',
    ]);
  });

  it('returns what the client counted', async () => {
    // So that series are there before what is counted: an increase needs a value to begin with.
    assert.deepEqual(await send(2, 1, 0), { 200: 1, 500: 1 });
    await cluster.waitFor('both series are scraped, on both sides', async () => {
      const found = await query(`sum(response_total{namespace="${NS}"}) by (direction, classification)`);
      return found.length === 4;
    });
    begunMs = Date.now();
    assert.deepEqual(await send(REQUESTS, FAILURES, PAUSE_MS), { 200: REQUESTS - FAILURES, 500: FAILURES });
    const statQueries = {
      'stat deploy/web': `sum(increase(response_total{direction="inbound", deployment="web", namespace="${NS}"}[5m])) by (deployment, classification, tls)`,
      'stat deploy/client --to deploy/web': `sum(increase(response_total{direction="outbound", deployment="client", namespace="${NS}", dst_deployment="web", dst_namespace="${NS}"}[5m])) by (deployment, classification, tls)`,
      'stat svc/web': `sum(increase(response_total{direction="outbound", authority=~"^web.${NS}.svc.cluster.local.*"}[5m])) by (dst_namespace, dst_service, classification, tls)`,
    };
    for (const [what, text] of Object.entries(statQueries)) {
      let seen: readonly Sample[] = [];
      await cluster
        .waitFor(what, async () => {
          seen = await query(text);
          return (
            seen.length === 2 &&
            seen.every(({ metric }) => metric['tls'] === 'true') &&
            close(seen, 'success', REQUESTS - FAILURES) &&
            close(seen, 'failure', FAILURES)
          );
        })
        .catch((error: unknown) => assert.fail(`${String(error)}: ${JSON.stringify(seen)}`));
    }
    const [latency] = await query(
      `histogram_quantile(0.99, sum(rate(response_latency_ms_bucket{direction="inbound", deployment="web"}[5m])) by (le, deployment))`,
    );
    assert.ok(Number(latency?.value[1]) > 0, JSON.stringify(latency));
    const started = await query(`max(process_start_time_seconds{namespace="${NS}"}) by (pod, namespace)`);
    assert.equal(started.length, 2);
  });

  it('is read by mesh stat, which prints what the client counted', async () => {
    const stat = async (...args: readonly string[]): Promise<readonly StatRow[]> =>
      JSON.parse(await there('stat', ...args, '--output=json', '--time-window=5m')) as StatRow[];
    const inNamespace = ['-n', NS];
    const rows = await Promise.all([
      stat('deploy', ...inNamespace),
      stat('po', '-l', 'app=web', ...inNamespace),
      stat(`ns/${NS}`),
      stat('svc/web', ...inNamespace),
      stat('deploy', '--to', 'deploy/web', ...inNamespace),
      stat('deploy/client', '--to', 'svc/web', ...inNamespace),
      stat('deploy/web', '--from', 'deploy/client', '--from-namespace', NS, ...inNamespace),
    ]);
    const names = rows.map((table) => table.filter(({ rps }) => rps !== null).map(({ name }) => name));
    const [pod = ''] = names[1] ?? [];
    assert.match(pod, /^web-/);
    assert.deepEqual(names, [['web'], [pod], [NS], ['web'], ['client'], ['client'], ['web']]);
    for (const row of rows.flat().filter(({ rps }) => rps !== null)) {
      const all = (row.rps ?? 0) * 300;
      assert.ok(isClose(all, REQUESTS), JSON.stringify(row));
      assert.ok(isClose(all * (1 - (row.success ?? 1)), FAILURES), JSON.stringify(row));
      assert.ok((row.tcp_read_bytes_rate ?? 0) > 0, JSON.stringify(row));
    }
    assert.match(
      await there('stat', 'deploy/web', '-n', NS, '-t', '5m'),
      /^NAME +MESHED +SUCCESS +RPS .*TCP_CONN\nweb +1\/1 +96\.\d\d% +3\.[345]rps( +\d+ms){3} +\d+\n$/,
    );
  });

  it('is read by mesh edges, which prints who is connected to whom', async () => {
    held = spawn(...hold());
    await cluster.waitFor('the open connection is scraped', async () => {
      const [found] = await query(`sum(tcp_open_connections{deployment="client", dst_deployment="web"}) > 0`);
      return found !== undefined;
    });
    assert.match(
      await there('edges', 'deploy', '-n', NS),
      new RegExp(`^SRC +DST +SRC_NS +DST_NS +SECURED *\nclient +web +${NS} +${NS} +√ *\n$`),
    );
    const [edge, ...others] = JSON.parse(await there('edges', 'po', '-n', NS, '-o', 'json')) as object[];
    assert.deepEqual(others, []);
    assert.partialDeepStrictEqual(edge, {
      src: client,
      client_id: IDENTITY,
      server_id: IDENTITY,
      no_tls_reason: '',
    });
  });

  it("returns to Linkerd's top-line dashboard what the client counted", async () => {
    const at = (panel: string): Promise<readonly Range[]> => running().range(panel, begunMs);
    const ofNamespace = `namespace="${NS}", direction="inbound"`;
    // The dashboard draws rates of the last two scrapes; what lies below the line is what was counted: each rate for as
    // long as lies between those two, whenever they were.
    const scraped = await at(
      `max(timestamp(request_total{${ofNamespace}, deployment="web", tls="true"})) by (deployment)`,
    );
    const lasts = new Map<number, number>();
    let lastMs = begunMs;
    for (const [time, value] of scraped[0]?.values ?? []) {
      const ms = Number(value) * 1000;
      lasts.set(time, Math.max(0, ms - lastMs) / 1000);
      lastMs = Math.max(lastMs, ms);
    }
    const volume = await at(`sum(irate(request_total{${ofNamespace}, tls="true"}[30s])) by (deployment)`);
    const rate = await at(
      `sum(irate(response_total{classification="success", ${ofNamespace}}[30s])) by (deployment) / sum(irate(response_total{${ofNamespace}}[30s])) by (deployment)`,
    );
    assert.deepEqual(
      [...volume, ...rate].map(({ metric }) => metric),
      [{ deployment: 'web' }, { deployment: 'web' }],
    );
    const rates = new Map(rate[0]?.values);
    let requests = 0;
    let failed = 0;
    for (const [time, value] of volume[0]?.values ?? []) {
      const good = Number(rates.get(time));
      const passed = Number(value) * (lasts.get(time) ?? 0);
      requests += passed;
      if (Number.isFinite(good)) failed += passed * (1 - good);
    }
    assert.ok(isNear(requests, REQUESTS), `${requests} requests`);
    assert.ok(isNear(failed, FAILURES), `${failed} of them failed`);
    const global = await at(`sum(irate(request_total{deployment=~"client|web"}[30s]))`);
    const everywhere = (global[0]?.values ?? []).reduce(
      (sum, [time, value]) => sum + Number(value) * (lasts.get(time) ?? 0),
      0,
    );
    assert.ok(isNear(everywhere, 2 * REQUESTS), `${everywhere} requests, on both sides`);
    assert.deepEqual(
      await at(`sum(irate(request_total{${ofNamespace}, tls!="true"}[30s])) by (deployment)`),
      [],
    );
    const monitored = await query(
      `count(count(request_total{namespace=~"${NS}"}) by (namespace, deployment))`,
    );
    assert.deepEqual(
      monitored.map(({ value }) => value[1]),
      ['2'],
    );
    const [p95] = await at(
      `histogram_quantile(0.95, sum(irate(response_latency_ms_bucket{${ofNamespace}}[30s])) by (le, deployment))`,
    );
    assert.ok(
      p95?.values.some(([, value]) => Number(value) > 0),
      JSON.stringify(p95),
    );
  });

  it('goes on counting while every agent is replaced, and loses nothing', async () => {
    const more = Object.fromEntries(
      ['inbound', 'outbound'].flatMap((direction) => [
        [`${direction} success 200`, REQUESTS - FAILURES],
        [`${direction} failure 500`, FAILURES],
      ]),
    );
    // Beside them the held request may have ended, cut in the middle of its answer.
    const answered = async (expression: string): Promise<Readonly<Record<string, number>>> => {
      const by = ['direction', 'classification', 'status_code'];
      const found = await query(`sum(${expression}) by (${by.join(', ')})`);
      return Object.fromEntries(
        found
          .map(({ metric, value }) => [by.map((label) => metric[label]).join(' '), Number(value[1])] as const)
          .filter(([key]) => key in more),
      );
    };
    const all = `response_total{namespace="${NS}"}`;
    // A scrape that failed just now would leave some out.
    const before = await cluster.waitFor('what was counted so far', async () => {
      const found = await answered(all);
      return Object.keys(more).every((key) => key in found) && found;
    });
    const againMs = Date.now();
    const roll = mesh.restartAgents();
    assert.deepEqual(await send(REQUESTS, FAILURES, PAUSE_MS), { 200: REQUESTS - FAILURES, 500: FAILURES });
    await roll;
    // Prometheus looks for other targets every five seconds.
    await cluster.waitFor('one target for each node', async () => {
      return (await running().targets('nodemesh-agent')).length === cluster.nodes.length;
    });
    const then = Object.fromEntries(
      Object.entries(more).map(([key, count]) => [key, count + (before[key] ?? 0)]),
    );
    // What an agent counts while it drains the next one shows some seconds later.
    let now = before;
    await cluster
      .waitFor('each request is counted', async () => {
        now = await answered(all);
        return isDeepStrictEqual(now, then);
      })
      .catch(() => assert.deepEqual(now, then));
    // From a little earlier: the first value in it is one of before.
    const window = Math.ceil((Date.now() - againMs) / 1000) + 5;
    const increase = await answered(`increase(${all}[${window}s])`);
    for (const [key, count] of Object.entries(more)) {
      assert.ok(isClose(increase[key] ?? 0, count), `${key}: an increase by ${increase[key]}, of ${count}`);
    }
  });

  /** `mesh` on the control plane's machine, where Prometheus is. Its output. */
  async function there(...args: readonly string[]): Promise<string> {
    const { control } = cluster.layout;
    const access = ['--kubeconfig', cluster.layout.kubeconfig, '--prometheus-url', running().url];
    const argv = ['nsenter', `--net=${netnsPath(control.netns)}`, MESH_COMMAND, ...args, ...access];
    const { code, stdout, stderr } = await runCommand(argv, { timeoutMs: 60_000 });
    assert.equal(code, 0, stderr);
    return stdout;
  }

  /** A request of the client that is never answered to its end. */
  function hold(): [string, string[], { stdio: 'ignore' }] {
    const program = `fetch('http://web:${PORT}/hold'); setInterval(() => {}, 1000)`;
    const exec = ['exec', `--namespace=${NS}`, client, '--', 'node', '-e', program];
    const [command = '', ...args] = cluster.kubectlArgv(exec);
    return [command, args, { stdio: 'ignore' }];
  }
});

/** `increase` guesses what was before the first and after the last value that it has: a few per cent. Counts are whole. */
const isClose = (value: number, expected: number): boolean =>
  value > expected * 0.995 - 0.5 && value < expected * 1.05 + 0.5;

/** Below a line of rates: a scrape that came late or not at all counts its neighbour's rate. */
const isNear = (value: number, expected: number): boolean => Math.abs(value - expected) < expected / 10;

function close(samples: readonly Sample[], classification: string, expected: number): boolean {
  const found = samples.find(({ metric }) => metric['classification'] === classification);
  return isClose(Number(found?.value[1]), expected);
}
