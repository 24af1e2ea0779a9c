// SPDX-License-Identifier: Apache-2.0
// Access by a kubeconfig file, with everything that users put there (client certificates, tokens, programs that
// make tokens, OpenID Connect): for the command line and for control-plane programs outside a cluster. The client
// that reads it takes a second and 70 MB to load, so that only who asks for it pays (decision 021).

import type { RequestOptions } from 'node:https';
import { MeshError } from '#lib/core/errors.ts';
import type { ApiAccess, ApiCredentials } from './api-access.ts';

export interface KubeconfigOptions {
  /** Empty: as kubectl looks for it ($KUBECONFIG, ~/.kube/config). */
  readonly file?: string;
  readonly context?: string;
}

export interface KubeconfigAccess extends ApiAccess {
  /** Of the context; `default` if it names none. */
  readonly namespace: string;
  readonly context: string;
}

export async function kubeconfigAccess(options: KubeconfigOptions = {}): Promise<KubeconfigAccess> {
  const { KubeConfig } = await import('@kubernetes/client-node');
  const config = new KubeConfig();
  try {
    if (options.file === undefined || options.file === '') config.loadFromDefault();
    else config.loadFromFile(options.file);
    if (options.context !== undefined && options.context !== '') config.setCurrentContext(options.context);
  } catch (error) {
    throw MeshError.from(error, 'MESH_CONFIG_INVALID', `kubeconfig ${options.file ?? ''} cannot be read`);
  }
  const cluster = config.getCurrentCluster();
  const context = config.getCurrentContext();
  if (cluster === null) {
    throw new MeshError('MESH_CONFIG_INVALID', `the kubeconfig has no cluster for context "${context}"`, {
      remedy: 'name a context, or a file that has one',
    });
  }
  const { server } = cluster;
  return {
    server: server.replace(/\/+$/, ''),
    context,
    namespace: config.getContextObject(context)?.namespace ?? 'default',
    async credentials(): Promise<ApiCredentials> {
      const applied: RequestOptions = {};
      await config.applyToHTTPSOptions(applied);
      const headers: Record<string, string> = {};
      for (const [name, value] of Object.entries(applied.headers ?? {})) headers[name] = String(value);
      if (typeof applied.auth === 'string') {
        headers['authorization'] = `Basic ${Buffer.from(applied.auth).toString('base64')}`;
      }
      return {
        ...textOf('ca', applied.ca),
        ...textOf('cert', applied.cert),
        ...textOf('key', applied.key),
        ...(applied.servername === undefined ? {} : { servername: applied.servername }),
        ...(applied.rejectUnauthorized === undefined
          ? {}
          : { rejectUnauthorized: applied.rejectUnauthorized }),
        headers,
      };
    },
  };
}

function textOf<Name extends string>(
  name: Name,
  value: unknown,
): { readonly [key in Name]?: string | Buffer } {
  if (typeof value !== 'string' && !Buffer.isBuffer(value)) return {};
  return { [name]: value } as { readonly [key in Name]: string | Buffer };
}
