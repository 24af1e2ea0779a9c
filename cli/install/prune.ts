// SPDX-License-Identifier: Apache-2.0
// `mesh prune`: what is ours in the cluster but no longer part of this version, for kubectl delete.

import { renderObjects } from '../../install/render-objects.ts';
import { definitionGroups } from '../../install/crds/definitions.ts';
import { cniObjects } from '../../install/cni.ts';
import { cniValues } from '../../install/cni-values-table.ts';
import { controlPlaneObjects } from '../../install/manifest.ts';
import { type OutputFormat, printObjects } from '../../install/print.ts';
import { checkValues } from '../../install/values.ts';
import type { Cluster } from './cluster.ts';
import { clusterKinds, definitionsKind, type MinimalObject, ownedOf, workloadKinds } from './owned.ts';
import { overridesInCluster } from './stored.ts';

export interface PruneArguments {
  readonly cluster: Cluster;
  readonly namespace: string;
  readonly output: OutputFormat;
  readonly version: string;
}

const NO_OVERRIDES =
  'Please note this command is only intended for instances of nodemesh that were installed via the CLI';

/** Group, kind, namespace and name: versions of one object are the same object. */
const keyOf = ({ apiVersion, kind, metadata }: MinimalObject): string =>
  `${apiVersion.includes('/') ? apiVersion.split('/')[0] : ''}/${kind}/${metadata.namespace ?? ''}/${metadata.name}`;

export async function prune(options: PruneArguments): Promise<string> {
  const { cluster, namespace, version } = options;
  const { values } = checkValues(await overridesInCluster(cluster, namespace, NO_OVERRIDES));
  const current = new Set(
    [
      ...controlPlaneObjects({ values, namespace, version }),
      // Their names are the same whatever their values are.
      ...cniObjects({ values: checkValues({}, cniValues).values, namespace, version }),
      ...renderObjects(definitionGroups, { values, namespace, creator: '' }),
    ].map(keyOf),
  );
  const kinds = [...workloadKinds, ...clusterKinds, definitionsKind];
  const found = (await ownedOf(cluster, kinds, namespace)).filter((object) => !current.has(keyOf(object)));
  return printObjects(found, options.output);
}
