// SPDX-License-Identifier: Apache-2.0
// A real Prometheus (Debian's) with the rules of docs/monitoring takes every node's agent for one target, and Linkerd's
// queries return on it what a client counted itself, also while the agents are rolled. Debian builds it without
// discovery in Kubernetes: the test hands it the pods (pod-targets.ts).

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, stringify } from 'yaml';
import { netnsPath } from '../kind/layout.ts';
import { type Cluster, openCluster } from './cluster.ts';
import {
  controlPlaneReady,
  installControlPlane,
  installNodes,
  MESH_NAMESPACE,
  nodePodsReady,
  removeMesh,
} from './mesh.ts';
import { application, service } from './objects.ts';
import { writePodTargets } from './pod-targets.ts';

const CONFIG = resolve(import.meta.dirname, '../../docs/monitoring/scrape-config.yaml');
const NS = 'scraped';
const PORT = 8080;
const REQUESTS = 1000;
const FAILURES = 37;
const WEB = `
require('node:http').createServer((request, response) => {
  response.statusCode = request.url === '/fail' ? 500 : 200;
  response.end('said');
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

interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [number, string];
}
interface Target {
  readonly labels: Readonly<Record<string, string>>;
  readonly health: string;
  readonly lastError: string;
}

describe('a Prometheus in the cluster', { timeout: 280_000 }, () => {
  let cluster: Cluster;
  let folder: string;
  let prometheus: ChildProcess | undefined;
  let client: string;
  /** The pods, written anew all the time. */
  let found: string;
  let looking: Promise<void> | undefined;
  const over = new AbortController();

  before(async () => {
    cluster = await openCluster();
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-prometheus-'));
    await removeMesh(cluster);
    await installControlPlane(cluster);
    await installNodes(cluster);
    await cluster.makeNamespace(NS);
    await cluster.kubectl(['annotate', 'namespace', NS, 'linkerd.io/inject=enabled']);
    const [near = '', far = ''] = cluster.nodes.map(({ name }) => name);
    const on = (node: string) => ({ pod: { nodeSelector: { 'kubernetes.io/hostname': node } } });
    await controlPlaneReady(cluster);
    await nodePodsReady(cluster, 'agent');
    await cluster.apply([
      application({ namespace: NS, name: 'web', port: PORT, command: ['node', '-e', WEB], ...on(far) }),
      service(NS, 'web', PORT),
      application({ namespace: NS, name: 'client', command: ['sleep', 'infinity'], ...on(near) }),
    ]);
    await cluster.podsReady(NS, 'app=web', 1);
    client = (await cluster.podsReady(NS, 'app=client', 1))[0]?.metadata.name ?? '';
    found = join(folder, 'pods.json');
    await writePodTargets(cluster, MESH_NAMESPACE, found);
    startPrometheus();
    looking = (async () => {
      while (!over.signal.aborted) {
        await writePodTargets(cluster, MESH_NAMESPACE, found);
        await sleep(500);
      }
    })();
    await cluster.waitFor('Prometheus answers', async () => (await ask('query', 'query=1')) !== undefined);
  });
  after(async () => {
    over.abort();
    await looking;
    if (prometheus !== undefined) {
      prometheus.kill('SIGKILL');
      await once(prometheus, 'exit');
    }
    if (folder !== undefined) rmSync(folder, { recursive: true });
    if (cluster === undefined) return;
    await removeMesh(cluster);
    await cluster.close();
  });

  function startPrometheus(): void {
    const { layout } = cluster;
    const shipped = parse(readFileSync(CONFIG, 'utf8')) as { kubernetes_sd_configs: unknown }[];
    const scrape_configs = shipped.map(({ kubernetes_sd_configs, ...job }) => {
      assert.deepEqual(kubernetes_sd_configs, [{ role: 'pod', namespaces: { names: [MESH_NAMESPACE] } }]);
      return { ...job, file_sd_configs: [{ files: [found], refresh_interval: '1s' }] };
    });
    const file = join(folder, 'prometheus.yaml');
    writeFileSync(
      file,
      stringify({ global: { scrape_interval: '1s', scrape_timeout: '1s' }, scrape_configs }),
    );
    prometheus = spawn(
      'nsenter',
      [
        `--net=${netnsPath(layout.control.netns)}`,
        'prometheus',
        `--config.file=${file}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        '--web.listen-address=127.0.0.1:9090',
        '--log.level=warn',
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    );
  }

  async function ask<T>(path: string, ...parameters: readonly string[]): Promise<T | undefined> {
    const url = `http://127.0.0.1:9090/api/v1/${path}`;
    const data = parameters.flatMap((one) => ['--data-urlencode', one]);
    const { code, stdout } = await cluster.control.run(['curl', '-sSG', '--max-time', '5', url, ...data]);
    if (code !== 0) return undefined;
    const answer = JSON.parse(stdout) as { status: string; data: T };
    assert.equal(answer.status, 'success', stdout);
    return answer.data;
  }
  const query = async (text: string): Promise<readonly Sample[]> =>
    (await ask<{ result: readonly Sample[] }>('query', `query=${text}`))?.result ?? [];
  const targets = async (job: string): Promise<readonly Target[]> =>
    (
      (await ask<{ activeTargets: readonly Target[] }>('targets', 'state=active'))?.activeTargets ?? []
    ).filter(({ labels }) => labels['job'] === job);
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
    await cluster.waitFor('all targets are up', async () => {
      const [agents, parts] = await Promise.all([targets('nodemesh-agent'), targets('nodemesh-controller')]);
      return (
        agents.length === nodes.length &&
        parts.length === 3 &&
        [...agents, ...parts].every(({ health }) => health === 'up')
      );
    });
    assert.deepEqual(
      (await targets('nodemesh-agent')).map(({ labels }) => labels['node'] ?? '').sort(),
      nodes,
    );
    assert.deepEqual(
      (await targets('nodemesh-controller')).map(({ labels }) => labels['component'] ?? '').sort(),
      ['destination', 'identity', 'policy-validator'],
    );
  });

  it('returns what the client counted, while every agent is replaced', async () => {
    // So that series are there before what is counted: an increase needs a value to begin with.
    assert.deepEqual(await send(2, 1, 0), { 200: 1, 500: 1 });
    await cluster.waitFor('both series are scraped, on both sides', async () => {
      const found = await query(`sum(response_total{namespace="${NS}"}) by (direction, classification)`);
      return found.length === 4;
    });
    const roll = cluster
      .kubectl(['rollout', 'restart', 'daemonset/nodemesh-agent', `--namespace=${MESH_NAMESPACE}`])
      .then(() =>
        cluster.kubectl(
          [
            'rollout',
            'status',
            'daemonset/nodemesh-agent',
            `--namespace=${MESH_NAMESPACE}`,
            '--timeout=120s',
          ],
          { timeoutMs: 130_000 },
        ),
      );
    assert.deepEqual(await send(REQUESTS, FAILURES, 25), { 200: REQUESTS - FAILURES, 500: FAILURES });
    await roll;
    await nodePodsReady(cluster, 'agent');
    assert.equal((await targets('nodemesh-agent')).length, cluster.nodes.length);

    const identity = `default.${NS}.serviceaccount.identity.linkerd.cluster.local`;
    const statQueries = {
      'stat deploy/web': `sum(increase(response_total{direction="inbound", deployment="web", namespace="${NS}"}[5m])) by (deployment, classification, tls)`,
      'stat deploy/client --to deploy/web': `sum(increase(response_total{direction="outbound", deployment="client", namespace="${NS}", dst_deployment="web", dst_namespace="${NS}"}[5m])) by (deployment, classification, tls)`,
      'stat svc/web': `sum(increase(response_total{direction="outbound", authority=~"^web.${NS}.svc.cluster.local.*"}[5m])) by (dst_namespace, dst_service, classification, tls)`,
    };
    for (const [what, text] of Object.entries(statQueries)) {
      let seen: readonly Sample[] = [];
      await cluster
        .waitFor(
          what,
          async () => {
            seen = await query(text);
            return (
              seen.length === 2 &&
              seen.every(({ metric }) => metric['tls'] === 'true') &&
              close(seen, 'success', REQUESTS - FAILURES) &&
              close(seen, 'failure', FAILURES)
            );
          },
          30_000,
        )
        .catch((error: unknown) => assert.fail(`${String(error)}: ${JSON.stringify(seen)}`));
    }
    const [latency] = await query(
      `histogram_quantile(0.99, sum(rate(response_latency_ms_bucket{direction="inbound", deployment="web"}[5m])) by (le, deployment))`,
    );
    assert.ok(Number(latency?.value[1]) > 0, JSON.stringify(latency));
    const [edge] = await query(
      `sum(tcp_open_connections{direction="outbound", deployment!="", dst_deployment!=""}) by (deployment, dst_deployment, server_id, namespace, dst_namespace, no_tls_reason)`,
    );
    assert.deepEqual(edge?.metric, {
      deployment: 'client',
      dst_deployment: 'web',
      server_id: identity,
      namespace: NS,
      dst_namespace: NS,
    });
    const started = await query(`max(process_start_time_seconds{namespace="${NS}"}) by (pod, namespace)`);
    assert.equal(started.length, 2);
  });
});

/** `increase` guesses what was before the first and after the last value that it has: a few per cent. */
function close(samples: readonly Sample[], classification: string, expected: number): boolean {
  const value = Number(samples.find(({ metric }) => metric['classification'] === classification)?.value[1]);
  return value > expected * 0.995 && value < expected * 1.05;
}
