// SPDX-License-Identifier: Apache-2.0
// Access to a test cluster by its kubeconfig, which is JSON, without the client library: it would count as memory
// of the program that is measured.

import { readFileSync } from 'node:fs';
import type { ApiAccess } from '#lib/registry-kubernetes/api-access.ts';

interface Kubeconfig {
  readonly clusters: readonly { readonly cluster: Readonly<Record<string, string>> }[];
  readonly users: readonly { readonly user: Readonly<Record<string, string>> }[];
}

export function clusterAccess(kubeconfig: string, socket: string): ApiAccess {
  const { clusters, users } = JSON.parse(readFileSync(kubeconfig, 'utf8')) as Kubeconfig;
  const data = (text: string | undefined): Buffer => Buffer.from(text ?? '', 'base64');
  const credentials = {
    ca: data(clusters[0]?.cluster['certificate-authority-data']),
    cert: data(users[0]?.user['client-certificate-data']),
    key: data(users[0]?.user['client-key-data']),
    socketPath: socket,
    servername: 'localhost',
    headers: {},
  };
  return { server: clusters[0]?.cluster['server'] ?? '', credentials: () => Promise.resolve(credentials) };
}
