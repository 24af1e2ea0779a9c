// SPDX-License-Identifier: Apache-2.0
// Reaches the cluster of a kubeconfig, or the one that this runs in.

import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '#lib/core/clock.ts';
import { errnoName } from '#lib/core/errors.ts';
import {
  type ApiAccess,
  inCluster,
  podAccess,
  SERVICE_ACCOUNT_FOLDER,
} from '#lib/registry-kubernetes/api-access.ts';
import { createApiClient } from '#lib/registry-kubernetes/api-client.ts';
import { ApiFailure } from '#lib/registry-kubernetes/api-failure.ts';
import { kubeconfigAccess } from '#lib/registry-kubernetes/kubeconfig.ts';
import type { Cluster, ClusterObject } from './cluster.ts';

export interface ConnectOptions {
  readonly kubeconfig: string | undefined;
  readonly context: string | undefined;
  readonly as: string | undefined;
  readonly asGroups: readonly string[];
  readonly version: string;
}

export interface ConnectedCluster extends Cluster {
  /** What a command means that names no namespace: that of the context, or of the pod. */
  readonly namespace: string;
}

const PAGE = 500;
const TIMEOUT_MS = 30_000;
const RETRY_MS = 200;

export async function connect(options: ConnectOptions): Promise<ConnectedCluster> {
  const { access, namespace } = await accessOf(options);
  const api = createApiClient({
    access: impersonate(access, options),
    clock: systemClock,
    userAgent: `nodemesh-cli/${options.version}`,
  });
  const unlessAbsent = async (path: string, query: Readonly<Record<string, string>>): Promise<unknown> => {
    const endMs = systemClock.nowMs() + TIMEOUT_MS;
    for (;;) {
      try {
        return await api.call({ path, query, timeoutMs: TIMEOUT_MS });
      } catch (error) {
        if (!(error instanceof ApiFailure)) throw error;
        if (error.status === 404) return undefined;
        // It asks to be asked later: it has much to do, or opens the storage of a kind.
        const pauseMs = Math.max(error.retryAfterMs, RETRY_MS);
        if (error.status !== 429 || systemClock.nowMs() + pauseMs > endMs) throw error;
        await sleep(pauseMs);
      }
    }
  };
  return {
    namespace,
    get: async (path) => (await unlessAbsent(path, {})) as ClusterObject | undefined,
    async list(path, labelSelector) {
      const items: ClusterObject[] = [];
      const base = { limit: String(PAGE), ...(labelSelector === undefined ? {} : { labelSelector }) };
      for (let more = ''; ; ) {
        const page = (await unlessAbsent(path, more === '' ? base : { ...base, continue: more })) as
          | { readonly items?: readonly ClusterObject[]; readonly metadata?: { readonly continue?: string } }
          | undefined;
        if (page === undefined) return undefined;
        items.push(...(page.items ?? []));
        more = page.metadata?.continue ?? '';
        if (more === '') return items;
      }
    },
    async apply(path, object) {
      await api.call({
        method: 'PATCH',
        path,
        query: { fieldManager: 'mesh', force: 'true' },
        body: object,
        contentType: 'application/apply-patch+yaml',
        timeoutMs: TIMEOUT_MS,
      });
    },
    ask: async (path, object) =>
      (await api.call({ method: 'POST', path, body: object, timeoutMs: TIMEOUT_MS })) as ClusterObject,
    text: (path, query) =>
      api.text({ path, timeoutMs: TIMEOUT_MS, ...(query === undefined ? {} : { query }) }),
    async remove(path) {
      try {
        await api.call({
          method: 'DELETE',
          path,
          query: { propagationPolicy: 'Background' },
          timeoutMs: TIMEOUT_MS,
        });
      } catch (error) {
        if (!(error instanceof ApiFailure && error.status === 404)) throw error;
      }
    },
    close: () => api.close(),
  };
}

interface Reached {
  readonly access: ApiAccess;
  readonly namespace: string;
}

async function accessOf(options: ConnectOptions): Promise<Reached> {
  const named = options.kubeconfig !== undefined || (process.env['KUBECONFIG'] ?? '') !== '';
  if (!named && options.context === undefined && inCluster(process.env))
    return { access: podAccess(process.env, systemClock), namespace: await podNamespace() };
  const access = await kubeconfigAccess({
    ...(options.kubeconfig === undefined ? {} : { file: options.kubeconfig }),
    ...(options.context === undefined ? {} : { context: options.context }),
  });
  return { access, namespace: access.namespace };
}

async function podNamespace(): Promise<string> {
  try {
    return await readFile(`${SERVICE_ACCOUNT_FOLDER}/namespace`, 'utf8');
  } catch (error) {
    // A token that somebody mounted by hand comes without it.
    if (errnoName(error) === 'ENOENT') return 'default';
    throw error;
  }
}

/** The header for several groups has their names in a list, which one header cannot hold: only one is sent. */
function impersonate(access: ApiAccess, { as, asGroups }: ConnectOptions): ApiAccess {
  if (as === undefined) return access;
  return {
    server: access.server,
    async credentials(fresh) {
      const own = await access.credentials(fresh);
      return {
        ...own,
        headers: {
          ...own.headers,
          'impersonate-user': as,
          ...(asGroups[0] === undefined ? {} : { 'impersonate-group': asGroups[0] }),
        },
      };
    },
  };
}
