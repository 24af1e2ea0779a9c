// SPDX-License-Identifier: Apache-2.0
// An API server and a Prometheus for tests of `mesh stat` and `mesh edges`, and the commands as a user runs them there.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FakeApiServer } from '#lib/registry-kubernetes/fake-api-server.ts';
import { stringify } from 'yaml';
import { FakePrometheus } from './fake-prometheus.ts';
import type { StatFlags } from './flags.ts';
import { runEdges, runStat } from './run.ts';

export const DEPLOYMENTS = '/apis/apps/v1/namespaces/shop/deployments';
export const NAMESPACES = '/api/v1/namespaces';
export const CONFIG_MAPS = '/api/v1/namespaces/nodemesh/configmaps';

const collections = [
  '/apis/apps/v1/deployments',
  DEPLOYMENTS,
  NAMESPACES,
  CONFIG_MAPS,
  ...['jobs', 'cronjobs'].flatMap((plural) => [
    `/apis/batch/v1/${plural}`,
    `/apis/batch/v1/namespaces/shop/${plural}`,
  ]),
  ...['pods', 'services'].flatMap((plural) => [`/api/v1/${plural}`, `${NAMESPACES}/shop/${plural}`]),
];

const GROUPS: Readonly<Record<string, string>> = {
  deployments: '/apis/apps/v1',
  jobs: '/apis/batch/v1',
  cronjobs: '/apis/batch/v1',
};

export interface Said {
  readonly out: string;
  readonly notes: string;
}

export class TestSources {
  readonly api: FakeApiServer;
  readonly prometheus: FakePrometheus;
  readonly #folder: string;

  private constructor(api: FakeApiServer, prometheus: FakePrometheus) {
    this.api = api;
    this.prometheus = prometheus;
    this.#folder = mkdtempSync(join(tmpdir(), 'nodemesh-traffic-'));
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'c', cluster: { server: api.url, 'insecure-skip-tls-verify': true } }],
      users: [{ name: 'u', user: {} }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u', namespace: 'shop' } }],
      'current-context': 'x',
    };
    writeFileSync(join(this.#folder, 'kubeconfig'), stringify(config));
  }

  static async start(): Promise<TestSources> {
    return new TestSources(await FakeApiServer.start(collections), await FakePrometheus.start());
  }

  async close(): Promise<void> {
    rmSync(this.#folder, { recursive: true });
    await Promise.all([this.api.close(), this.prometheus.close()]);
  }

  stat(resources: string, flags: Partial<StatFlags> = {}): Promise<Said> {
    return this.#run(runStat, resources, flags);
  }

  edges(resources: string, flags: Partial<StatFlags> = {}): Promise<Said> {
    return this.#run(runEdges, resources, flags);
  }

  async #run(run: typeof runStat, resources: string, flags: Partial<StatFlags>): Promise<Said> {
    let out = '';
    let notes = '';
    const all: StatFlags = {
      linkerdNamespace: 'nodemesh',
      kubeconfig: join(this.#folder, 'kubeconfig'),
      resources: resources.split(' '),
      allNamespaces: false,
      output: 'table',
      prometheusUrl: this.prometheus.url,
      timeWindow: '1m',
      unmeshed: false,
      ...flags,
    };
    await run(all, {
      out: (text) => void (out += text),
      note: (line) => void (notes += `${line}\n`),
      colour: false,
    });
    return { out, notes };
  }

  /** In namespace `shop`: in the collection of the namespace and in that of all. */
  put(
    plural: 'deployments' | 'jobs' | 'cronjobs' | 'pods' | 'services',
    name: string,
    more: object = {},
  ): void {
    const group = GROUPS[plural] ?? '/api/v1';
    const metadata = { name, namespace: 'shop', creationTimestamp: '2026-01-01T00:00:00Z' };
    this.api.put(`${group}/namespaces/shop/${plural}`, { metadata, ...more });
    this.api.put(`${group}/${plural}`, { metadata, ...more });
  }
}
