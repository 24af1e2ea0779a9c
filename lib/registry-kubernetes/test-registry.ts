// SPDX-License-Identifier: Apache-2.0
// A registry over the fake API server, with short pauses, for tests.

import { Registry as MetricRegistry } from 'prom-client';
import { systemClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import type { Kind } from '#lib/registry/model.ts';
import type { PodEvent, Registry } from '#lib/registry/registry.ts';
import { createApiClient, type KubernetesApi } from './api-client.ts';
import { createKubernetesCounts } from './counts.ts';
import { FakeApiServer } from './fake-api-server.ts';
import { kindSources } from './kinds.ts';
import { createKubernetesRegistry } from './kubernetes-registry.ts';
import { defaultTimings, type ReflectorTimings } from './reflector.ts';

export const PODS = '/api/v1/pods';

export const quickTimings: ReflectorTimings = {
  ...defaultTimings,
  firstPauseMs: 10,
  pauseMsMax: 100,
  absentMs: 50,
};

export class TestRegistry {
  readonly fake: FakeApiServer;
  readonly metrics = new MetricRegistry();
  readonly told: PodEvent[] = [];
  readonly log = recordingLog();
  readonly #opened: { registry: Registry; api: KubernetesApi }[] = [];

  private constructor(fake: FakeApiServer) {
    this.fake = fake;
  }

  /** A fake that serves all kinds but `without`. */
  static async start(without: readonly Kind[] = []): Promise<TestRegistry> {
    const served = Object.entries(kindSources)
      .filter(([kind]) => !without.includes(kind as Kind))
      .map(([, source]) => source.paths[0] ?? '');
    return new TestRegistry(await FakeApiServer.start(served));
  }

  open(options: { kinds?: readonly Kind[]; timings?: Partial<ReflectorTimings> } = {}): Registry {
    const api = createApiClient({
      access: { server: this.fake.url, credentials: () => Promise.resolve({ headers: {} }) },
      clock: systemClock,
      userAgent: 'test',
    });
    const metrics = this.#opened.length === 0 ? this.metrics : new MetricRegistry();
    const registry = createKubernetesRegistry({
      api,
      cluster: 'test',
      ...(options.kinds === undefined ? {} : { kinds: options.kinds }),
      counts: createKubernetesCounts(metrics),
      tell: (event) => this.told.push(event),
      clock: systemClock,
      random: Math.random,
      log: this.log,
      timings: { ...quickTimings, ...options.timings },
    });
    this.#opened.push({ registry, api });
    return registry;
  }

  /** The value of one series of the first registry's metrics. */
  async metric(name: string, labels: Readonly<Record<string, string>>): Promise<number> {
    const found = await this.metrics.getSingleMetric(name)?.get();
    return (
      found?.values.find((value) =>
        Object.entries(labels).every(([label, text]) => value.labels[label] === text),
      )?.value ?? 0
    );
  }

  async close(): Promise<void> {
    for (const { registry, api } of this.#opened) {
      registry.close();
      api.close();
    }
    await this.fake.close();
  }
}

/** Looks again until it holds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + 20_000;
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error(`not within 20 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
