// SPDX-License-Identifier: Apache-2.0
// `mesh uninstall`: prints what is ours, for kubectl delete. CRDs stay unless they are asked for: with them go all
// policies and profiles of the cluster.

import { AGENT_NAME } from '../../install/objects/agent.ts';
import { type OutputFormat, printObjects } from '../../install/print.ts';
import type { Cluster, ClusterObject } from './cluster.ts';
import { instancesOf } from './instances.ts';
import { clusterKinds, definitionsKind, namespaceKind, owned, ownedOf, workloadKinds } from './owned.ts';
import { Refusal } from './refusal.ts';

export interface UninstallArguments {
  readonly cluster: Cluster;
  readonly namespace: string;
  readonly output: OutputFormat;
  readonly crds: boolean;
  readonly force: boolean;
  readonly note: (line: string) => void;
}

const ENROLLED_CONDITION = 'nodemesh.io/Enrolled';

export async function uninstall(options: UninstallArguments): Promise<string> {
  const { cluster, namespace } = options;
  if (!options.force) await refuseWhileUsed(cluster, namespace);
  const namespaces = await owned(cluster, namespaceKind, namespace);
  const definitions = options.crds ? await owned(cluster, definitionsKind, namespace) : [];
  const instances = await instancesOf(cluster, definitions);
  if (instances.length > 0)
    options.note(`With the CRDs go all objects of their kinds: ${instances.join(', ')}`);
  const objects = [
    ...(await ownedOf(cluster, clusterKinds, namespace)),
    ...definitions,
    // Helm's installations have a namespace that is not ours, and which stays.
    ...(namespaces.length > 0 ? namespaces : await ownedOf(cluster, workloadKinds, namespace)),
  ];
  if ((await cluster.get(`/apis/apps/v1/namespaces/${namespace}/daemonsets/${AGENT_NAME}`)) !== undefined) {
    options.note(
      'Agents run on the nodes: what they leave there stays until `mesh uninstall-cni`, best run before this.',
    );
  }
  if (objects.length === 0) options.note('No resources found to uninstall');
  return printObjects(objects, options.output);
}

interface PodObject extends ClusterObject {
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/** Pods in the mesh would lose it with their next connection. */
export async function refuseWhileUsed(cluster: Cluster, namespace: string): Promise<void> {
  const pods = ((await cluster.list('/api/v1/pods')) ?? []) as readonly PodObject[];
  const enrolled = pods.filter(
    ({ metadata, status }) =>
      metadata.namespace !== namespace &&
      status?.conditions?.some(({ type, status: is }) => type === ENROLLED_CONDITION && is === 'True') ===
        true,
  );
  if (enrolled.length === 0) return;
  const names = enrolled.map(({ metadata }) => `\t* ${metadata.namespace ?? ''}/${metadata.name}`);
  throw new Refusal(
    `Please take the following pods out of the mesh (linkerd.io/inject=disabled) before uninstalling the control-plane, or use --force:\n${names.join('\n')}`,
  );
}
