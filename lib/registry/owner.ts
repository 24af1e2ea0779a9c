// SPDX-License-Identifier: Apache-2.0
// The workload that a pod belongs to, as metrics name it: a ReplicaSet's Deployment and a Job's CronJob in their place; no
// owner when there are several controllers or none.

import type { Job, ObjectMeta, Pod, ReplicaSet } from './model.ts';

export interface Owner {
  /** deployment, statefulset, daemonset, replicaset, replicationcontroller, k8s_job, cronjob, or empty. */
  readonly kind: string;
  readonly name: string;
}

const NONE: Owner = { kind: '', name: '' };

const labels: Readonly<Record<string, string>> = {
  Deployment: 'deployment',
  StatefulSet: 'statefulset',
  DaemonSet: 'daemonset',
  ReplicaSet: 'replicaset',
  ReplicationController: 'replicationcontroller',
  Job: 'k8s_job',
  CronJob: 'cronjob',
};

/** Has an owner in its turn. */
export type OwnedOwner = ReplicaSet | Job;

/** `find` looks in the pod's namespace; where it finds no ReplicaSet, the Deployment is read from the names. */
export function ownerOf(
  pod: Pod,
  find: (kind: OwnedOwner['kind'], name: string) => Pick<OwnedOwner, 'metadata'> | undefined,
): Owner {
  const direct = controllerOf(pod.metadata);
  if (direct === undefined) return NONE;
  const { kind, name } = direct;
  if (kind !== 'ReplicaSet' && kind !== 'Job') return named(kind, name);
  const above = find(kind, name);
  const owner = above && controllerOf(above.metadata);
  if (owner !== undefined) return named(owner.kind, owner.name);
  const hash = pod.metadata.labels['pod-template-hash'];
  if (above === undefined && kind === 'ReplicaSet' && hash !== undefined && name.endsWith(`-${hash}`)) {
    return named('Deployment', name.slice(0, -hash.length - 1));
  }
  return named(kind, name);
}

/** Whether a pod's owner may be named by it. */
export const isOwnedBy = ({ metadata }: Pod, owner: OwnedOwner): boolean =>
  metadata.ownerReferences.some(({ kind, name }) => kind === owner.kind && name === owner.metadata.name);

const named = (kind: string, name: string): Owner => {
  const label = labels[kind];
  return label === undefined ? NONE : { kind: label, name };
};

function controllerOf(metadata: ObjectMeta): { readonly kind: string; readonly name: string } | undefined {
  const controllers = metadata.ownerReferences.filter((owner) => owner.controller);
  if (controllers.length === 1) return controllers[0];
  return metadata.ownerReferences.length === 1 ? metadata.ownerReferences[0] : undefined;
}
