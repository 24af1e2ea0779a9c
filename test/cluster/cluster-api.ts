// SPDX-License-Identifier: Apache-2.0
// The API of the test cluster from outside its network namespaces, as its administrator or as somebody with a token.

import { Registry as MetricRegistry } from 'prom-client';
import { systemClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import type { Kind } from '#lib/registry/model.ts';
import type { PodEvent, Registry } from '#lib/registry/registry.ts';
import type { ApiAccess } from '#lib/registry-kubernetes/api-access.ts';
import { createApiClient, type KubernetesApi } from '#lib/registry-kubernetes/api-client.ts';
import { ApiFailure } from '#lib/registry-kubernetes/api-failure.ts';
import { createKubernetesCounts } from '#lib/registry-kubernetes/counts.ts';
import { kubeconfigAccess } from '#lib/registry-kubernetes/kubeconfig.ts';
import { createKubernetesRegistry } from '#lib/registry-kubernetes/kubernetes-registry.ts';
import { DEFAULT_NAME } from '../kind/layout.ts';
import { requireCluster } from '../kind/notes.ts';
import { PATIENCE_MS } from './cluster.ts';

export type Manifest = Readonly<Record<string, unknown>> & {
  readonly metadata: { readonly name: string; readonly namespace?: string } & Readonly<
    Record<string, unknown>
  >;
};

export const testCluster = () => requireCluster(process.env['CLUSTER'] ?? DEFAULT_NAME);

/** `token`: instead of the administrator's certificate. */
export async function clusterAccess(token?: string): Promise<ApiAccess> {
  const { kubeconfig, apiSocket } = testCluster();
  const access = await kubeconfigAccess({ file: kubeconfig });
  return {
    server: access.server,
    async credentials() {
      const { ca, ...own } = await access.credentials();
      const way = { ...(ca === undefined ? {} : { ca }), socketPath: apiSocket, servername: 'localhost' };
      return token === undefined
        ? { ...own, ...way }
        : { ...way, headers: { authorization: `Bearer ${token}` } };
    },
  };
}

export async function clusterApi(token?: string): Promise<KubernetesApi> {
  const access = await clusterAccess(token);
  return createApiClient({ access, clock: systemClock, userAgent: 'nodemesh-test' });
}

export interface OpenedRegistry {
  readonly registry: Registry;
  readonly metrics: MetricRegistry;
  readonly told: readonly PodEvent[];
  close(): void;
}

export async function openRegistry(kinds?: readonly Kind[], token?: string): Promise<OpenedRegistry> {
  const api = await clusterApi(token);
  const metrics = new MetricRegistry();
  const told: PodEvent[] = [];
  const registry = createKubernetesRegistry({
    api,
    cluster: 'test',
    ...(kinds === undefined ? {} : { kinds }),
    counts: createKubernetesCounts(metrics),
    tell: (event) => told.push(event),
    clock: systemClock,
    random: Math.random,
    log: silentLog,
  });
  return {
    registry,
    metrics,
    told,
    close() {
      registry.close();
      api.close();
    },
  };
}

/** Runs a call again while it fails with `status`; such as 403 while a namespace's account is being made. */
export async function retried<T>(statuses: readonly number[], run: () => Promise<T>): Promise<T> {
  const endMs = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof ApiFailure) || !statuses.includes(error.status) || performance.now() > endMs) {
        throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

/** Undefined instead of a failure with that status. */
export async function unless<T>(status: number, run: Promise<T>): Promise<T | undefined> {
  try {
    return await run;
  } catch (error) {
    if (error instanceof ApiFailure && error.status === status) return undefined;
    throw error;
  }
}

export async function makeNamespace(api: KubernetesApi, name: string): Promise<void> {
  const body = { apiVersion: 'v1', kind: 'Namespace', metadata: { name } };
  await unless(409, api.call({ method: 'POST', path: '/api/v1/namespaces', body }));
  await retried([404], () => api.call({ path: `/api/v1/namespaces/${name}/serviceaccounts/default` }));
}

/** Looks again until it holds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
