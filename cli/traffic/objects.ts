// SPDX-License-Identifier: Apache-2.0
// The objects that rows are about, and how many of their pods are in the mesh.

import { MeshError } from '#lib/core/errors.ts';
import { ENROLLED_CONDITION, type Job, type Pod } from '#lib/registry/model.ts';
import { ownerOf } from '#lib/registry/owner.ts';
import { parseResource } from '#lib/registry/resource-schema.ts';
import type { PodObject } from '../check/objects.ts';
import type { Cluster, ClusterObject } from '../install/cluster.ts';
import { isNamespace, type Target, type TrafficKind } from './kinds.ts';

/** Of injected pods: they are of the same mesh. */
const SIDECAR_LABEL = 'linkerd.io/control-plane-ns';

export interface TrafficPod {
  readonly namespace: string;
  readonly name: string;
  /** As kubectl says it. */
  readonly status: string;
  readonly account: string;
  /** The label and name of its owner in series. */
  readonly owner: { readonly kind: string; readonly name: string };
  readonly meshed: boolean;
  /** Pending or running, and not being deleted. */
  readonly running: boolean;
  readonly completed: boolean;
}

const listPath = (group: string, plural: string, namespace: string | undefined): string =>
  namespace === undefined ? `${group}/${plural}` : `${group}/namespaces/${namespace}/${plural}`;

/** Those that are named, which must exist; else all. */
export async function listObjects(
  cluster: Cluster,
  { kind, names }: Target,
  namespace: string | undefined,
  selector: string | undefined,
): Promise<readonly ClusterObject[]> {
  const path = listPath(kind.group, kind.plural, isNamespace(kind) ? undefined : namespace);
  if (names.length === 0) return (await cluster.list(path, selector)) ?? [];
  return await Promise.all(
    names.map(async (name) => {
      const found = await cluster.get(`${path}/${name}`);
      if (found !== undefined) return found;
      const place = isNamespace(kind) ? '' : ` in namespace ${namespace ?? ''}`;
      throw new MeshError('MESH_NOT_FOUND', `there is no ${kind.name} ${name}${place}`, {
        remedy: isNamespace(kind) ? 'look at its name' : 'look at its name and at --namespace',
      });
    }),
  );
}

export async function listPods(
  cluster: Cluster,
  namespace: string | undefined,
): Promise<readonly TrafficPod[]> {
  const pods = (await cluster.list(listPath('/api/v1', 'pods', namespace))) ?? [];
  const parsed = pods.map((object) => ({ object, pod: parsePod(object) }));
  const ofJobs = parsed.some(({ pod }) => pod?.metadata.ownerReferences.some(({ kind }) => kind === 'Job'));
  const jobs = ofJobs ? await listJobs(cluster, namespace) : NO_JOBS;
  return parsed.map(({ object, pod }) => readPod(object, pod, jobs));
}

/** By namespace and name. */
type Jobs = ReadonlyMap<string, Job>;

const NO_JOBS: Jobs = new Map();

/** Series of their pods name the CronJob that made them. */
async function listJobs(cluster: Cluster, namespace: string | undefined): Promise<Jobs> {
  const objects = (await cluster.list(listPath('/apis/batch/v1', 'jobs', namespace))) ?? [];
  return new Map(
    objects.flatMap((object) => {
      const parsed = parseResource('Job', object, 'local');
      if (!parsed.ok || parsed.resource.kind !== 'Job') return [];
      const { metadata } = parsed.resource;
      return [[`${metadata.namespace}/${metadata.name}`, parsed.resource]];
    }),
  );
}

function parsePod(object: ClusterObject): Pod | undefined {
  // Items of a list do not say what they are.
  const parsed = parseResource('Pod', { apiVersion: 'v1', kind: 'Pod', ...object }, 'local');
  return parsed.ok && parsed.resource.kind === 'Pod' ? parsed.resource : undefined;
}

function readPod(object: ClusterObject, pod: Pod | undefined, jobs: Jobs): TrafficPod {
  const { metadata, status = {} } = object as PodObject;
  const terminating = 'deletionTimestamp' in metadata;
  const phase = status.phase ?? '';
  return {
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    status: terminating ? 'Terminating' : statusOf(object),
    account: pod?.spec.serviceAccountName ?? 'default',
    owner:
      pod === undefined
        ? { kind: '', name: '' }
        : ownerOf(pod, (kind, name) =>
            kind === 'Job' ? jobs.get(`${pod.metadata.namespace}/${name}`) : undefined,
          ),
    meshed:
      metadata.labels?.[SIDECAR_LABEL] !== undefined ||
      (status.conditions ?? []).some(({ type, status: is }) => type === ENROLLED_CONDITION && is === 'True'),
    running: ['Pending', 'Running'].includes(phase) && !terminating,
    completed: phase === 'Succeeded',
  };
}

interface StatusFields {
  readonly phase?: string;
  readonly reason?: string;
  readonly containerStatuses?: readonly {
    readonly state?: {
      readonly waiting?: { readonly reason?: string };
      readonly terminated?: { readonly reason?: string };
    };
  }[];
}

/** What holds a container up says more than the phase. */
function statusOf(object: ClusterObject): string {
  const { phase, reason, containerStatuses = [] } = (object['status'] ?? {}) as StatusFields;
  const held = containerStatuses
    .map(({ state }) => state?.waiting?.reason ?? state?.terminated?.reason)
    .find((one) => one !== undefined);
  return held ?? reason ?? phase ?? 'Unknown';
}

/** The pods of a row. */
export function podsOf(
  kind: TrafficKind,
  row: { readonly namespace: string; readonly name: string },
  pods: readonly TrafficPod[],
): readonly TrafficPod[] {
  if (isNamespace(kind)) return pods.filter(({ namespace }) => namespace === row.name);
  const own = pods.filter(({ namespace }) => namespace === row.namespace);
  if (kind.name === 'pod') return own.filter(({ name }) => name === row.name);
  return own.filter(({ owner }) => owner.kind === kind.label && owner.name === row.name);
}
