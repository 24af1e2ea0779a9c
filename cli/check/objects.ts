// SPDX-License-Identifier: Apache-2.0
// The fields of Kubernetes objects that checks read.

import type { Cluster, ClusterObject } from '../install/cluster.ts';
import { Problem } from './check.ts';

export interface PodObject extends ClusterObject {
  readonly spec?: {
    readonly nodeName?: string;
    readonly hostNetwork?: boolean;
    readonly containers?: readonly { readonly name: string; readonly image?: string }[];
  };
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly conditions?: readonly Condition[];
    readonly containerStatuses?: readonly { readonly name: string; readonly ready: boolean }[];
  };
}

export interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
  readonly message?: string;
  readonly lastHeartbeatTime?: string;
}

export interface NodeObject extends ClusterObject {
  readonly spec?: { readonly podCIDRs?: readonly string[] };
  readonly status?: {
    readonly conditions?: readonly Condition[];
    readonly nodeInfo?: {
      readonly kernelVersion?: string;
      readonly operatingSystem?: string;
      readonly architecture?: string;
    };
  };
}

/** Of all namespaces; a kind that is not served has none. */
export const listOf = async <O extends ClusterObject = ClusterObject>(
  cluster: Cluster,
  path: string,
  labelSelector?: string,
): Promise<readonly O[]> => ((await cluster.list(path, labelSelector)) ?? []) as readonly O[];

export const podName = ({ metadata }: ClusterObject): string =>
  `${metadata.namespace ?? ''}/${metadata.name}`;

export const conditionOf = (
  object: { readonly status?: { readonly conditions?: readonly Condition[] } },
  type: string,
): Condition | undefined => object.status?.conditions?.find((condition) => condition.type === type);

/** Throws unless every one of `names` is there. */
export async function requireAll(
  cluster: Cluster,
  kind: string,
  pathOf: (name: string) => string,
  names: readonly string[],
): Promise<void> {
  const missing: string[] = [];
  for (const name of names) if ((await cluster.get(pathOf(name))) === undefined) missing.push(name);
  if (missing.length > 0) throw new Problem(`missing ${kind}: ${missing.join(', ')}`);
}
