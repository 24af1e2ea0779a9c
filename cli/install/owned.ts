// SPDX-License-Identifier: Apache-2.0
// The objects in a cluster that carry our label, for uninstall and prune: nothing else is ever named for deletion.

import { CONTROL_PLANE_LABEL } from '../../install/objects/common.ts';
import type { Cluster } from './cluster.ts';

export interface KindPath {
  readonly apiVersion: string;
  readonly kind: string;
  /** Of all namespaces. */
  readonly path: string;
  /** Only those in the install namespace are ours, whatever label others have. */
  readonly inside?: boolean;
}

/** Enough for kubectl delete. */
export interface MinimalObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
}

const core = (kind: string, plural: string): KindPath => ({
  apiVersion: 'v1',
  kind,
  path: `/api/v1/${plural}`,
});
const grouped = (apiVersion: string, kind: string, plural: string): KindPath => ({
  apiVersion,
  kind,
  path: `/apis/${apiVersion}/${plural}`,
});

const RBAC = 'rbac.authorization.k8s.io/v1';
const ADMISSION = 'admissionregistration.k8s.io/v1';

export const definitionsKind = grouped(
  'apiextensions.k8s.io/v1',
  'CustomResourceDefinition',
  'customresourcedefinitions',
);
export const namespaceKind = core('Namespace', 'namespaces');

/** In Linkerd's order. */
export const clusterKinds: readonly KindPath[] = [
  grouped(RBAC, 'ClusterRole', 'clusterroles'),
  grouped(RBAC, 'ClusterRoleBinding', 'clusterrolebindings'),
  grouped(RBAC, 'Role', 'roles'),
  grouped(RBAC, 'RoleBinding', 'rolebindings'),
  grouped('apiregistration.k8s.io/v1', 'APIService', 'apiservices'),
  grouped(ADMISSION, 'MutatingWebhookConfiguration', 'mutatingwebhookconfigurations'),
  grouped(ADMISSION, 'ValidatingWebhookConfiguration', 'validatingwebhookconfigurations'),
];

/** What goes with the namespace. */
export const workloadKinds: readonly KindPath[] = [
  grouped('apps/v1', 'DaemonSet', 'daemonsets'),
  grouped('apps/v1', 'Deployment', 'deployments'),
  grouped('batch/v1', 'CronJob', 'cronjobs'),
  grouped('batch/v1', 'Job', 'jobs'),
  core('Service', 'services'),
  grouped('policy/v1', 'PodDisruptionBudget', 'poddisruptionbudgets'),
  grouped('coordination.k8s.io/v1', 'Lease', 'leases'),
  core('ConfigMap', 'configmaps'),
  core('Secret', 'secrets'),
  core('ServiceAccount', 'serviceaccounts'),
].map((kind) => ({ ...kind, inside: true }));

/** Where one object of the kind is. */
export const objectPath = (kind: KindPath, namespace: string, name: string): string =>
  `${kind.path.replace(/\/([a-z]+)$/, `/namespaces/${namespace}/$1`)}/${name}`;

/** Of one kind, those of the mesh in `namespace`. */
export async function owned(cluster: Cluster, kind: KindPath, namespace: string): Promise<MinimalObject[]> {
  const found = (await cluster.list(kind.path, `${CONTROL_PLANE_LABEL}=${namespace}`)) ?? [];
  return found
    .filter(({ metadata }) => kind.inside !== true || metadata.namespace === namespace)
    .map(({ metadata }) => ({
      apiVersion: kind.apiVersion,
      kind: kind.kind,
      metadata: {
        name: metadata.name,
        ...(metadata.namespace === undefined ? {} : { namespace: metadata.namespace }),
      },
    }))
    .sort((a, b) => compare(nameOf(a), nameOf(b)));
}

export async function ownedOf(
  cluster: Cluster,
  kinds: readonly KindPath[],
  namespace: string,
): Promise<MinimalObject[]> {
  const objects: MinimalObject[] = [];
  for (const kind of kinds) objects.push(...(await owned(cluster, kind, namespace)));
  return objects;
}

const nameOf = ({ metadata }: MinimalObject): string => `${metadata.namespace ?? ''}/${metadata.name}`;
const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
