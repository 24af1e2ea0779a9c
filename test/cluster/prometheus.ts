// SPDX-License-Identifier: Apache-2.0
// Debian's Prometheus on the control plane's machine, with the rules of docs/monitoring. It is built without discovery
// in Kubernetes: it is handed the pods (pod-targets.ts), anew all the time.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, stringify } from 'yaml';
import { netnsPath } from '../kind/layout.ts';
import type { Cluster } from './cluster.ts';
import { MESH_NAMESPACE } from './installation.ts';
import { application, service } from './objects.ts';
import { writePodTargets } from './pod-targets.ts';

const CONFIG = resolve(import.meta.dirname, '../../docs/monitoring/scrape-config.yaml');
const PORT = 9090;
export const SCRAPE_INTERVAL_MS = 1000;
const LOOK_AGAIN_MS = 500;

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [number, string];
}
export interface Range {
  readonly metric: Readonly<Record<string, string>>;
  readonly values: readonly (readonly [number, string])[];
}
export interface Target {
  readonly labels: Readonly<Record<string, string>>;
  readonly health: string;
  readonly lastError: string;
}

export interface ClusterPrometheus {
  /** For programs in the control plane's network namespace, and for the API server. */
  readonly url: string;
  query(text: string): Promise<readonly Sample[]>;
  /** A value for each scrape from then until now. */
  range(text: string, fromMs: number): Promise<readonly Range[]>;
  targets(job: string): Promise<readonly Target[]>;
  close(): Promise<void>;
}

export async function startPrometheus(cluster: Cluster): Promise<ClusterPrometheus> {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-prometheus-'));
  const found = join(folder, 'pods.json');
  await writePodTargets(cluster, MESH_NAMESPACE, found);
  const over = new AbortController();
  const looking = (async () => {
    while (!over.signal.aborted) {
      // As Prometheus' own discovery: when the API server does not answer, what it has found so far stays.
      await writePodTargets(cluster, MESH_NAMESPACE, found).catch((error: unknown) => console.error(error));
      await sleep(LOOK_AGAIN_MS);
    }
  })();
  const address = `${cluster.control.address}:${PORT}`;
  const url = `http://${address}`;
  const child = spawnPrometheus(cluster, folder, found, address);

  async function ask<T>(path: string, ...parameters: readonly string[]): Promise<T> {
    const data = parameters.flatMap((one) => ['--data-urlencode', one]);
    const argv = ['curl', '-sSG', '--max-time', '30', `${url}/api/v1/${path}`, ...data];
    const stdout = await cluster.control.output(argv);
    const answer = JSON.parse(stdout) as { status: string; data: T };
    assert.equal(answer.status, 'success', stdout);
    return answer.data;
  }
  async function close(): Promise<void> {
    over.abort();
    await looking;
    const ended = once(child, 'exit');
    if (child.exitCode === null && child.kill('SIGKILL')) await ended;
    rmSync(folder, { recursive: true });
  }
  try {
    // Until it has read its data, it answers each question with 503 and a plain text.
    await cluster.waitFor('Prometheus is ready', async () => {
      const { code } = await cluster.control.run(['curl', '-fsS', '--max-time', '5', `${url}/-/ready`]);
      return code === 0;
    });
  } catch (error) {
    await close();
    throw error;
  }

  return {
    url,
    query: async (text) => (await ask<{ result: readonly Sample[] }>('query', `query=${text}`)).result,
    async range(text, fromMs) {
      const times = [
        `start=${fromMs / 1000}`,
        `end=${Date.now() / 1000}`,
        `step=${SCRAPE_INTERVAL_MS / 1000}`,
      ];
      return (await ask<{ result: readonly Range[] }>('query_range', `query=${text}`, ...times)).result;
    },
    async targets(job) {
      const answer = await ask<{ activeTargets: readonly Target[] }>('targets', 'state=active');
      return answer.activeTargets.filter(({ labels }) => labels['job'] === job);
    },
    close,
  };
}

function spawnPrometheus(cluster: Cluster, folder: string, found: string, address: string): ChildProcess {
  const shipped = parse(readFileSync(CONFIG, 'utf8')) as { kubernetes_sd_configs: unknown }[];
  const scrape_configs = shipped.map(({ kubernetes_sd_configs, ...job }) => {
    assert.deepEqual(kubernetes_sd_configs, [{ role: 'pod', namespaces: { names: [MESH_NAMESPACE] } }]);
    return { ...job, file_sd_configs: [{ files: [found], refresh_interval: '1s' }] };
  });
  const file = join(folder, 'prometheus.yaml');
  const interval = `${SCRAPE_INTERVAL_MS}ms`;
  const global = { scrape_interval: interval, scrape_timeout: interval };
  writeFileSync(file, stringify({ global, scrape_configs }));
  return spawn(
    'nsenter',
    [
      `--net=${netnsPath(cluster.layout.control.netns)}`,
      'prometheus',
      `--config.file=${file}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=${address}`,
      '--log.level=warn',
    ],
    { stdio: ['ignore', 'inherit', 'inherit'] },
  );
}

const FORWARD = `
const { connect, createServer } = require('node:net');
createServer((near) => {
  const far = connect(${PORT}, process.argv[1]);
  for (const [one, other] of [[near, far], [far, near]]) one.on('error', () => other.destroy()).pipe(other);
}).listen(${PORT});`;

/** As a Service that `mesh` finds. The API server carries requests only to pods: one that carries them on. */
export async function exposePrometheus(cluster: Cluster, namespace: string): Promise<void> {
  const name = 'prometheus';
  await cluster.apply([
    application({
      namespace,
      name,
      port: PORT,
      command: ['node', '-e', FORWARD, cluster.control.address],
    }),
    service(namespace, name, PORT, {}, { 'nodemesh.io/prometheus': 'true' }),
  ]);
  const ready = `/api/v1/namespaces/${namespace}/services/${name}:${PORT}/proxy/-/ready`;
  await cluster.waitFor(
    'the API server reaches Prometheus',
    async () => (await cluster.tryKubectl(['get', '--raw', ready])).code === 0,
  );
}
