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
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

export interface ContainerStatus {
  readonly name: string;
  readonly ready: boolean;
  readonly state?: { readonly waiting?: { readonly reason?: string; readonly message?: string } };
  readonly lastState?: { readonly terminated?: { readonly message?: string } };
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

/** Why a pod is not ready, as far as Kubernetes knows; with the last word of a container that ended. */
export function whyNotReady(pod: PodObject): string {
  const unready = (pod.status?.containerStatuses ?? []).filter(({ ready }) => !ready);
  const reasons = unready.map(({ name, state, lastState }) => {
    const { reason = 'not ready', message = '' } = state?.waiting ?? {};
    const last = lastWord(lastState?.terminated?.message);
    return [name, reason, last ?? message].filter((part) => part !== '').join(': ');
  });
  const unscheduled = conditionOf(pod, 'PodScheduled');
  if (unscheduled?.status === 'False') reasons.push(unscheduled.message ?? 'not scheduled');
  return reasons.length === 0 ? 'not ready' : reasons.join('; ');
}

/** The last line of its log, without the form that programs give it. */
function lastWord(log = ''): string | undefined {
  const line = log.trim().split('\n').at(-1) ?? '';
  try {
    const { msg, error } = JSON.parse(line) as Readonly<Record<string, unknown>>;
    return [msg, error].filter((part) => typeof part === 'string').join(': ');
  } catch {
    return line === '' ? undefined : line;
  }
}

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
