// SPDX-License-Identifier: Apache-2.0
// Takes one taint off a node, and nothing else: what stands at its place by then is compared first.

import type { Taint } from '#lib/registry/model.ts';
import type { KubernetesApi } from './api-client.ts';

export async function removeTaint(
  api: KubernetesApi,
  node: string,
  index: number,
  { key, effect }: Taint,
): Promise<void> {
  const path = `/spec/taints/${index}`;
  await api.call({
    method: 'PATCH',
    path: `/api/v1/nodes/${node}`,
    contentType: 'application/json-patch+json',
    body: [
      { op: 'test', path: `${path}/key`, value: key },
      { op: 'test', path: `${path}/effect`, value: effect },
      { op: 'remove', path },
    ],
  });
}
