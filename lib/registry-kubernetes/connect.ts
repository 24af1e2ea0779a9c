// SPDX-License-Identifier: Apache-2.0
// What a program of the control plane needs of a cluster, put together: registry, token reviewer, Events about the
// program itself, and which replica leads.

import { randomUUID } from 'node:crypto';
import type { Registry as MetricRegistry } from 'prom-client';
import type { Clock, Random } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { alone, type Leadership } from '#lib/registry/leadership.ts';
import type { Kind, Taint } from '#lib/registry/model.ts';
import type { PodEvent, Registry } from '#lib/registry/registry.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import { type ApiAccess, podAccess } from './api-access.ts';
import { createApiClient, type KubernetesApi } from './api-client.ts';
import { createKubernetesCounts } from './counts.ts';
import { writeEvent } from './events.ts';
import { kubeconfigAccess } from './kubeconfig.ts';
import { createKubernetesRegistry } from './kubernetes-registry.ts';
import { type Lease, startLease } from './lease.ts';
import { removeTaint } from './taint.ts';
import { createTokenReviewer } from './token-review.ts';

export interface ClusterOptions {
  /** Empty: the pod's own ServiceAccount. */
  readonly kubeconfig: string;
  readonly cluster: string;
  readonly kinds: readonly Kind[];
  /** The Deployment that Events are about. */
  readonly self: { readonly namespace: string; readonly name: string };
  /** The Lease by which one replica leads; the others tell no Events then. Absent: each speaks for itself. */
  readonly lease?: string;
  readonly version: string;
  readonly metrics: MetricRegistry;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface ConnectedCluster {
  readonly api: KubernetesApi;
  readonly registry: Registry;
  readonly reviewer: TokenReviewer;
  /** Writes an Event about the program; a failure is logged. */
  tell(event: PodEvent): void;
  readonly leadership: Leadership;
  /** Takes the taint at `index` off a node; fails if another one stands there. */
  removeTaint(node: string, index: number, taint: Taint): Promise<void>;
  close(): Promise<void>;
}

export async function connectCluster(options: ClusterOptions): Promise<ConnectedCluster> {
  const { clock, log, self } = options;
  const access: ApiAccess =
    options.kubeconfig === ''
      ? podAccess(options.env, clock)
      : await kubeconfigAccess({ file: options.kubeconfig });
  const api = createApiClient({ access, clock, userAgent: `${self.name}/${options.version} (nodemesh)` });
  const counts = createKubernetesCounts(options.metrics);
  const { lease, leadership } = leadWith(options, api);
  const tell = (event: PodEvent): void => {
    if (!leadership.leading) return;
    const subject = { apiVersion: 'apps/v1', kind: 'Deployment', ...self };
    writeEvent({ api, clock, component: self.name }, subject, event, true).then(
      () => counts.wrote('event', 'written'),
      (error: unknown) => {
        counts.wrote('event', 'failed');
        log.warn({ event: event.reason, reason: errorMessage(error) }, 'event was not written');
      },
    );
  };
  const registry = createKubernetesRegistry({ ...options, api, counts, tell });
  return {
    api,
    registry,
    reviewer: createTokenReviewer({ api, counts }),
    tell,
    leadership,
    removeTaint: (node, index, taint) => removeTaint(api, node, index, taint),
    async close() {
      registry.close();
      await lease?.close();
      api.close();
    },
  };
}

function leadWith(
  options: ClusterOptions,
  api: KubernetesApi,
): { readonly lease: Lease | undefined; readonly leadership: Leadership } {
  if (options.lease === undefined) return { lease: undefined, leadership: alone };
  const listeners = new Set<(leading: boolean) => void>();
  const lease = startLease({
    ...options,
    api,
    namespace: options.self.namespace,
    name: options.lease,
    // In a pod its name.
    holder: options.env['HOSTNAME'] ?? randomUUID(),
    onChange(leading) {
      for (const listener of listeners) listener(leading);
    },
  });
  const leadership: Leadership = {
    get leading() {
      return lease.leading;
    },
    onChange: (listener) => void listeners.add(listener),
  };
  return { lease, leadership };
}
