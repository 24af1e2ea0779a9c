// SPDX-License-Identifier: Apache-2.0
// What Kubernetes' controllers and scheduler do, as far as a local mesh needs it: default ServiceAccounts, replicas
// of Deployments (rolling), a node for each pod, EndpointSlices with zones, the end of namespaces. One pass over the store, repeated after
// every change until nothing is left to do; each pass is synchronous.

import { createHash } from 'node:crypto';
import type { Random } from '#lib/core/clock.ts';
import { deleteObject } from './apply.ts';
import {
  type DeploymentObject,
  isTerminating,
  namespaceOf,
  type OwnerReference,
  type PodObject,
  podIsFinished,
  podIsReady,
  type ReplicaSetObject,
} from './objects.ts';
import { ensureEndpointSlices } from './endpoint-slices.ts';
import type { Store } from './store.ts';

export interface ControllerOptions {
  readonly random: Random;
  /** Nodes that take pods. */
  readonly schedulable: () => readonly string[];
}

const SUFFIX_LETTERS = 'bcdfghjklmnpqrstvwxz2456789';

function suffix(random: Random, length: number): string {
  let text = '';
  for (let index = 0; index < length; index++)
    text += SUFFIX_LETTERS[Math.floor(random() * SUFFIX_LETTERS.length)];
  return text;
}

export const templateHash = (deployment: DeploymentObject): string =>
  createHash('sha256').update(JSON.stringify(deployment.spec.template)).digest('hex').slice(0, 10);

const ownedBy = (uid: string) => (object: PodObject | ReplicaSetObject) =>
  object.metadata.ownerReferences?.some((owner) => owner.uid === uid) === true;

const owner = (apiVersion: string, kind: string, name: string, uid: string): OwnerReference => ({
  apiVersion,
  kind,
  name,
  uid,
  controller: true,
});

function ensureServiceAccounts(store: Store): void {
  for (const namespace of store.list('Namespace')) {
    const { name } = namespace.metadata;
    if (isTerminating(namespace) || store.get('ServiceAccount', name, 'default') !== undefined) continue;
    store.put({
      apiVersion: 'v1',
      kind: 'ServiceAccount',
      metadata: store.newMeta({ name: 'default', namespace: name }),
    });
  }
}

function finishNamespaces(store: Store): void {
  for (const namespace of store.list('Namespace')) {
    if (!isTerminating(namespace)) continue;
    if (!store.all().some((object) => namespaceOf(object) === namespace.metadata.name))
      store.remove(namespace);
  }
}

function ensureReplicaSet(store: Store, deployment: DeploymentObject): ReplicaSetObject {
  const { name, uid } = deployment.metadata;
  const namespace = namespaceOf(deployment);
  const hash = templateHash(deployment);
  const present = store.get('ReplicaSet', namespace, `${name}-${hash}`);
  if (present !== undefined) return present;
  const labels = { ...deployment.spec.template.metadata.labels, 'pod-template-hash': hash };
  const made: ReplicaSetObject = {
    apiVersion: 'apps/v1',
    kind: 'ReplicaSet',
    metadata: store.newMeta({
      name: `${name}-${hash}`,
      namespace,
      labels,
      ownerReferences: [owner('apps/v1', 'Deployment', name, uid)],
    }),
    spec: { replicas: deployment.spec.replicas, selector: { matchLabels: labels } },
  };
  store.put(made);
  return made;
}

function makeReplica(
  store: Store,
  deployment: DeploymentObject,
  set: ReplicaSetObject,
  random: Random,
): void {
  const { template } = deployment.spec;
  store.put({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: store.newMeta({
      name: `${set.metadata.name}-${suffix(random, 5)}`,
      namespace: namespaceOf(deployment),
      labels: set.metadata.labels,
      annotations: template.metadata.annotations,
      ownerReferences: [owner('apps/v1', 'ReplicaSet', set.metadata.name, set.metadata.uid)],
    }),
    spec: template.spec,
    status: { phase: 'Pending', conditions: [] },
  });
}

/** Pods that are least missed come first: not ready, then youngest. */
const byWorth = (a: PodObject, b: PodObject): number =>
  Number(podIsReady(a)) - Number(podIsReady(b)) ||
  b.metadata.creationTimestamp.localeCompare(a.metadata.creationTimestamp);

function runDeployment(store: Store, deployment: DeploymentObject, random: Random): void {
  const { replicas } = deployment.spec;
  const current = ensureReplicaSet(store, deployment);
  const sets = store.list('ReplicaSet').filter(ownedBy(deployment.metadata.uid));
  const pods = store.list('Pod');
  // A pod that has ended takes part no more and is replaced.
  for (const pod of pods) {
    if (podIsFinished(pod) && !isTerminating(pod) && sets.some((set) => ownedBy(set.metadata.uid)(pod))) {
      deleteObject(store, pod);
    }
  }
  const live = (set: ReplicaSetObject): PodObject[] =>
    pods.filter((pod) => ownedBy(set.metadata.uid)(pod) && !isTerminating(pod) && !podIsFinished(pod));
  const fresh = live(current).sort(byWorth);
  const stale = sets
    .filter((set) => set !== current && set.metadata.uid !== current.metadata.uid)
    .flatMap(live);
  const surge = Math.ceil(replicas / 4);
  const unavailable = Math.floor(replicas / 4);

  const room = replicas + surge - fresh.length - stale.length;
  const missing = Math.min(replicas - fresh.length, stale.length === 0 ? replicas : room);
  for (let index = 0; index < missing; index++) makeReplica(store, deployment, current, random);
  for (const pod of fresh.slice(0, Math.max(0, fresh.length - replicas))) deleteObject(store, pod);

  const ready = [...fresh, ...stale].filter(podIsReady).length;
  let spare = ready - (replicas - unavailable);
  for (const pod of stale.sort(byWorth)) {
    if (podIsReady(pod)) {
      if (spare <= 0) continue;
      spare--;
    }
    deleteObject(store, pod);
  }
  for (const set of sets) {
    if (set.metadata.uid !== current.metadata.uid && !pods.some(ownedBy(set.metadata.uid))) store.remove(set);
  }
  const present = store.get('Deployment', namespaceOf(deployment), deployment.metadata.name);
  if (present === undefined) return;
  const readyReplicas = [...fresh, ...stale].filter(podIsReady).length;
  const status = {
    replicas: fresh.length + stale.length,
    updatedReplicas: fresh.length,
    readyReplicas,
    availableReplicas: readyReplicas,
  };
  if (JSON.stringify(status) !== JSON.stringify(present.status)) store.put({ ...present, status });
}

/** The node with the fewest pods of the same owner, then with the fewest pods. */
function pickNode(store: Store, pod: PodObject, nodes: readonly string[]): string | undefined {
  const wanted = pod.spec.nodeSelector['kubernetes.io/hostname'];
  const candidates = wanted === undefined ? nodes : nodes.filter((node) => node === wanted);
  const ownerUid = pod.metadata.ownerReferences?.[0]?.uid;
  const others = store.list('Pod').filter((other) => !isTerminating(other));
  const load = (node: string): [number, number] => {
    const here = others.filter((other) => other.spec.nodeName === node);
    const siblings = here.filter((other) => ownerUid !== undefined && ownedBy(ownerUid)(other));
    return [siblings.length, here.length];
  };
  return candidates
    .map((node) => ({ node, load: load(node) }))
    .sort((a, b) => a.load[0] - b.load[0] || a.load[1] - b.load[1])[0]?.node;
}

function schedulePods(store: Store, nodes: readonly string[]): void {
  for (const pod of store.list('Pod')) {
    if (pod.spec.nodeName !== undefined) continue;
    if (isTerminating(pod)) {
      store.remove(pod);
      continue;
    }
    const account = store.get('ServiceAccount', namespaceOf(pod), pod.spec.serviceAccountName);
    const node = account === undefined ? undefined : pickNode(store, pod, nodes);
    if (node !== undefined) {
      store.put({ ...pod, spec: { ...pod.spec, nodeName: node } });
      continue;
    }
    const message =
      account === undefined
        ? `there is no ServiceAccount ${pod.spec.serviceAccountName} in ${namespaceOf(pod)}`
        : 'no node takes this pod yet';
    store.updatePodStatus(pod, (status) => (status.message === message ? status : { ...status, message }));
  }
}

/** One pass. Its own changes cause the next one. */
export function reconcile(store: Store, options: ControllerOptions): void {
  ensureServiceAccounts(store);
  for (const deployment of store.list('Deployment')) runDeployment(store, deployment, options.random);
  schedulePods(store, options.schedulable());
  ensureEndpointSlices(store);
  finishNamespaces(store);
}

/** Runs `pass` soon after every change, once for many changes. */
export function afterChanges(
  store: Store,
  pass: () => void,
): { readonly trigger: () => void; readonly close: () => void } {
  let pending: NodeJS.Immediate | undefined;
  const trigger = (): void => {
    pending ??= setImmediate(() => {
      pending = undefined;
      pass();
    });
  };
  const unsubscribe = store.subscribe(trigger);
  trigger();
  return {
    trigger,
    close: () => {
      unsubscribe();
      clearImmediate(pending);
    },
  };
}
