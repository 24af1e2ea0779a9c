// SPDX-License-Identifier: Apache-2.0
// Where the Kubernetes API is and how one proves who one is: the mounted ServiceAccount of a pod. For kubeconfig
// files see kubeconfig.ts, which loads a far larger client.

import { readFile } from 'node:fs/promises';
import type { Clock } from '#lib/core/clock.ts';
import { MeshError } from '#lib/core/errors.ts';

export interface ApiCredentials {
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  readonly servername?: string;
  readonly rejectUnauthorized?: boolean;
  /** A Unix socket that leads to the server. */
  readonly socketPath?: string;
  readonly headers: Readonly<Record<string, string>>;
}

export interface ApiAccess {
  /** `https://host:port`, with a path if the API is not at the root. */
  readonly server: string;
  /** For the next request. `fresh`: what was given last was refused. */
  credentials(fresh?: boolean): Promise<ApiCredentials>;
}

export const SERVICE_ACCOUNT_FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';

/** The kubelet renews the token long before its end. */
const TOKEN_KEPT_MS = 30_000;

/** Whether the environment is that of a pod. */
export const inCluster = (env: Readonly<Record<string, string | undefined>>): boolean =>
  (env['KUBERNETES_SERVICE_HOST'] ?? '') !== '';

export function podAccess(
  env: Readonly<Record<string, string | undefined>>,
  clock: Clock,
  folder = SERVICE_ACCOUNT_FOLDER,
): ApiAccess {
  const host = env['KUBERNETES_SERVICE_HOST'] ?? '';
  const port = env['KUBERNETES_SERVICE_PORT'] ?? '443';
  if (host === '') {
    throw new MeshError('MESH_CONFIG_INVALID', 'KUBERNETES_SERVICE_HOST is not set: this is no pod', {
      remedy: 'run it in a cluster, or name a kubeconfig or a folder',
    });
  }
  let known: ApiCredentials | undefined;
  let readAtMs = 0;
  return {
    server: `https://${host.includes(':') ? `[${host}]` : host}:${port}`,
    async credentials(fresh = false) {
      if (known !== undefined && !fresh && clock.nowMs() - readAtMs < TOKEN_KEPT_MS) return known;
      const [token, ca] = await Promise.all([
        readFile(`${folder}/token`, 'utf8'),
        readFile(`${folder}/ca.crt`, 'utf8'),
      ]);
      readAtMs = clock.nowMs();
      known = { ca, headers: { authorization: `Bearer ${token.trim()}` } };
      return known;
    },
  };
}
