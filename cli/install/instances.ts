// SPDX-License-Identifier: Apache-2.0
// What goes with CustomResourceDefinitions when they are deleted. To ask also makes the API server open the storage of
// each kind. Of a kind that nobody has asked for so far, Kubernetes fails to list what it shall clean up, and may take
// up to five minutes to try again, while `kubectl delete` waits.

import type { Cluster, ClusterObject } from './cluster.ts';
import { definitionsKind, type MinimalObject } from './owned.ts';

interface DefinitionObject extends ClusterObject {
  readonly spec?: {
    readonly group: string;
    readonly names: { readonly plural: string };
    readonly versions: readonly { readonly name: string; readonly served: boolean }[];
  };
}

/** `3 servers.policy.linkerd.io` for each kind of which there is something. */
export async function instancesOf(
  cluster: Cluster,
  definitions: readonly MinimalObject[],
): Promise<readonly string[]> {
  const counts: string[] = [];
  for (const { metadata } of definitions) {
    const found = (await cluster.get(`${definitionsKind.path}/${metadata.name}`)) as
      | DefinitionObject
      | undefined;
    const version = found?.spec?.versions.find(({ served }) => served)?.name;
    if (found?.spec === undefined || version === undefined) continue;
    const { group, names } = found.spec;
    const count = (await cluster.list(`/apis/${group}/${version}/${names.plural}`))?.length ?? 0;
    if (count > 0) counts.push(`${count} ${metadata.name}`);
  }
  return counts;
}
