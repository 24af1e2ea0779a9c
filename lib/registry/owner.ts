// SPDX-License-Identifier: Apache-2.0
// The workload that a pod belongs to, as metrics name it: a ReplicaSet's Deployment in its place; no owner when there are
// several controllers or none. Jobs are not watched: pods of a CronJob belong to their Job.

import type { ObjectMeta, Pod, ReplicaSet } from './model.ts';

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

/** `replicaSet` finds one of the pod's namespace; without it the Deployment is read from the names. */
export function ownerOf(pod: Pod, replicaSet: (name: string) => ReplicaSet | undefined): Owner {
  const direct = controllerOf(pod.metadata);
  if (direct === undefined) return NONE;
  if (direct.kind !== 'ReplicaSet') return named(direct.kind, direct.name);
  const above = replicaSet(direct.name);
  const deployment = above && controllerOf(above.metadata);
  if (deployment !== undefined) return named(deployment.kind, deployment.name);
  const hash = pod.metadata.labels['pod-template-hash'];
  if (above === undefined && hash !== undefined && direct.name.endsWith(`-${hash}`)) {
    return named('Deployment', direct.name.slice(0, -hash.length - 1));
  }
  return named('ReplicaSet', direct.name);
}

const named = (kind: string, name: string): Owner => {
  const label = labels[kind];
  return label === undefined ? NONE : { kind: label, name };
};

function controllerOf(metadata: ObjectMeta): { readonly kind: string; readonly name: string } | undefined {
  const controllers = metadata.ownerReferences.filter((owner) => owner.controller);
  if (controllers.length === 1) return controllers[0];
  return metadata.ownerReferences.length === 1 ? metadata.ownerReferences[0] : undefined;
}
